"""
Write a trained model the way Hugging Face keeps a GPT-2 or a Llama: weights, config.json, and the tokenizer.

    python -m pretrained.export out/gsm8k/best.pt my_model
    python -m pretrained.export out/hops assets/hops.pt    # NAME.pt: as our own checkpoint, a small one

Then, anywhere: transformers.AutoModelForCausalLM.from_pretrained("my_model"), and AutoTokenizer likewise. To let it
think there, feed its hidden states back with inputs_embeds=, as coconut.py does; docs/weights.md shows the loop. How it
thinks is noted in config.json, and weights that nobody else knows are in thinking.safetensors: weights.py reads both.

NAME.pt has the weights in half precision and nothing of the training; a few questions of its test file, NAME.json,
come with it, so that `python sample.py assets/hops.pt` needs no data.
"""

if not __package__:
    raise SystemExit("error: call it as python -m pretrained.export, from the project's folder")

import dataclasses
import json
import os
import sys
from contextlib import suppress

import data
from checkpoint import FORMAT, find_checkpoint, load_checkpoint, questions_for, write_checkpoint
from config import TrainConfig, UserError, cli, replacing
from curriculum import config_class
from model import GPT, is_projection
from pretrained.hf_tokenizer import write_json, write_tokenizer_json
from pretrained.llama import NAMES
from pretrained.weights import THINKING
from tokenizer import EOS

# what else an export may have left in a folder
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
OTHERS = [
    THINKING,
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
]
QUESTIONS = 30  # beside a small checkpoint: as many as explore.py shows


def write_safetensors(path, tensors):
    """The counterpart of model.read_safetensors: {name: tensor} to a file, in float32."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        start, end = end, end + t.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned
    with replacing(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            f.write(t.detach().float().cpu().contiguous().numpy().tobytes())


def as_gpt2(base):
    """({name: tensor}, config.json) of a GPT, as transformers has them."""
    c = base.config
    tensors = {f"transformer.{name}": t.T if is_projection(name) else t for name, t in base.state_dict().items()}
    return tensors, {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "vocab_size": c.vocab_size,
        "n_positions": c.block_size, "attn_pdrop": c.dropout, "embd_pdrop": c.dropout, "resid_pdrop": c.dropout,
    }  # fmt: skip


def as_llama(base):
    """The same of a Llama. UserError for one with both Qwen2.5's biases and Qwen3's norms: no class there has both."""
    c = base.config
    if c.qkv_bias and c.qk_norm:
        raise UserError("qkv_bias together with qk_norm: Hugging Face has no such model")
    kind = "Qwen2" if c.qkv_bias else "Qwen3" if c.qk_norm else "Llama"
    tensors = {k if k.startswith("lm_head.") else f"model.{k}": t for k, t in base.state_dict().items()}
    config = {name: getattr(c, field) for name, field in NAMES.items()}
    if c.rope_scaling:
        config["rope_scaling"] = {"rope_type": "llama3"} | c.rope_scaling
    return tensors, config | {
        "architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower(), "dtype": "float32",
        "attention_dropout": c.dropout, "tie_word_embeddings": c.tie,
    }  # fmt: skip


def export(base, tok, folder, **noted):
    """A base model and its tokenizer to a folder that transformers reads, and we do; noted: further in config.json."""
    tensors, config = as_gpt2(base) if isinstance(base, GPT) else as_llama(base)
    eos = tok.encode_single_token(EOS)
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    config |= {"bos_token_id": [*tok.bos, eos][0], "eos_token_id": eos}
    write_json(os.path.join(folder, "config.json"), config | noted)
    try:
        write_tokenizer_json(tok, folder)
        stale = OTHERS
    except NotImplementedError as e:  # the weights are good all the same
        print(f"no tokenizer written: {e}", file=sys.stderr)
        stale = OTHERS + TOKENIZER
    for name in stale:  # of an earlier export: another model's would be worse than none
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def thinking(cfg):
    """How a model thinks: the method, what is fed back, and the method's own settings."""
    fields = dataclasses.fields(config_class({"method": cfg.method}))
    own = {f.name for f in fields} - {f.name for f in dataclasses.fields(TrainConfig)}
    return {name: getattr(cfg, name) for name in ("method", "feedback", *sorted(own))}


def shrink(saved):
    """The dict of a checkpoint without what only training needs, its weights in half precision."""
    kept = {name: saved[name] for name in ("config", "base", "pieces", "longest", "stage")}
    return kept | {"format": FORMAT, "model": {name: t.half() for name, t in saved["model"].items()}}


def write_small(to, saved, problems):
    """Write a small checkpoint, NAME.pt, and a few of the problems, NAME.json."""
    folder, name = os.path.split(os.path.join(".", to))  # "." if it names no folder
    write_checkpoint(os.path.join(folder, name), shrink(saved))
    data.write_files(folder, {name.removesuffix(".pt"): problems[:QUESTIONS]})


def main(argv):
    if argv in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    for path in argv:
        if path.startswith("-"):
            plain = path.lstrip("-")
            hint = f"; did you mean {plain}?" if os.path.exists(plain) else ""
            raise UserError(f"{path}: there are no options, only a checkpoint and a folder{hint}")
    if len(argv) != 2:
        raise UserError("expected two arguments, a checkpoint and a folder: python -m pretrained.export --help")
    path, folder = find_checkpoint(argv[0]), argv[1]
    model, cfg, tok, saved = load_checkpoint(path)
    if folder.endswith(".pt"):
        write_small(folder, saved, data.load_json(questions_for(path, cfg)))
        print(f"{folder}, and beside it {QUESTIONS} questions or fewer, NAME.json")
        return
    export(model.base, tok, folder, nanococonut=thinking(cfg))
    own = {name: t for name, t in model.state_dict().items() if not name.startswith("base.")}
    if own:
        write_safetensors(os.path.join(folder, THINKING), own)
    print(f"{folder}: {', '.join(sorted(os.listdir(folder)))}")


if __name__ == "__main__":
    cli(main)
