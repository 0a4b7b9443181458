"""
From a file of worked problems to the three segments of each, for any method and any stage of the curriculum.

A data file is a JSON list of {"question": str, "steps": [str, ...], "answer": str}; other keys are ignored. A problem
at a stage becomes (prefix, n, suffix, labels). Coconut with two steps, one thought for each:

    stage 0    question <bot>    -                  <eot> step1 step2 answer eos
    stage 1    question <bot>    thought            <eot> step2 answer eos
    stage 2    question <bot>    thought thought    <eot> answer eos
               prefix            n = 0, 1, 2        suffix; its labels score everything but <eot>

What the model gets when it has to answer is the prompt (prefix, n, forced); forced is the part of the suffix that is
given and not written: [<eot>], or nothing.
"""

import hashlib
import json
import math
import os
import re
import time
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import numpy as np

from config import UserError
from graphs import frontier
from tokenizer import BOT, EOS, EOT, PATTERNS, PAUSE

# ---------------------------------------------------------------- problems


class Problem(NamedTuple):
    """A worked problem in tokens; the answer ends in eos."""

    question: list[int]
    steps: list[list[int]]
    answer: list[int]


def check_exists(path):
    """UserError if there is no such data file, with the script that makes it."""
    if not os.path.exists(path):
        script = f"prepare_{os.path.basename(os.path.dirname(os.path.abspath(path)))}.py"
        hint = f"; `python {script}` makes it" if os.path.exists(script) else "; README.md says what belongs there"
        raise UserError(f"{path}: no such file{hint}")


def load_json(path):
    """The problems of a data file as dicts; UserError says what is wrong, and where."""
    check_exists(path)
    try:
        with open(path, encoding="utf-8-sig") as f:
            problems = json.load(f)
    except (ValueError, RecursionError) as e:  # broken JSON or broken UTF-8; the message has line and column
        raise UserError(f"{path}: not JSON: {e}") from None
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
        with suppress(OSError), open(f"{path}.{os.getpid()}.tmp", "wb") as f:  # if not: then it takes longer next time
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
            prefix, n, suffix, _ = segments(problems[i], stage, cfg, tok)
            if len(prefix) + n + len(suffix) > cfg.block_size:
                lengths = f"{len(prefix)} + {n} + {len(suffix)} positions (prefix, thoughts, suffix) at stage {stage}"
                needed = f"block_size is {cfg.block_size}, {len(prefix) + n + len(suffix)} or more would do"
                raise UserError(f"{path}: example {i} is too long: {lengths}, but {needed}")


def read_answer(text, cfg):
    """The answer in a solution: what follows the last mark, such as "###", without commas (as the official code does).

    None if there is no mark.
    """
    _, found, answer = text.rpartition(cfg.answer_format.partition("{}")[0].strip())
    return answer.replace(",", "").strip() if found else None


def right_answer(problem, cfg, tok):
    """What read_answer returns for a correct solution."""
    return read_answer(tok.decode(problem.answer[:-1]), cfg)


def is_right(text, problem, stage, cfg, tok):
    """Whether what was written at a stage is right: its answer, or with another target than "rest" the step."""
    done, _ = count(len(problem.steps), stage, cfg)
    if of_stage(cfg.target, stage) != "rest" and done < len(problem.steps):
        return text in [tok.decode(step) for step in next_steps(problem, done, stage, cfg, tok)]
    return read_answer(text, cfg) == right_answer(problem, cfg, tok)


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


# ---------------------------------------------------------------- methods and stages


class Method(NamedTuple):
    """What a method trains on; with stages and the other settings, segments() follows from it."""

    row: str  # of the paper's table 1
    stages: str  # "all" of the curriculum; only the "first", where every step is written; only the "last": none is
    instead: str  # what stands in place of a removed step: "thought", "pause" or nothing
    markers: bool  # whether <bot> and <eot> stand around it


METHODS = {  #                       row of table 1                  stages   instead    markers
    "coconut":          Method("Coconut",                    "all",   "thought", True),
    "cot":              Method("CoT",                        "first", "",        False),
    "no_cot":           Method("No-CoT",                     "last",  "",        False),
    "icot":             Method("iCoT",                       "all",   "",        False),  # tokens go, not steps
    "pause":            Method("Pause token",                "last",  "pause",   False),
    "no_curriculum":    Method("Coconut without curriculum", "last",  "thought", True),
    "no_thought":       Method("Coconut without thought",    "all",   "",        False),
    "pause_as_thought": Method("pause as thought",           "all",   "pause",   True),
}  # fmt: skip


def stages(cfg, longest):
    """(numbers of the stages to train, how many stages the full curriculum has); longest: most steps of a problem.

    Stage max_latent_stage + 1, if there is one, is the paper's final stage: no more thoughts, but no step is written.
    """
    last = cfg.max_latent_stage
    curriculum = list(range(last + 1 + (longest > last and cfg.method != "icot")))
    return {"first": [0], "last": [last + 1]}.get(METHODS[cfg.method].stages, curriculum), len(curriculum)


def of_stage(values, stage):
    """The value for a stage, of a setting with one value for each; the last one holds for all further stages."""
    return values[min(stage, len(values) - 1)]


def count(n_steps, stage, cfg):
    """(steps that are not written, thoughts or pauses in their place) at this stage, of a problem with n_steps.

    Stage k takes away k steps and gives k * c_thought thoughts; where there are fewer steps, fewer thoughts as well,
    unless pad_latent_to_max.
    """
    removed = n_steps if stage > cfg.max_latent_stage else min(stage, n_steps)
    n = cfg.c_thought * min(stage if cfg.pad_latent_to_max else removed, cfg.max_latent_stage)
    return removed, n if METHODS[cfg.method].instead else 0


def make_prompt(question, n, cfg, tok):
    """What the model is given to answer a question with n thoughts: (prefix, n, forced)."""
    bot, eot, pause = (tok.encode_single_token(name) for name in (BOT, EOT, PAUSE))
    method = METHODS[cfg.method]
    prefix = question + [bot] * (method.markers and cfg.markers != "none")
    forced = [eot] * (method.markers and cfg.markers == "both")  # we end the thinking: <eot> is never to be predicted
    return (prefix + [pause] * n, 0, forced) if method.instead == "pause" else (prefix, n, forced)


def next_steps(problem, done, stage, cfg, tok):
    """What may be written next: the next step; target "frontier": all nodes as far (UserError if that step is not)."""
    step = problem.steps[done]
    if of_stage(cfg.target, stage) != "frontier":
        return [step]
    nodes = [[node] for node in frontier(problem.question, done + 1, cfg, tok)]
    if step not in nodes:
        text = tok.decode(problem.question + step)[-60:]
        raise UserError(f"target = 'frontier': {text!r}: this step is not at distance {done + 1} from the root")
    return [step] + [node for node in nodes if node != step]


def split(problem, stage, cfg, tok, rng=None):
    """One problem at one stage: its prompt (prefix, n, forced), and the tokens that the model should then write.

    With rng as it is trained on: where the method or the target is random, it is drawn anew.
    """
    removed, n = count(len(problem.steps), stage, cfg)
    read, write = [], problem.steps[removed:]
    if cfg.method == "icot":  # Deng et al. 2024 (2405.14838): tokens go from the left, now and then some more of them
        more = rng.geometric(1 - math.exp(-4)) - 1 if rng else 0
        gone = cfg.icot_tokens * stage + more if stage < cfg.max_latent_stage else None
        write = [sum(problem.steps, [])[gone:] if gone is not None else []]
    elif removed and cfg.remove_from == "back":  # the last steps go, so those that stay come before the thoughts: read
        read, write = problem.steps[: len(problem.steps) - removed], []
    written = sum(write, []) + problem.answer
    if write and of_stage(cfg.target, stage) != "rest":  # "Reasoning by Superposition" (2505.12514): one step only
        written = next_steps(problem, removed, stage, cfg, tok)
        written = written[rng.integers(len(written)) if rng else 0] + problem.answer[-1:]
    return make_prompt(sum(read, problem.question), n, cfg, tok), written


def segments(problem, stage, cfg, tok, rng=None):
    """One problem at one stage as (prefix, n, suffix, labels), in lists of tokens: a row of GPT.forward."""
    (prefix, n, forced), written = split(problem, stage, cfg, tok, rng)
    # With peek, the place before <eot> is trained on what comes after <eot>, so that thinking has a meaning at once.
    return prefix, n, forced + written, [written[0] if cfg.peek else -100] * len(forced) + written
