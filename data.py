"""
From a file of worked problems to tokens: read, checked, and kept beside the file for the next time.

A data file is a JSON list of {"question": str, "steps": [str, ...], "answer": str}; other keys are ignored. What a
method and a stage make of a problem is curriculum.py's business.
"""

import hashlib
import json
import os
import re
import time
import uuid
from contextlib import suppress
from itertools import chain

import numpy as np

from config import UserError
from curriculum import Problem, make_row
from textfile import read_text
from tokenizer import EOS, PATTERNS


def check_exists(path):
    """UserError if there is no such data file, with the script that makes it."""
    if not os.path.exists(path):
        script = f"prepare_{os.path.basename(os.path.dirname(os.path.abspath(path)))}.py"
        hint = f"; `python {script}` makes it" if os.path.exists(script) else "; README.md says what belongs there"
        raise UserError(f"{path}: no such file{hint}")


def load_json(path):
    """The problems of a data file as dicts; UserError says what is wrong, and where."""
    check_exists(path)
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: an empty file, expected a list of problems")
    try:
        problems = json.loads(text)
    except (ValueError, RecursionError) as e:  # the message has line and column
        lines = "; one problem a line? expected [problem, problem, ...]" if str(e).startswith("Extra data") else ""
        raise UserError(f"{path}: not JSON: {e}{lines}") from None
    if not isinstance(problems, list) or not problems:
        raise UserError(f"{path}: expected a list of problems that is not empty")
    for i, p in enumerate(problems):
        for key, kind in (("question", str), ("steps", list), ("answer", str)):
            if not isinstance(p, dict) or not isinstance(p.get(key), kind):
                found = "nothing" if not isinstance(p, dict) or key not in p else repr(p[key])[:40]
                raise UserError(f"{path}: example {i}: expected {key!r} to be a {kind.__name__}, found {found}")
        if not all(isinstance(step, str) for step in p["steps"]):
            raise UserError(f"{path}: example {i}: expected each of its 'steps' to be a str")
        try:
            "".join((p["question"], *p["steps"], p["answer"])).encode()
        except UnicodeEncodeError as e:  # JSON can spell half of a character that UTF-8 cannot
            raise UserError(f"{path}: example {i}: {e.object[e.start]!r} is no character") from None
    return problems


def texts(problem, cfg):
    """[question, step, ..., answer] of one dict as they are written in this configuration's formats."""
    steps = [cfg.step_format.replace("{}", step) for step in problem["steps"]]
    question = cfg.question_format.replace("{}", problem["question"])
    return [question, *steps, cfg.answer_format.replace("{}", problem["answer"])]


def find_pieces(problems, cfg):
    """The words (or characters) that a file's problems are made of, sorted; GPT-2 brings its own."""
    if cfg.tokenizer == "gpt2":
        return []
    pattern = re.compile(PATTERNS[cfg.tokenizer])
    return sorted({piece for p in problems for text in texts(p, cfg) for piece in pattern.findall(text)})


class Problems:
    """Problems in tokens, packed into arrays, so that 400,000 of them take megabytes; problems[i] is a Problem.

    tokens: all texts, one after the other; bounds: where in tokens each text begins, and where the last one ends;
    first: the number of each problem's first text (its question), and the number of all texts.
    """

    def __init__(self, tokens, bounds, first):
        self.tokens, self.bounds, self.first = tokens, bounds, first
        self.n_steps = np.diff(first) - 2

    def __len__(self):
        return len(self.n_steps)

    def __getitem__(self, i):
        bounds = self.bounds[self.first[i] : self.first[i + 1] + 1].tolist()
        question, *steps, answer = (self.tokens[a:b].tolist() for a, b in zip(bounds, bounds[1:]))
        return Problem(question, steps, answer)

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


def encode(problems, cfg, tok):
    """Dicts as Problems; tiktoken uses all cores."""
    eos, dtype = tok.encode_single_token(EOS), np.uint16 if tok.n_vocab <= 1 << 16 else np.uint32
    arrays, lengths, first, began = [], [0], [0], time.time()
    for start in range(0, len(problems), 20_000):  # never more than so many as Python lists
        chunk = [texts(p, cfg) for p in problems[start : start + 20_000]]
        encoded = tok.encode_ordinary_batch([text for written in chunk for text in written], num_threads=os.cpu_count())
        first += [len(written) for written in chunk]
        for end in np.cumsum(first[start + 1 :]) - 1:  # the answers
            encoded[end].append(eos)
        lengths += map(len, encoded)
        arrays.append(np.fromiter(chain.from_iterable(encoded), dtype))
        done = start + len(chunk)
        if len(problems) > 20_000:
            left = (time.time() - began) / done * (len(problems) - done)
            end = "\n" if done == len(problems) else ""
            print(f"\rtokenised {done:,} of {len(problems):,} problems, {left:.0f} s left  ", end=end, flush=True)
    return Problems(np.concatenate(arrays), np.cumsum(lengths), np.cumsum(first))


def load(path, cfg, tok, pieces=()):
    """The Problems of a data file, checked. Their tokens are kept beside it, in path + ".npz", for the next time."""
    check_exists(path)
    with open(path, "rb") as f:
        key = hashlib.sha256(f.read())
    for part in ("1", cfg.tokenizer, cfg.question_format, cfg.step_format, cfg.answer_format, *pieces):
        key.update(part.encode() + b"\0")  # "1": to be raised when encode() changes
    try:
        with np.load(path + ".npz") as cache:
            fresh = cache["key"] == key.hexdigest()
            problems = Problems(cache["tokens"], cache["bounds"], cache["first"]) if fresh else None
    except Exception:  # there is none yet, or not a whole one: numpy and zipfile have many words for it
        problems = None
    if problems is None:
        raw = load_json(path)
        mark = cfg.answer_format.partition("{}")[0].strip()
        for i, p in enumerate(raw):
            if mark in p["answer"]:
                raise UserError(
                    f"{path}: example {i}: its answer contains {mark!r}, which marks answers (answer_format)"
                )
        problems = encode(raw, cfg, tok)
        arrays = {"tokens": problems.tokens, "bounds": problems.bounds, "first": problems.first}
        own = f"{path}.{uuid.uuid4().hex}.tmp"  # several processes may do this at once
        with suppress(OSError), open(own, "wb") as f:  # if it cannot be kept, it takes longer next time
            np.savez(f, key=key.hexdigest(), **arrays)
            os.replace(f.name, path + ".npz")
    check_lengths(problems, cfg, tok, path)
    problems.key = key.hexdigest()
    return problems


def check_lengths(problems, cfg, tok, path):
    """UserError for a problem without a question, or one that does not fit into block_size at some stage."""
    first = problems.first
    if not (np.diff(problems.bounds)[first[:-1]]).all():
        raise UserError(f"{path}: example {np.diff(problems.bounds)[first[:-1]].argmin()}: its question has no tokens")
    most = np.diff(problems.bounds[first]) + 2 + cfg.max_latent_stage * cfg.c_thought  # all steps and all thoughts
    for i in np.flatnonzero(most > cfg.block_size):
        for stage in range(cfg.max_latent_stage + 2):
            prefix, n, suffix, *_ = make_row(problems[i], stage, cfg, tok)
            if len(prefix) + n + len(suffix) > cfg.block_size:
                lengths = f"{len(prefix)} + {n} + {len(suffix)} positions (prefix, thoughts, suffix) at stage {stage}"
                needed = f"block_size is {cfg.block_size}, {len(prefix) + n + len(suffix)} or more would do"
                raise UserError(f"{path}: example {i} is too long: {lengths}, but {needed}")


def write_splits(cfg, draw):
    """Write {train,valid,test}.json of cfg.train, cfg.valid and cfg.test problems into cfg.out_dir.

    draw() -> (problem as a dict, its identity). No identity gets in twice, so that nothing in test is in train. Test
    comes first: where there are few problems of some kind, it is the training data that runs out of them.
    """
    seen, splits = set(), {}
    for name in ("test", "valid", "train"):
        splits[name], misses = [], 0
        while len(splits[name]) < getattr(cfg, name):
            problem, identity = draw()
            misses = misses + 1 if identity in seen else 0
            if misses > 10_000:
                raise UserError(f"there are only some {len(seen):,} different problems of this kind: ask for fewer")
            if not misses:
                seen.add(identity)
                splits[name].append(problem)
    os.makedirs(cfg.out_dir, exist_ok=True)
    for name in ("train", "valid", "test"):
        path = os.path.join(cfg.out_dir, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(splits[name], f)
        print(f"{path}: {len(splits[name]):,} problems, such as {splits[name][0]!s:.400}")
