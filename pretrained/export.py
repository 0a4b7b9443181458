"""
Write a trained model the way Hugging Face keeps a GPT-2 or a Llama: weights, config.json, and the tokenizer.

The way back is weights.py.

    python -m pretrained.export out/gsm8k/best.pt my_model

Then, anywhere: transformers.GPT2LMHeadModel.from_pretrained("my_model"), and GPT2Tokenizer likewise; for a Llama
AutoModelForCausalLM and AutoTokenizer. To let it think there, feed its hidden states back with inputs_embeds=, as
coconut.py does; docs/weights.md shows the loop.
"""

if not __package__:
    raise SystemExit("error: call it as python -m pretrained.export, from the project's folder")

import json
import os
import sys
from contextlib import suppress

import tiktoken

from checkpoint import THINKING, find_checkpoint, load_checkpoint
from coconut import Coconut
from config import UserError, cli
from pretrained.hf_tokenizer import byte_letters, split_pair, write_tokenizer_json
from pretrained.weights import is_projection, write_safetensors
from tokenizer import EOS, SPECIALS


def write_tokenizer(folder, context):
    """vocab.json, merges.txt and the three added tokens, all from tiktoken's gpt2."""
    letters = byte_letters()
    ranks = tiktoken.get_encoding("gpt2")._mergeable_ranks

    def spell(token):
        return "".join(letters[b] for b in token)

    merges = [" ".join(map(spell, split_pair(t, ranks))) for t in sorted(ranks, key=ranks.get) if len(t) > 1]
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    eos, *added = specials
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    files = {
        "vocab.json": {**{spell(t): rank for t, rank in ranks.items()}, eos: specials[eos]},
        "added_tokens.json": {name: specials[name] for name in added},
        "special_tokens_map.json": {"bos_token": eos, "eos_token": eos, "unk_token": eos},
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": context,
            "add_prefix_space": False,
            "bos_token": eos,
            "eos_token": eos,
            "unk_token": eos,
            "added_tokens_decoder": {str(i): {"content": name, **flags} for name, i in specials.items()},
        },
    }
    for name, content in files.items():
        write_json(os.path.join(folder, name), content)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "\n".join(merges) + "\n")


# all that is written into a folder, by whatever model
WRITTEN = "model.safetensors", THINKING, "config.json", "tokenizer.json", "tokenizer_config.json"
WRITTEN += "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"


def export_gpt2(model, tok, folder):
    """A GPT2 and its tokenizer to a folder that GPT.from_pretrained and transformers read; float32."""
    c, eos = model.config, tok.encode_single_token(EOS)
    os.makedirs(folder, exist_ok=True)
    tensors = {f"transformer.{k}": t.T if is_projection(k) else t for k, t in parted(model)[0].items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    config = {
        **thinking(c),
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "vocab_size": c.vocab_size,
        "n_positions": c.block_size, "n_ctx": c.block_size, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        "bos_token_id": eos, "eos_token_id": eos,
        "attn_pdrop": c.dropout, "embd_pdrop": c.dropout, "resid_pdrop": c.dropout,
    }  # fmt: skip
    write_json(os.path.join(folder, "config.json"), config)
    if tok.name == "gpt2":
        write_tokenizer(folder, c.block_size)
    else:
        write_other_tokenizer(tok, folder)


def export_llama(model, tok, folder):
    """A LlamaBase and its tokenizer to a folder that LlamaBase.from_pretrained, load_tokenizer and transformers read.

    float32. UserError for a model with both Qwen2.5's biases and Qwen3's norms: no class of transformers has both.
    """
    c, eos = model.config, tok.encode_single_token(EOS)
    if c.qkv_bias and c.qk_norm:
        raise UserError("qkv_bias together with qk_norm: Hugging Face has no such model")
    name = "Qwen2" if c.qkv_bias else "Qwen3" if c.qk_norm else "Llama"
    os.makedirs(folder, exist_ok=True)
    tensors = {k if k.startswith("lm_head.") else f"model.{k}": t for k, t in parted(model)[0].items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    config = {"architectures": [f"{name}ForCausalLM"], "model_type": name.lower(), "dtype": "float32"}
    config |= {
        **thinking(c),
        "num_hidden_layers": c.n_layer, "num_attention_heads": c.n_head, "num_key_value_heads": c.n_kv_head,
        "head_dim": c.head_dim, "hidden_size": c.n_embd, "intermediate_size": c.n_inner, "vocab_size": c.vocab_size,
        "max_position_embeddings": c.block_size, "rope_theta": c.rope_theta, "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": c.dropout, "tie_word_embeddings": c.tie,
        "bos_token_id": eos, "eos_token_id": eos,
    }  # fmt: skip
    write_json(os.path.join(folder, "config.json"), config)
    write_other_tokenizer(tok, folder)


def write_other_tokenizer(tok, folder):
    try:
        write_tokenizer_json(tok, folder)
    except UserError as e:  # the weights are good all the same
        print(f"no tokenizer written: {e}", file=sys.stderr)


def thinking(config):
    """How it thinks, for config.json."""
    return {name: getattr(config, name) for name in Coconut.SETTINGS}


def parted(model):
    """({name: tensor} of the base model, the same of what Hugging Face's models do not have)."""
    tensors = model.state_dict()
    own = {k: t for k, t in tensors.items() if k.startswith(Coconut.OWN)}
    return {k: t for k, t in tensors.items() if k not in own}, own


def write_json(path, content):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(content, f, ensure_ascii=False, indent=2)


def main(argv):
    if len(argv) != 2 or argv[0].startswith("-"):
        print(__doc__.strip())
        if argv in (["-h"], ["--help"]):
            return 0
        raise UserError("expected two arguments: a checkpoint and a folder")
    path, folder = find_checkpoint(argv[0]), argv[1]
    model, cfg, tok, _ = load_checkpoint(path)
    for name in WRITTEN:  # of an earlier export: another model's tokenizer would be worse than none
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))
    (export_llama if cfg.model == "llama" else export_gpt2)(model, tok, folder)
    own = parted(model)[1]
    if own:
        write_safetensors(os.path.join(folder, THINKING), own)
    print(f"{folder}: {', '.join(sorted(os.listdir(folder)))}")


if __name__ == "__main__":
    cli(main)
