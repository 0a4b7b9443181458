"""
A GPT-2 in other people's files: Hugging Face folders, checkpoints of the official Coconut code, nanoGPT's.

Whatever kind of file it is, find_gpt2 gives a flat {name: tensor} with the names of OpenAI's files ("wte.weight",
"h.0.attn.c_attn.weight", ...), and model.GPT.from_tensors makes a model of it.
"""

import re
import sys

import torch

from config import UserError
from model import COMPUTED, GPT, is_projection
from pretrained.hub import describe, find, is_weight, read_json, read_tensors, some

# what torch.compile, DistributedDataParallel, FSDP and activation checkpointing put into names, anywhere
WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def find_gpt2(found):
    """({name: tensor} of the GPT-2 among what was found, with OpenAI's names; the names of all the rest).

    Other programs put words before GPT-2's names, in any order; where wpe.weight is, the others are. The tied matrix
    may be stored as wte.weight, or as the head, or as both. ValueError if this is not clear.
    """
    plain = {WRAPPER.sub("", str(name)): t for name, t in found.items()}
    if len(plain) < len(found):
        raise ValueError("some tensors have the same name but for a prefix")
    starts = [name.removesuffix("wpe.weight") for name in plain if re.search(r"(^|\.)wpe\.weight$", name)]
    starts = [start for start in starts if "base_causallm." in start] or starts  # Coconut's base, beside a decoder
    if len(starts) != 1:
        raise ValueError(f"expected one wpe.weight, found {len(starts)}{' behind ' * bool(starts)}{some(starts)}")
    start, tensors, others = starts[0], {}, []
    above = [start[: m.end()] for m in re.finditer(r"^|\.", start)]  # such as "", "base_causallm.", and start itself
    heads = {name: plain.pop(name) for name in [a + "lm_head.weight" for a in above] if name in plain}
    copies = {name: plain.pop(name) for name in [a + "embedding.weight" for a in above] if name in plain}
    for name, t in plain.items():
        own = name.removeprefix(start)
        if not name.startswith(start):
            others.append(name)
        elif not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", own):  # the causal mask
            tensors[own] = t
    for name, t in {**heads, **copies}.items():
        wte = tensors.setdefault("wte.weight", t)
        if not (is_weight(t) and is_weight(wte) and torch.equal(t.float(), wte.float())):
            if name in heads:
                raise ValueError(f"{name} differs from wte.weight, but a GPT-2's head is tied")
            others.append(name)
    for name in ("wte.weight", "wpe.weight"):
        if not is_weight(tensors.get(name)) or tensors[name].dim() != 2 or not tensors[name].numel():
            raise ValueError(f"expected a matrix {name} of real numbers")
    return tensors, others


def check_config(config, path, shape):
    """UserError if a config says something else than what model.py computes, or than the shapes of the weights."""
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected {{name: value}}")
    for name, known in COMPUTED.items():
        if config.get(name, known[0]) not in known:
            raise UserError(f"{path}: {name} is {config[name]!r}, but GPT-2 has {known[0]!r}")
    for name, true in {**shape, "n_positions": shape["block_size"]}.items():
        if config.get(name, true) != true:
            raise UserError(f"{path}: {name} is {config[name]!r}, but the weights have {true}: another model's config?")


def orient(tensors, config):
    """The tensors as in OpenAI's files: matrices of nn.Linear are turned, nanoGPT's missing biases are zeros."""
    first = tensors.get("h.0.attn.c_attn.weight")
    if is_weight(first) and first.dim() == 2 and first.size(0) == 3 * first.size(1):  # nn.Linear's (out, in)
        turned = {name: t for name, t in tensors.items() if is_projection(name) and is_weight(t) and t.dim() == 2}
        tensors = tensors | {name: t.T for name, t in turned.items()}
    if config.get("bias") is False and not any(name.endswith(".bias") for name in tensors):
        for name in [*tensors]:
            if name.endswith(".weight") and re.search(r"ln_|c_attn|c_proj|c_fc", name):
                tensors[name.removesuffix("weight") + "bias"] = torch.zeros(tensors[name].shape[-1])
    return tensors


def read_gpt2(source, dropout=0.0):
    """The GPT of whatever `source` is: hf:owner/name[@revision], a folder, a .safetensors file, a torch.save file.

    UserError if it is not exactly a GPT-2. What else there is, is left out and named.
    """
    paths, config_path = find(source)
    found, config = {}, {}
    for path in paths:
        more, config = read_tensors(path)
        found.update(more)
    if "n_head" in config or not config_path:
        config_path = source
    else:
        config = read_json(config_path)
    try:
        tensors, others = find_gpt2(found)
        wte, wpe = tensors["wte.weight"], tensors["wpe.weight"]
        n_layer = len({k.split(".")[1] for k in tensors if re.match(r"h\.\d+\.", k)})
        shape = {"n_layer": n_layer, "n_embd": wte.size(1), "block_size": len(wpe), "vocab_size": len(wte)}
        check_config(config, config_path, shape)
        weights = {name: t for name, t in orient(tensors, config).items() if is_weight(t)}
        model = GPT.from_tensors(weights, config.get("n_head"), source, dropout)
    except UserError:
        raise
    except ValueError as e:
        why = str(e).removeprefix(f"{source}: ").removeprefix("not the weights of a GPT-2: ")
        odd_first = sorted(found.items(), key=lambda item: is_weight(item[1]))
        names = some(f"{name} {describe(t)}" for name, t in odd_first)
        raise UserError(f"{source}: not the weights of a GPT-2: {why}; in the file: {names}") from None
    others += [name for name in tensors if name not in weights]
    if others:
        print(f"{source}: left out, since a GPT-2 has no such parts: {some(others)}", file=sys.stderr)
    if "bias" in config:
        print(f"{source}: nanoGPT's GELU is exact, GPT-2's an approximation: outputs differ a little", file=sys.stderr)
    return model
