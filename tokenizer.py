"""
Tokenizers: a tiktoken.Encoding, whatever the task. GPT-2's own, or one made of a task's words or characters.

Other models' own are read in pretrained/hf_tokenizer.py; a checkpoint keeps one of them as to_text's text.

Each ends with the same four special tokens. Text is always encoded with encode_ordinary, so that "<|latent|>" in a
question remains text; the special tokens come from encode_single_token.
"""

import json
import unicodedata
from itertools import chain, groupby

import tiktoken

from config import UserError

# Names and, after GPT-2's vocabulary, ids (50256 to 50259) are the official code's. Where a method wants a <pause>
# token, <|latent|> is it: continuous thoughts need no token of their own here.
SPECIALS = EOS, BOT, EOT, PAUSE = "<|endoftext|>", "<|start-latent|>", "<|end-latent|>", "<|latent|>"


def letters():
    """All letters, marks (such as the accent of a decomposed "é"), numbers and "_": the inside of a regex's [...].

    As ranges, since \\w is one thing to Python, which finds a task's words, and another to tiktoken; so is \\s.
    """
    codes = chain(range(0x40000), range(0xE0100, 0xE01F0))  # further ones are not assigned, or nobody's letters
    runs = groupby(codes, lambda code: code == ord("_") or unicodedata.category(chr(code))[0] in "LMN")
    ends = [(run[0], run[-1]) for run in ([*codes] for is_letter, codes in runs if is_letter)]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in ends)


LETTERS, SPACES = letters(), r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NO_DIGITS = LETTERS.replace("0-9", "", 1)
PATTERNS = {
    # a word takes along the one character before it: " is", ">b"
    "words": rf"[^{LETTERS}\n]?[{LETTERS}]+| ?[^{LETTERS}{SPACES}]+|[{SPACES}]",
    # the same, but that each digit stands for itself: "48 clips" is "4", "8", " clips"
    "digits": rf"[0-9]|[^{LETTERS}\n]?[{NO_DIGITS}]+| ?[^{LETTERS}{SPACES}]+|[{SPACES}]",
    "chars": r"[\s\S]",
}


class NFCEncoding(tiktoken.Encoding):
    """One that brings text to Unicode's normal form C first: "e" and an accent become the one character "\u00e9"."""

    def encode_ordinary(self, text):
        return super().encode_ordinary(unicodedata.normalize("NFC", text))


def to_text(tok):
    """All that a tiktoken.Encoding is, as JSON: make_tokenizer("source", [text]) makes it again."""
    ranks = {token.decode("latin-1"): i for token, i in tok._mergeable_ranks.items()}
    bos = [tok.bos] if tok.bos else []
    return json.dumps([tok._pat_str, isinstance(tok, NFCEncoding), ranks, tok._special_tokens, *bos])


def make_tokenizer(kind, pieces=()):
    """A tiktoken.Encoding with the SPECIALS: "gpt2", or one of PATTERNS that knows the given pieces of text.

    "source": that of other weights, of which the only piece is to_text's text. Its list `bos` has the tokens that
    belong before a question: a model may have been trained with one at the beginning of each text.
    """
    if kind == "source":
        pattern, nfc, ranks, specials, *bos = json.loads(pieces[0])
        ranks = {token.encode("latin-1"): i for token, i in ranks.items()}
        encoding = NFCEncoding if nfc else tiktoken.Encoding
        tok = encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
        tok.bos = bos[0] if bos else []
        return tok
    if kind == "gpt2":
        try:
            base = tiktoken.get_encoding("gpt2")
        except OSError as e:  # requests' errors are OSErrors
            why = f"({type(e).__name__}; offline?)"  # its message is a page long
            raise UserError(
                f"cannot download GPT-2's vocabulary {why}; TIKTOKEN_CACHE_DIR may name a folder that has it"
            ) from None
        pattern, ranks = base._pat_str, base._mergeable_ranks
    else:  # what is not among the pieces is spelt in shorter ones, in the end in bytes
        pattern, ranks = PATTERNS[kind], {bytes([i]): i for i in range(256)}
        for piece in pieces:
            ranks.setdefault(piece.encode(), len(ranks))
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    tok = tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
    tok.bos = []
    tok.added = [specials[name] for name in SPECIALS[1:]] if kind == "gpt2" else []  # what weights need not know
    return tok
