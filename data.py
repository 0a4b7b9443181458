"""
From a file of worked problems to batches: text to tokens, the order of an epoch, rows to tensors.

A data file is a JSON list of {"question": str, "steps": [str, ...], "answer": str}; other keys are ignored. Tokens are
kept beside the file for the next time. What a method makes of a problem at a stage is curriculum.py's business.
"""

import hashlib
import json
import math
import os
import re
from contextlib import ExitStack, suppress
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch

from config import UserError, counted, no_such, ours, read_json, replacing
from curriculum import Problem, Row, for_stage, hooks, kind_of, methods_of, row_for
from tokenizer import EOS, PATTERNS

SPLITS = "train", "valid", "test"  # a task's files, NAME.json
LONGEST = 200_000  # characters of a text; tiktoken's regex breaks down at some 500,000 spaces


# ---------------------------------------------------------------- files


def check_exists(path):
    """UserError if there is no such data file, with where it was looked for, and the script that makes it."""
    if not os.path.exists(path):
        folder = os.path.dirname(os.path.abspath(path))
        hint = "docs/own_data.md says what belongs there; how a config's data are made stands in the config"
        script = f"prepare_{os.path.basename(folder)}"
        if os.path.exists(ours(f"{script}.py")):
            hint = f"`python {ours(f'{script}.py')}` makes it"
        elif os.path.exists(ours("tasks", f"{script}.py")):
            hint = f"`python -m tasks.{script}`, from the project's folder, makes it"
        if os.path.isfile(folder):
            hint = f"{folder} is a file, expected a folder"
        raise UserError(f"{no_such('file', path)}; {hint}")


def load_json(path):
    """The problems of a data file as dicts; UserError says what is wrong, and where."""
    check_exists(path)
    problems = read_json(path)
    if not isinstance(problems, list) or not problems:
        raise UserError(f"{path}: expected a list of problems that is not empty, found {describe(problems)}")
    for i, problem in enumerate(problems):
        try:
            check_problem(problem)
        except ValueError as e:
            raise UserError(f"{path}: example {i}: {e}") from None
    return problems


def check_problem(problem):
    """ValueError unless a problem has question, steps and answer, all of them texts."""
    for key, kind in (("question", str), ("steps", list), ("answer", str)):
        found = problem[key] if isinstance(problem, dict) and key in problem else problem
        if found is problem or not isinstance(found, kind):
            raise ValueError(f"expected {key!r} to be a {kind.__name__}, found {describe(found)}")
    for text in (problem["question"], *problem["steps"], problem["answer"]):
        if not isinstance(text, str):
            raise ValueError(f"expected each of its 'steps' to be a str, found {describe(text)}")
        if text.encode(errors="ignore").decode() != text:  # JSON can spell half of a character
            raise ValueError(f"half a character, which is no character, in {text!r:.40}")


def describe(value):
    """A value in an error: its type and what is in it; of a dict the keys, so that one sees what it is called there."""
    inside = ", ".join(map(repr, value)) if isinstance(value, dict) else repr(value)
    return f"a {type(value).__name__}: {inside:.80}"


def keep_sound(items, read, path, kind="example", first=0):
    """[read(item), ...] without those for which it raises ValueError: they are counted, and three of them named.

    UserError if none is sound: then it is another kind of file.
    """
    sound, faults = [], []
    for number, item in enumerate(items, first):
        try:
            sound.append(read(item))
        except ValueError as e:
            faults.append(f"{kind} {number}: {e}")
    found = f"{path}: {len(faults):,} of {len(items):,} {kind}s cannot be used: {'; '.join(faults[:3])}"
    if not sound:
        raise UserError(found)
    if faults:
        print(f"WARNING: {found}; they are left out")
    return sound


def write_files(folder, splits):
    """Write {name: problems as dicts} to name.json in a folder: all of them or none, since they belong together.

    Returns {name: path}.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {name: os.path.join(folder, f"{name}.json") for name in splits}
    with ExitStack() as stack:
        for name, path in paths.items():
            file = stack.enter_context(replacing(path))
            json.dump(splits[name], file)
            file.flush()  # a full disk shows now, before any of them has its name
    for name, path in paths.items():
        print(f"{path}: {counted(len(splits[name]), 'problem')}, such as {splits[name][0]!s:.400}")
    return paths


def write_splits(cfg, draw):
    """Write {train,valid,test}.json of cfg.train, cfg.valid and cfg.test problems into cfg.out_dir.

    draw() -> (problem as a dict, its identity). No identity gets in twice, so that nothing in test is in train. Test
    comes first: where there are few problems of some kind, it is the training data that runs out of them.
    """
    seen, splits = set(), dict.fromkeys(SPLITS)
    for name in ("test", "valid", "train"):
        found, misses = [], 0
        while len(found) < getattr(cfg, name):
            problem, identity = draw()
            misses = misses + 1 if identity in seen else 0
            if misses > 10_000:
                raise UserError(f"there are only some {len(seen):,} different problems of this kind: ask for fewer")
            if not misses:
                seen.add(identity)
                found.append(problem)
        splits[name] = found
    write_files(cfg.out_dir, splits)


# ---------------------------------------------------------------- text to tokens


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
    known = {*pieces, " "}
    new = [[piece.strip() or piece for piece in find_pieces([p], cfg) if piece not in known] for p in problems]
    return sum(map(bool, new)), [*dict.fromkeys(chain.from_iterable(new))]


def name_some(pieces, most=5):
    """A few of them, for a message, and how many there are besides."""
    shown = ", ".join(repr(piece)[:40] for piece in pieces[:most])
    return shown if len(pieces) <= most else f"{shown} and {len(pieces) - most:,} more"


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


def encode(problems, cfg, tok, path="problems"):
    """Dicts as Problems; tiktoken uses all cores. UserError for a text that is too long for it."""
    eos, dtype = tok.encode_single_token(EOS), np.uint16 if tok.n_vocab <= 1 << 16 else np.uint32
    if len(problems) > 20_000:
        print(f"tokenising {len(problems):,} problems", flush=True)
    arrays, lengths, first = [], [0], [0]
    for start in range(0, len(problems), 20_000):  # never more than so many as Python lists
        chunk = [texts(p, cfg) for p in problems[start : start + 20_000]]
        for i, written in enumerate(chunk, start):
            longest = max(map(len, written))
            if longest > LONGEST:
                raise UserError(f"{path}: example {i}: a text of {longest:,} characters, expected at most {LONGEST:,}")
        encoded = tok.encode_ordinary_batch([*chain.from_iterable(chunk)], num_threads=os.cpu_count())
        first += map(len, chunk)
        ends = np.cumsum(first[start + 1 :])
        for begin, end in zip([0, *ends], ends):
            encoded[begin] = tok.bos + encoded[begin]  # the question
            encoded[end - 1].append(eos)  # the answer
        lengths += map(len, encoded)
        arrays.append(np.fromiter(chain.from_iterable(encoded), dtype))
    return Problems(np.concatenate(arrays), np.cumsum(lengths), np.cumsum(first))


def load(path, cfg, tok, pieces=()):
    """The Problems of a data file, checked. Their tokens are kept beside it, in path + ".npz", for the next time."""
    check_exists(path)
    formats = cfg.question_format, cfg.step_format, cfg.answer_format
    made_with = ("2", cfg.tokenizer, *formats, *pieces)  # "2": to be raised when encode() changes
    with open(path, "rb") as file:
        key = hashlib.sha256(file.read() + "".join(f"{part}\0" for part in made_with).encode()).hexdigest()
    try:
        with np.load(path + ".npz") as cache:
            fresh = cache["key"] == key
            problems = Problems(cache["tokens"], cache["bounds"], cache["first"]) if fresh else None
    except Exception:  # there is none yet, or not a whole one: numpy and zipfile have many words for it
        problems = None
    if problems is None:
        raw = load_json(path)
        mark = cfg.mark
        for i, p in enumerate(raw):
            _, *steps, answer = texts(p, cfg)
            if any(mark in step for step in steps) or answer.count(mark) > 1:
                raise UserError(f"{path}: example {i}: {mark!r} marks the answer (answer_format), but stands elsewhere")
        problems = encode(raw, cfg, tok, path)
        beside = f".{os.getpid()}.tmp"  # several processes may do this at once
        with suppress(UserError), replacing(path + ".npz", "wb", beside) as file:  # not kept: it takes longer next time
            np.savez(file, key=key, tokens=problems.tokens, bounds=problems.bounds, first=problems.first)
    check_lengths(problems, cfg, tok, path, pieces)
    problems.key = key
    return problems


def check_lengths(problems, cfg, tok, path, pieces=()):
    """UserError for a problem without a question, or one that does not fit into block_size at some stage."""
    lengths = np.diff(problems.bounds[problems.first])  # tokens of each problem
    empty = np.diff(problems.bounds)[problems.first[:-1]] == 0
    if empty.any():
        raise UserError(f"{path}: example {empty.argmax()}: its question has no tokens")
    last = cfg.max_latent_stage
    n = problems.n_steps.clip(max=last)
    if cfg.pad_latent_to_max or methods_of(cfg.method):  # a later method may want more thoughts
        n = last
    most = lengths + 2 + cfg.c_thought * n  # all steps and all thoughts
    for i in np.argsort(-most, kind="stable")[: (most > cfg.block_size).sum()]:
        stages = sorted({*range(min(problems.n_steps[i], last) + 2), last, last + 1})  # others are as one of them
        rows = [row_for(problems[i], stage, cfg, tok) for stage in stages]
        parts = max(((len(row.prefix), max(row.n, row.prompt.n), len(row.suffix)) for row in rows), key=sum)
        if sum(parts) > cfg.block_size:
            lengths = f"{' + '.join(map(str, parts))} positions (prefix, thoughts, suffix)"
            needed = f"block_size is {cfg.block_size}, expected at least {sum(parts)}"
            unknown = unknown_pieces([load_json(path)[i]], cfg, pieces)[1]
            if unknown:
                needed += f"; not in train.json, and so spelt in bytes, are {name_some(unknown)}"
            raise UserError(f"{path}: example {i} is too long: {lengths}, but {needed}")


# ---------------------------------------------------------------- an epoch

ORDER, ROWS = range(2)  # what random numbers are for


def random_stream(purpose, cfg, index, number):
    """Random numbers in the index-th stage, for an epoch's order, or the rows of a step: never the same ones twice."""
    return np.random.default_rng((cfg.seed, index, number, purpose))


def epoch_order(problems, stage, rng, cfg):
    """The order of an epoch, as a list of (number of the problem, its stage).

    Stage mixing: uniform: with probability uniform_prob a problem's stage is drawn from 0 .. its number of steps
    instead. proportional: that of each problem is drawn from 0 .. stage, i with weight i + 1 (2602.22441).
    With sort_window, neighbours are of similar length: shuffled rows are cut into windows of so many batches, each is
    sorted, and then the order of the batches is shuffled.
    """
    n_steps, size, which = problems.n_steps, len(problems.n_steps), kind_of(cfg.method).stages
    mixing = cfg.mixing if which in ("all", "tokens") else "none"
    n_stages = 1 + (cfg.max_latent_stage if which == "tokens" else n_steps)  # that a problem can be drawn from
    # uniform_prob has a value for each stage: where there is mixing, all are trained, and a stage's number is its index
    chance = for_stage(cfg.uniform_prob, stage) if mixing == "uniform" else 0
    order, mixed = rng.permutation(size), rng.random(size) < chance
    stages = np.where(mixed, (rng.random(size) * n_stages).astype(int), stage)
    if mixing == "proportional":
        bounds = np.arange(1, stage + 2).cumsum()
        stages = np.searchsorted(bounds, rng.random(size) * bounds[-1], side="right")
    if cfg.sort_window > 1:
        starts = range(0, size, cfg.sort_window * cfg.batch_size)
        windows = [order[i : i + starts.step] for i in starts]
        order = np.concatenate([by_length(problems, window, stages, cfg) for window in windows])
        n_full = size // cfg.batch_size
        full, rest = np.split(order, [n_full * cfg.batch_size])  # the last batch, if it is a short one, stays last
        order = np.concatenate((rng.permutation(full.reshape(n_full, cfg.batch_size)).ravel(), rest))
    return list(zip(order.tolist(), stages[order].tolist()))


def by_length(problems, order, stages, cfg):
    """Problems sorted by the length of the prefix, roughly, and among those of about the same by that of the suffix."""
    first, bounds = problems.first, problems.bounds
    removed = np.minimum(stages, problems.n_steps)[order]
    prefix = bounds[first[order] + 1] - bounds[first[order]]
    suffix = bounds[first[order + 1]] - bounds[first[order] + 1 + removed]
    rank = np.argsort(np.lexsort((suffix, prefix)))
    group = rank * round(math.sqrt(cfg.sort_window)) // len(order)  # its prefixes are alike; within it, suffixes are
    return order[np.lexsort((prefix, suffix, group))]


def training_rows(problems, chosen, index, cfg, task, rng):
    """The Rows of the chosen [(number of the problem, its stage), ...] in the index-th stage of a run.

    rng: for what is drawn anew each time.
    """
    drawn = {}  # what holds for all rows of a step
    for draw in hooks(cfg, "draw"):
        drawn |= draw(cfg, index, rng)
    rows = [row for i, stage in chosen for row in task.rows(problems[i], stage, rng)]
    return [row._replace(extra=row.extra | drawn) for row in rows]


# ---------------------------------------------------------------- rows to tensors


def micro_batches(rows, cfg):
    """The rows of a step, sorted by length and cut to micro_batch_size rows and micro_batch_tokens positions each."""
    if not (cfg.micro_batch_size or cfg.micro_batch_tokens):
        yield rows
        return
    micro, limit, width = [], cfg.micro_batch_size or len(rows), ()
    for row in sorted(rows, key=size):
        wider = tuple(map(max, width or size(row), size(row)))
        if micro and (len(micro) == limit or 0 < cfg.micro_batch_tokens < sum(wider) * (len(micro) + 1)):
            yield micro
            micro, wider = [], size(row)
        micro, width = [*micro, row], wider
    yield micro


def size(row):
    """Lengths of what a row reads: shared with others, prefix, thoughts, suffix; four more for each Row in it."""
    lengths = len(row.extra.get("shared", ())), len(row.prefix), row.n, len(row.suffix)
    for value in row.extra.values():
        if isinstance(value, Row):
            lengths += size(value)
    return lengths


class Batch(NamedTuple):
    """Rows as tensors. The first five are what Coconut.forward takes; its docstring says more."""

    prefix: torch.Tensor  # (B, P) int64
    prefix_len: torch.Tensor  # (B,) int64
    n: torch.Tensor  # (B,) int64, on the CPU: the number of passes depends on it, and a GPU would have to be waited for
    suffix: torch.Tensor  # (B, S) int64
    labels: torch.Tensor  # (B, S) int64
    extra: dict  # of what is in Row.extra: lists as tensors (B, ...), filled up with -1; numbers likewise, (B,), on the
    # CPU; Rows as a Batch
    past: object = None  # what has been read before the prefix (Task.read_shared)


def collate(rows, device="cpu"):
    """Rows as a Batch on the device."""
    on_gpu = torch.device(device).type == "cuda"

    def tensor(values, filler, device=device):
        x = torch.from_numpy(pad(values, filler))
        return (x.pin_memory() if on_gpu else x).to(device, non_blocking=on_gpu)  # while the GPU works

    extra = {}
    for name, value in rows[0].extra.items():
        values = [row.extra[name] for row in rows]
        if isinstance(value, Row):
            extra[name] = collate(values, device)
        else:
            extra[name] = tensor(values, -1, device if isinstance(value, list) else "cpu")
    return Batch(
        prefix=tensor([row.prefix for row in rows], 0),
        prefix_len=tensor([len(row.prefix) for row in rows], 0),
        n=tensor([row.n for row in rows], 0, "cpu"),
        suffix=tensor([row.suffix for row in rows], 0),
        labels=tensor([row.labels for row in rows], -100),
        extra=extra,
    )


def pad(values, filler):
    """Numbers, or lists of them, or lists of lists, ..., as one int64 array, filled up where they are short."""
    if not values or not isinstance(values[0], list):
        return np.array(values, np.int64)
    parts = [pad(value, filler) for value in values]
    shape = map(max, zip_longest(*(part.shape for part in parts), fillvalue=0))  # [] may stand for lists of lists
    array = np.full((len(parts), *shape), filler, np.int64)
    for row, part in zip(array, parts):
        if part.size:
            row[tuple(map(slice, part.shape))] = part
    return array
