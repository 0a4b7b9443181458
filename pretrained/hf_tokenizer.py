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

from config import UserError, read_text, replacing
from pretrained.hub import find_beside, read_beside
from tokenizer import EOS, SPECIALS, NFCEncoding, make_tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM2: first each digit is cut off, then the rest is cut by GPT2, for which the text ends where a digit was
DIGITS = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN = "only byte-level BPE is known here, such as GPT-2's, Llama 3's, Qwen's and SmolLM2's"
NFC = {"type": "NFC"}


def byte_letters():
    """The printable character that stands for each byte in vocab.json: itself, or one of those from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def cut_by(pattern):
    """A tokenizer.json's pre_tokenizer that cuts text by a regular expression alone."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def put_before(tokens):
    """A tokenizer.json's post_processor that puts {name: number} before each text."""
    before = [{"SpecialToken": {"id": name, "type_id": 0}} for name in tokens]
    text, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    known = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in tokens.items()}
    template = {"single": [*before, text], "pair": [*before, text, second], "special_tokens": known}
    return {"type": "TemplateProcessing"} | template


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


def added_before(processor):
    """The numbers of the tokens that a tokenizer.json's post_processor puts before a text; ValueError for others."""
    numbers = []
    for step in (processor or {}).get("processors", [processor]):
        if not step or step["type"] == "ByteLevel":  # it only moves offsets
            continue
        *before, text = step["single"] if step["type"] == "TemplateProcessing" else [{}]
        if "Sequence" not in text or any("Sequence" in piece for piece in before):
            raise ValueError(f"the post_processor {step['type']} does more than to put tokens before a text")
        for piece in before:
            numbers += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return numbers


CLASSES = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}  # of a model_type


def read_spec(source, config):
    """tokenizer.json, or what that would be for vocab.json and merges.txt; config is tokenizer_config.json."""
    spec = read_beside(source, "tokenizer.json")
    if spec:
        return spec
    vocab, merges = read_beside(source, "vocab.json"), find_beside(source, "merges.txt")
    if not vocab or not merges:
        found = "tokenizer.model, SentencePiece's, but " if find_beside(source, "tokenizer.model") else ""
        raise UserError(f"{source}: {found}neither tokenizer.json nor vocab.json and merges.txt are there; {KNOWN}")
    kind = config.get("tokenizer_class") or CLASSES.get(read_beside(source, "config.json").get("model_type"), "")
    if kind.removesuffix("Fast") not in CLASSES.values():
        raise UserError(f"{source}: tokenizer_class is {kind!r}, which does not tell how text is cut; {KNOWN}")
    qwen, bos = kind.startswith("Qwen2"), content(config.get("bos_token", EOS))
    lines = [line for line in read_text(merges).split("\n") if line.strip() and not line.startswith("#version")]
    prefix = {"add_prefix_space": config.get("add_prefix_space", False)}
    return {
        "model": {"vocab": vocab, "merges": lines},
        "normalizer": NFC if qwen else None,
        "pre_tokenizer": cut_by(QWEN) if qwen else BYTE_LEVEL | {"use_regex": True} | prefix,
        "post_processor": put_before({bos: vocab[bos]}) if config.get("add_bos_token") else None,
    }


def content(token):
    """A token's text, which stands in these files as it is, or within a description of the token."""
    return token["content"] if isinstance(token, dict) else token


def number_tokens(spec, specials):
    """({bytes: number} of what text is made of, {name: number} of the others) in a tokenizer.json.

    specials: those that tokenizer_config.json has besides.
    """
    model = spec["model"]
    vocab, byte_of = model["vocab"], {letter: b for b, letter in byte_letters().items()}
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    order = [vocab[a + b] for a, b in merges]
    if order != sorted(order):
        raise ValueError("its tokens are not numbered in the order of the merges: tiktoken cannot do that")
    specials = specials | {token["content"]: token["id"] for token in spec.get("added_tokens", ())}
    whole = {*byte_of} | {a + b for a, b in merges}
    if model.get("ignore_merges"):  # whatever is in the vocabulary is a piece, as in tiktoken
        whole |= {token for token in vocab.keys() - specials if byte_of.keys() >= {*token}}
    ranks = {bytes(byte_of[letter] for letter in token): i for token, i in vocab.items() if token in whole}
    specials |= {token: i for token, i in vocab.items() if token not in whole}
    for numbers in [*ranks.values()], [*specials.values()]:
        if not all(type(i) is int and 0 <= i < 2**20 for i in numbers) or len({*numbers}) < len(numbers):
            raise ValueError("its tokens are not numbered with different whole numbers, from 0 to 1 million")
    return ranks, specials


def end_of_text(source, config, specials):
    """The name of the token that ends a text: the first that is known, in the order in which transformers looks."""
    if "added_tokens_decoder" not in config:  # transformers wrote it until 4.34: what it says counts more
        config = config | read_beside(source, "special_tokens_map.json")
    if content(config.get("eos_token")) in specials:
        return content(config["eos_token"])
    names = {i: name for name, i in specials.items()}
    for file in "generation_config.json", "config.json":
        numbers = read_beside(source, file).get("eos_token_id")
        for i in numbers if isinstance(numbers, list) else [numbers]:
            if i in names:
                return names[i]
    if EOS in specials:
        return EOS
    raise ValueError("no file says which token ends a text: tokenizer_config.json should have an eos_token")


def load_tokenizer(source):
    """A tiktoken.Encoding from tokenizer.json, or else from vocab.json, merges.txt and tokenizer_config.json.

    source: a folder or a file in it, hf:owner/name[@revision], or a name such as "qwen3-0.6b". The token that ends a
    text is called EOS, whatever its name is there. SPECIALS that the model does not know get the lowest numbers that it
    has not given away, which is where a model has rows that were never trained, if it has any. So do bytes that its
    text never had (SmolLM2: 21, such as control characters), which transformers drops. The Encoding's list `added` has
    the numbers of both, and its list `bos` those of the tokens that a post_processor puts before each text.
    UserError if files are missing, or if the tokenizer is of a kind that tiktoken cannot be.
    """
    config = read_beside(source, "tokenizer_config.json")
    try:
        spec = read_spec(source, config)
        pattern, normalizer = split_pattern(spec.get("pre_tokenizer") or {}), spec.get("normalizer") or {}
        if spec["model"].get("byte_fallback"):
            raise ValueError(f"it is SentencePiece's, but {KNOWN}")
        if spec["model"].get("type", "BPE") != "BPE" or pattern is None:
            raise ValueError(f"it cuts text in an unknown way, {KNOWN}")
        forms = normalizer.get("normalizers", [normalizer] if normalizer else [])
        if any(form != NFC for form in forms):
            raise ValueError(f"the normalizer {str(normalizer)[:80]} is not supported, only NFC")
        decoder = config.get("added_tokens_decoder") or {}
        added = {content(token): int(i) for i, token in decoder.items()} or read_beside(source, "added_tokens.json")
        ranks, specials = number_tokens(spec, added)
        taken = {*ranks.values(), *specials.values()}
        specials[EOS] = specials.pop(end_of_text(source, config, specials))
        free = (i for i in itertools.count() if i not in taken)
        specials |= {name: next(free) for name in SPECIALS if name not in specials}
        ranks |= {bytes([b]): next(free) for b in range(256) if bytes([b]) not in ranks}
        known = {*ranks.values(), *specials.values()}
        # a number that still means nothing could be written by a model, but not be decoded
        specials |= {f"<|unused-{i}|>": i for i in range(max(known | taken)) if i not in known}
        text = {token.decode("latin-1"): i for token, i in ranks.items()}
        before = added_before(spec.get("post_processor"))
        tok = make_tokenizer("source", [json.dumps([pattern, bool(forms), text, specials, before])])
        tok.decode(before)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        why = str(e)[:200] if type(e) is ValueError else f"{type(e).__name__}: {str(e)[:100]}"
        raise UserError(f"{source}: no tokenizer that can be used: {why}") from None
    tok.added = sorted(known - taken)
    return tok


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def spell(tok):
    """(vocab {letters: number}, merges ["a b"]) of a tiktoken.Encoding.

    NotImplementedError unless all are merged of two, as whole words are not. For tiktoken any two tokens merge whose
    bytes together are a token, so each way is a merge.
    """
    letters, ranks, merges = byte_letters(), tok._mergeable_ranks, []
    spelt = {token: "".join(letters[b] for b in token) for token in ranks}
    for token in sorted(ranks, key=ranks.get):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        ways = [f"{spelt[a]} {spelt[b]}" for a, b in halves if a in ranks and b in ranks]
        if halves and not ways:
            raise NotImplementedError(f"{tok.name!r} is none of Hugging Face's")
        merges += ways
    return {spelt[token]: i for token, i in ranks.items()}, merges


def write_tokenizer_json(tok, folder):
    """A tiktoken.Encoding to tokenizer.json and tokenizer_config.json, for transformers' AutoTokenizer."""
    vocab, merges = spell(tok)
    names = {i: name for name, i in tok._special_tokens.items()}
    before = {names[i]: i for i in tok.bos}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": names[i], **FLAGS} for i in sorted(names)],
        "normalizer": NFC if isinstance(tok, NFCEncoding) else None,
        "pre_tokenizer": cut_by(tok._pat_str),
        "post_processor": put_before(before) if before else None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab | tok._special_tokens, "merges": merges},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": [*before, EOS][0], "eos_token": EOS}
    write_json(os.path.join(folder, "tokenizer.json"), tokenizer)
    write_json(os.path.join(folder, "tokenizer_config.json"), config | {"pad_token": EOS})


def write_json(path, content):
    with replacing(path) as f:
        json.dump(content, f, ensure_ascii=False, indent=1)
