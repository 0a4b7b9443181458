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
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import chain, islice

import numpy as np

from config import UserError
from curriculum import Problem, make_row
from tasks.graphs import check_graph
from textfile import no_such, ours, read_text
from tokenizer import EOS, PATTERNS

SPLITS = "train", "valid", "test"  # a task's files, NAME.json


def check_exists(path):
    """UserError if there is no such data file, with where it was looked for, and the script that makes it."""
    if not os.path.exists(path):
        script = f"prepare_{os.path.basename(os.path.dirname(os.path.abspath(path)))}"
        hint = "README.md says what belongs there"
        if os.path.exists(ours(f"{script}.py")):
            hint = f"`python {ours(f'{script}.py')}` makes it"
        elif os.path.exists(ours("tasks", f"{script}.py")):
            hint = f"`python -m tasks.{script}`, from the project's folder, makes it"
        hint = f"{folder} is a file, expected a folder" if os.path.isfile(folder := os.path.dirname(path)) else hint
        raise UserError(f"{no_such('file', path)}; {hint}")


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
    """The words (or characters) that a file's problems are made of, sorted; none if the tokenizer is a model's own."""
    if cfg.tokenizer not in PATTERNS:
        return []
    pattern = re.compile(PATTERNS[cfg.tokenizer])
    return sorted({piece for p in problems for text in texts(p, cfg) for piece in pattern.findall(text)})


def unknown_pieces(problems, cfg, pieces):
    """(how many of the problems have words, or characters, that are not among the pieces; these, in their order).

    The tokenizer spells them in bytes, which the model has never been trained on.
    """
    known, found, n = {*pieces, " "}, {}, 0
    for p in problems:
        new = [piece.strip() or piece for piece in find_pieces([p], cfg) if piece not in known]
        n += bool(new)
        found.update(dict.fromkeys(new))
    return n, [*found]


def name_some(pieces, most=5):
    """A few of them, for a message, and how many there are besides."""
    shown = ", ".join(repr(piece)[:40] for piece in pieces[:most])
    return shown + f" and {len(pieces) - most:,} more" * (len(pieces) > most)


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

    def questions(self):
        """The tokens of each question, as bytes."""
        of = self.first[:-1]
        return (self.tokens[a:b].tobytes() for a, b in zip(self.bounds[of].tolist(), self.bounds[of + 1].tolist()))


def compare(path, problems, trains, cfg, tok, pieces):
    """In one line: how much of a file is in the training data (a list of Problems), and what of it never is.

    In words or characters, where the tokenizer is made of them; else in tokens, which are known, whoever has seen them.
    """
    if cfg.tokenizer not in PATTERNS:
        seen = np.zeros(tok.n_vocab, bool)
        for train in trains:
            seen[train.tokens] = True
        new = ~seen[problems.tokens]
        n_new = np.logical_or.reduceat(new, problems.bounds[problems.first[:-1]]).sum()
        found = [tok.decode([t]).strip() for t in dict.fromkeys(problems.tokens[new].tolist())]
    else:
        n_new, found = unknown_pieces(load_json(path), cfg, pieces)
    asked = [*problems.questions()]
    common = {*asked}.intersection(chain.from_iterable(train.questions() for train in trains))
    n_common, n = sum(question in common for question in asked), len(asked)
    what = {"words": "words", "chars": "characters"}.get(cfg.tokenizer, "tokens")
    line = f"{path}: {n:,} problems, {n_common:,} of whose questions are in train.json, too"
    if not n_new:
        return f"{line}; all of their {what} are"
    warning = "WARNING: " * (cfg.tokenizer in PATTERNS)
    return f"{warning}{line}; {n_new:,} have {what} that are not, such as {name_some(found)}"


def step_distance(problems):
    """How many tokens after a step the next one stands in the question, in most problems; negative: before it.

    In "a b | b c |" with the steps b, c it is 1; in "Cid is the son of Bob. Bob is the son of Al." with Bob, Al it is
    5. None if there is no such distance in 90 % of the pairs, of steps of one token, in the first 1,000 problems.
    """
    counts, n = Counter(), 0
    for question, steps, _ in islice(problems, 1000):
        places = defaultdict(list)
        for i, token in enumerate(question):
            places[token].append(i)
        for a, b in zip(steps, steps[1:]):
            if len(a) == len(b) == 1 and a != b:
                counts.update({j - i for i in places[a[0]] for j in places[b[0]]})
                n += 1
    best = max(counts, key=lambda d: (counts[d], -abs(d), d), default=None)
    return best if counts[best] >= 0.9 * n > 0 else None


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
    for part in ("2", cfg.tokenizer, cfg.question_format, cfg.step_format, cfg.answer_format, *pieces):
        key.update(part.encode() + b"\0")  # "2": to be raised when encode() changes
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
        with suppress(OSError):  # if it cannot be kept, it takes longer next time
            try:
                with open(own, "wb") as f:
                    np.savez(f, key=key.hexdigest(), **arrays)
                os.replace(own, path + ".npz")
            finally:
                with suppress(FileNotFoundError):
                    os.remove(own)
    check_lengths(problems, cfg, tok, path, pieces)
    problems.key = key.hexdigest()
    return problems


def check_lengths(problems, cfg, tok, path, pieces=()):
    """UserError for a problem without a question, or one that does not fit into block_size at some stage."""
    first = problems.first
    if not (np.diff(problems.bounds)[first[:-1]]).all():
        raise UserError(f"{path}: example {np.diff(problems.bounds)[first[:-1]].argmin()}: its question has no tokens")
    last = cfg.max_latent_stage
    all_alike = cfg.pad_latent_to_max or cfg.stop  # a model that may stop is given the most thoughts that there are
    n_thoughts = cfg.c_thought * (last if all_alike else problems.n_steps.clip(max=last))
    most = np.diff(problems.bounds[first]) + 2 + n_thoughts  # all steps and all thoughts
    for i in np.argsort(-most, kind="stable")[: (most > cfg.block_size).sum()]:
        longest = cfg.block_size
        for stage in sorted({*range(min(problems.n_steps[i], last) + 2), last, last + 1}):  # others are as one of them
            row = make_row(problems[i], stage, cfg, tok)
            prefix, n, suffix, *_ = row
            decoded = max((cfg.c_thought + len(text) for text in row.steps), default=0)
            if decoded > cfg.block_size:
                needed = f"a decoder reads {decoded} positions, but block_size is {cfg.block_size}"
                raise UserError(f"{path}: example {i} is too long: to write a step from its thoughts {needed}")
            n = max(n, cfg.c_thought * min(stage, last)) if cfg.stop else n
            if len(prefix) + n + len(suffix) > longest:
                longest = len(prefix) + n + len(suffix)
                lengths = f"{len(prefix)} + {n} + {len(suffix)} positions (prefix, thoughts, suffix) at stage {stage}"
        if longest > cfg.block_size:
            needed = f"block_size is {cfg.block_size}, expected at least {longest}"
            unknown = unknown_pieces([load_json(path)[i]], cfg, pieces)[1] if pieces else []
            if unknown:
                what = f"{len(unknown):,} of its {cfg.tokenizer} are not in train.json"
                needed = f"block_size is {cfg.block_size}; {what}, and are spelt in bytes: {name_some(unknown)}"
            raise UserError(f"{path}: example {i} is too long: {lengths}, but {needed}")


def check_graphs(problems, cfg, tok, path):
    """UserError unless the setting `names` fits the problems, as far as the first 1,000 show."""
    for i, problem in enumerate(islice(problems, 1000)):
        try:
            check_graph(problem, cfg, tok)
        except UserError as e:
            raise UserError(f"{path}: example {i}: {e}") from None


def write_files(folder, splits):
    """Write {name: problems as dicts} to name.json in a folder: all of them or none, since they belong together.

    Returns {name: path}.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {name: os.path.join(folder, f"{name}.json") for name in splits}
    try:
        for name, path in paths.items():
            with open(path + ".tmp", "w", encoding="utf-8") as f:
                json.dump(splits[name], f)
        for path in paths.values():
            os.replace(path + ".tmp", path)
    finally:
        for path in paths.values():
            with suppress(FileNotFoundError):
                os.remove(path + ".tmp")
    return paths


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
    for name, path in write_files(cfg.out_dir, {name: splits[name] for name in SPLITS}).items():
        print(f"{path}: {len(splits[name]):,} problems, such as {splits[name][0]!s:.400}")
