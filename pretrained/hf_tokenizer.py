"""
Other models' tokenizers: byte-pair encodings as Hugging Face keeps them, to a tiktoken.Encoding and back.

    tok = load_tokenizer("qwen3-0.6b")    (or hf:owner/name, or a folder)

Both kinds do the same: a regular expression cuts text into pieces, whose bytes are merged pair by pair. Hugging Face
lists the merges in their order; tiktoken takes the pair whose result has the lowest number, which is the same thing as
long as tokens are numbered in that order. This is checked. Nothing here needs the tokenizers package.
"""

import itertools
import json
import os

import tiktoken

from config import UserError, read_text
from pretrained.hub import find_beside, read_json
from tokenizer import EOS, SPECIALS, NFCEncoding

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM2: first each digit is cut off, then the rest is cut by GPT2, for which the text ends where a digit was
DIGITS = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FILES = "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"


def byte_letters():
    """The printable character that stands for each byte in vocab.json: itself, or one of those from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def split_pair(token, ranks):
    """The two shorter tokens that byte-pair encoding merges last to get this one."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def find_files(source):
    """{name: path} of those of FILES that are there and needed: tokenizer.json says what the last two do."""
    paths = {name: find_beside(source, name) for name in FILES[:2]}
    if not paths["tokenizer.json"]:
        paths |= {name: find_beside(source, name) for name in FILES[2:]}
    return {name: path for name, path in paths.items() if path}


def split_pattern(spec):
    """The regular expression that does what a tokenizer.json's pre_tokenizer does; None if it is of another kind."""
    *first, last = spec.get("pretokenizers") or [spec]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or len(first) > 1:
        return None
    gpt2_too = last.get("use_regex", True)
    if not first:
        return GPT2 if gpt2_too else None
    (first,) = first
    if first["type"] == "Digits" and first.get("individual_digits") and gpt2_too:
        return DIGITS
    if first["type"] == "Split" and first["behavior"] == "Isolated" and not first.get("invert") and not gpt2_too:
        return first["pattern"].get("Regex")
    return None


def read_tokenizer(paths):
    """(vocab {letters: number}, merges [pair], specials {name: number}, name of eos, pattern, whether NFC) of files."""
    config = read_json(paths["tokenizer_config.json"]) if "tokenizer_config.json" in paths else {}
    specials = {token["content"]: int(i) for i, token in config.get("added_tokens_decoder", {}).items()}
    eos = config.get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    if "tokenizer.json" in paths:
        path = paths["tokenizer.json"]
        spec = read_json(path)
        model, normalizer = spec["model"], spec.get("normalizer")
        specials |= {token["content"]: token["id"] for token in spec.get("added_tokens", ())}
        pattern = split_pattern(spec.get("pre_tokenizer") or {})
        if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or pattern is None:
            raise UserError(f"{path}: not a byte-level BPE that cuts text in a way that is known here")
        if normalizer not in (None, {"type": "NFC"}):
            raise UserError(f"{path}: the normalizer {str(normalizer)[:80]} is not supported, only NFC")
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return model["vocab"], merges, specials, eos, pattern, normalizer is not None
    kind = config.get("tokenizer_class", "").removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        path = paths.get("tokenizer_config.json", "no tokenizer_config.json")
        raise UserError(f"{path}: tokenizer_class is {kind!r}, which does not tell how text is cut")
    lines = read_text(paths["merges.txt"]).split("\n")
    merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    qwen = kind == "Qwen2Tokenizer"
    return read_json(paths["vocab.json"]), merges, specials, eos, QWEN if qwen else GPT2, qwen


def load_tokenizer(source):
    """A tiktoken.Encoding from tokenizer.json, or else from vocab.json, merges.txt and tokenizer_config.json.

    source: a folder or a file in it, hf:owner/name[@revision], or a name such as "qwen3-0.6b". SPECIALS that the model
    does not know get the lowest numbers that it has not given away, which is where a model has rows that were never
    trained, if it has any. So do bytes that its text never had (SmolLM2: 21, such as control characters), which
    transformers drops. The Encoding's list `added` has the numbers of both.
    UserError if files are missing, or if the tokenizer is of a kind that tiktoken cannot be.
    """
    paths = find_files(source)
    if "tokenizer.json" not in paths and not {"vocab.json", "merges.txt"} <= paths.keys():
        raise UserError(f"{source}: neither tokenizer.json nor vocab.json and merges.txt are there")
    try:
        vocab, merges, specials, eos, pattern, nfc = read_tokenizer(paths)
        byte_of = {letter: b for b, letter in byte_letters().items()}
        ranks = {bytes([b]): vocab[letter] for letter, b in byte_of.items() if letter in vocab}
        merged = [a + b for a, b in merges]
        ranks |= {bytes(byte_of[letter] for letter in token): vocab[token] for token in merged}
        specials |= {token: vocab[token] for token in vocab.keys() - set(merged) - byte_of.keys()}
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{source}: not a byte-level BPE: {type(e).__name__}: {str(e)[:100]}") from None
    for numbers in [*ranks.values()], [*specials.values()]:
        if not all(type(i) is int and 0 <= i < 2**20 for i in numbers) or len({*numbers}) < len(numbers):
            raise UserError(f"{source}: its tokens are not numbered with different whole numbers, from 0 to 1 million")
    order = [vocab[token] for token in merged]
    if order != sorted(order):
        raise UserError(f"{source}: its tokens are not numbered in the order of the merges: tiktoken cannot do that")
    if EOS not in specials and eos in specials:
        specials[EOS] = specials.pop(eos)
    taken = {*ranks.values(), *specials.values()}
    free = (i for i in itertools.count() if i not in taken)
    specials |= {name: next(free) for name in SPECIALS if name not in specials}
    ranks |= {bytes([b]): next(free) for b in range(256) if bytes([b]) not in ranks}
    known = {*ranks.values(), *specials.values()}
    # a number that still means nothing could be written by a model, but not be decoded
    specials |= {f"<|unused-{i}|>": i for i in range(max(known)) if i not in known}
    kind = NFCEncoding if nfc else tiktoken.Encoding
    try:
        tok = kind("source", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
    except ValueError as e:
        raise UserError(f"{source}: the pattern that cuts text is not a regular expression: {str(e)[:100]}") from None
    tok.added = sorted(known - taken)
    return tok


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def spell(tok):
    """(vocab {letters: number}, merges ["a b"]) of a tiktoken.Encoding; UserError if not all tokens are merged of two.

    Whole words are not.
    """
    letters, ranks = byte_letters(), tok._mergeable_ranks
    spelt = {token: "".join(letters[b] for b in token) for token in ranks}
    pairs = [split_pair(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    if any(part not in ranks for pair in pairs for part in pair):
        raise UserError(f"{tok.name!r} is none of Hugging Face's")
    return {spelt[token]: i for token, i in ranks.items()}, [f"{spelt[a]} {spelt[b]}" for a, b in pairs]


def write_tokenizer_json(tok, folder):
    """A tiktoken.Encoding to tokenizer.json and tokenizer_config.json, for transformers' AutoTokenizer."""
    vocab, merges = spell(tok)
    specials = sorted(tok._special_tokens.items(), key=lambda item: item[1])
    cut = {"type": "Split", "pattern": {"Regex": tok._pat_str}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": name, **FLAGS} for name, i in specials],
        "normalizer": {"type": "NFC"} if isinstance(tok, NFCEncoding) else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab | tok._special_tokens, "merges": merges,
        },
    }  # fmt: skip
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "pad_token": EOS}
    write_json(os.path.join(folder, "tokenizer.json"), tokenizer)
    write_json(os.path.join(folder, "tokenizer_config.json"), config)


def write_gpt2_tokenizer(tok, folder, context):
    """GPT-2's, and its added tokens, to vocab.json, merges.txt and tokenizer_config.json, for GPT2Tokenizer."""
    vocab, merges = spell(tok)
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": context, "add_prefix_space": False}
    config |= {"bos_token": EOS, "eos_token": EOS, "unk_token": EOS}
    config["added_tokens_decoder"] = {i: {"content": name, **FLAGS} for name, i in tok._special_tokens.items()}
    write_json(os.path.join(folder, "vocab.json"), vocab | {EOS: tok.encode_single_token(EOS)})
    write_json(os.path.join(folder, "tokenizer_config.json"), config)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(["#version: 0.2", *merges, ""]))


def write_json(path, content):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(content, f, ensure_ascii=False, indent=1)
