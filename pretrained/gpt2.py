"""
A GPT-2 in other people's files: Hugging Face folders, checkpoints of the official Coconut code, nanoGPT's.

Whatever kind of file it is, hub.unwrap gives a flat {name: tensor} with the names of OpenAI's files ("wte.weight",
"h.0.attn.c_attn.weight", ...), and model.GPT.from_tensors makes a model of it.
"""

import re
import sys

import torch

from model import COMPUTED, GPT, is_projection
from pretrained.hub import one_line, read, refuse, some, unwrap


def orient(tensors, config):
    """The tensors as in OpenAI's files: matrices of nn.Linear are turned, nanoGPT's missing biases are zeros."""
    first = tensors.get("h.0.attn.c_attn.weight")
    if first is not None and first.dim() == 2 and first.size(0) == 3 * first.size(1):  # nn.Linear's (out, in)
        tensors = {name: t.T if is_projection(name) and t.dim() == 2 else t for name, t in tensors.items()}
    if config.get("bias") is False and not any(name.endswith(".bias") for name in tensors):
        for name in [*tensors]:
            if name.endswith(".weight") and re.search(r"ln_|c_attn|c_proj|c_fc", name):
                tensors[name.removesuffix("weight") + "bias"] = torch.zeros(tensors[name].shape[-1])
    return tensors


def read_gpt2(source, dropout=0.0):
    """The GPT of whatever `source` is: hf:owner/name[@revision], a folder, a .safetensors file, a torch.save file.

    UserError if it is not exactly a GPT-2. What else there is, is left out and named.
    """
    found, config, where = read(source)
    refuse(config, where, COMPUTED)
    with one_line(source, found, "a GPT-2"):
        if any("self_attn.q_proj.weight" in str(name) for name in found):
            raise ValueError("named as a Llama's, of which a config.json should say the model_type and the sizes")
        tensors, others = unwrap(found, "wpe.weight", "wte.weight")
        for name in ("wte.weight", "wpe.weight"):
            if name not in tensors or tensors[name].dim() != 2 or not tensors[name].numel():
                raise ValueError(f"expected a matrix {name} of real numbers")
        wte, wpe = tensors["wte.weight"], tensors["wpe.weight"]
        n_layer = len({k.split(".")[1] for k in tensors if re.match(r"h\.\d+\.", k)})
        sizes = {"n_layer": n_layer, "n_embd": wte.size(1), "vocab_size": len(wte)}
        sizes |= {"n_positions": len(wpe), "block_size": len(wpe)}
        refuse(config, where, {name: (size,) for name, size in sizes.items()})  # else it is another model's
        model = GPT.from_tensors(orient(tensors, config), config.get("n_head"), source, dropout)
    if others:
        print(f"{source}: left out, since a GPT-2 has no such parts: {some(others)}", file=sys.stderr)
    if "bias" in config:
        print(f"{source}: nanoGPT's GELU is exact, GPT-2's an approximation: outputs differ a little", file=sys.stderr)
    return model
