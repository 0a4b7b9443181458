"""
From a file of worked problems to batches of three segments, for any stage of the curriculum.

A data file is a JSON list of {"question": str, "steps": [str, ...], "answer": str}; other keys are ignored. Whatever
the method and the stage, a problem becomes (prefix, n, suffix, labels). Coconut with two steps, one thought per step:

    stage 0    question <bot>    -                  <eot> step1 step2 answer eos
    stage 1    question <bot>    thought            <eot> step2 answer eos
    stage 2    question <bot>    thought thought    <eot> answer eos
               prefix            n = 0, 1, 2        suffix, all of it scored but <eot>
"""

import json
import os
import re
from typing import NamedTuple

import numpy as np
import tiktoken
import torch

from config import UserError

# ---------------------------------------------------------------- tokenizers: tiktoken Encodings, whatever the task

# Names and, after GPT-2's vocabulary, ids (50256 to 50259) are the official code's; <|latent|> is our <pause> as well.
SPECIALS = EOS, BOT, EOT, PAUSE = "<|endoftext|>", "<|start-latent|>", "<|end-latent|>", "<|latent|>"
PATTERNS = {
    "words": r"[^\w\n]?\w+| ?[^\w\s]+|\s",  # a word takes along the one character before it: " is", ">b"
    "chars": r"[\s\S]",
}


def make_tokenizer(kind, pieces=()):
    """A tiktoken.Encoding with the SPECIALS: "gpt2", or "words" or "chars" that know the given pieces of text.

    Text is encoded with encode_ordinary, so that "<|latent|>" in a question remains text.
    """
    if kind == "gpt2":
        try:
            base = tiktoken.get_encoding("gpt2")
        except OSError as e:  # requests' errors are OSErrors
            raise UserError(f"cannot download GPT-2's vocabulary (or set TIKTOKEN_CACHE_DIR): {e}") from None
        pattern, ranks = base._pat_str, base._mergeable_ranks
    else:
        pattern, ranks = PATTERNS[kind], {bytes([i]): i for i in range(256)}  # unknown pieces are spelt in bytes
        for piece in pieces:
            ranks.setdefault(piece.encode(), len(ranks))
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    return tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)


def find_pieces(problems, cfg):
    """The words (or characters) that a file's problems are made of, sorted; GPT-2 brings its own."""
    if cfg.tokenizer == "gpt2":
        return []
    pattern = re.compile(PATTERNS[cfg.tokenizer])
    return sorted({piece for p in problems for text in texts(p, cfg) for piece in pattern.findall(text)})


# ---------------------------------------------------------------- problems


class Problem(NamedTuple):
    """A worked problem in tokens; the answer ends in eos."""

    question: list[int]
    steps: list[list[int]]
    answer: list[int]


def load_json(path):
    """The problems of a data file as dicts; UserError says what is wrong, and where."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            problems = json.load(f)
    except FileNotFoundError:
        script = f"prepare_{os.path.basename(os.path.dirname(os.path.abspath(path)))}.py"
        hint = f"; `python {script}` makes it" if os.path.exists(script) else ""
        raise UserError(f"{path}: no such file{hint}") from None
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
    return problems


def write_splits(cfg, draw):
    """Write train.json, valid.json and test.json of cfg.train, cfg.valid and cfg.test problems into cfg.out_dir.

    draw() -> (problem as a dict, its identity); no identity gets into the files twice, so nothing in test is in train.
    """
    os.makedirs(cfg.out_dir, exist_ok=True)
    seen = set()
    for name in ("train", "valid", "test"):
        problems, wanted, misses = [], getattr(cfg, name), 0
        while len(problems) < wanted:
            problem, identity = draw()
            misses = misses + 1 if identity in seen else 0
            if misses > 10_000:
                raise UserError(f"only {len(seen):,} different problems of this kind can be found: ask for fewer")
            if not misses:
                problems.append(problem)
            seen.add(identity)
        path = os.path.join(cfg.out_dir, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(problems, f)
        print(f"{path}: {wanted:,} problems, such as {problems[0]}")


def texts(problem, cfg):
    """[question, step, ..., answer] of one dict as they are written in this configuration's formats."""
    steps = [cfg.step_format.replace("{}", step) for step in problem["steps"]]
    question = cfg.question_format.replace("{}", problem["question"])
    return [question, *steps, cfg.answer_format.replace("{}", problem["answer"])]


def encode(problem, cfg, tok):
    """A dict of a data file as a Problem."""
    question, *steps, answer = [tok.encode_ordinary(text) for text in texts(problem, cfg)]
    return Problem(question, steps, answer + [tok.eot_token])


def read_answer(text, cfg):
    """The answer in a generated text: what follows the last mark, such as "### "; None if there is no mark."""
    mark = cfg.answer_format.partition("{}")[0].strip()
    _, found, answer = text.rpartition(mark) if mark else ("", True, text)
    return answer.strip() if found else None


def right_answer(problem, cfg, tok):
    """What read_answer returns for a correct solution."""
    return read_answer(tok.decode(problem.answer[:-1]), cfg)


# ---------------------------------------------------------------- curriculum


def stages(cfg, problems):
    """(numbers of the stages to train, how many stages the full curriculum has).

    Stage max_latent_stage + 1, if there is one, is the paper's final stage: no more thoughts, but no step is written.
    """
    last = cfg.max_latent_stage
    curriculum = list(range(last + 1 + any(len(p.steps) > last for p in problems)))
    return {"cot": [0], "no_cot": [last + 1]}.get(cfg.method, curriculum), len(curriculum)


def of_stage(values, stage):
    """The value for a stage, of a setting with one value for each; the last one holds for all further stages."""
    return values[min(stage, len(values) - 1)]


PLAIN = ("cot", "no_cot")  # methods without thoughts or anything in their place


def prompt(question, n, cfg, tok):
    """What the model is given to answer a question with n thoughts: (prefix, n, forced), as GPT.generate takes them."""
    bot, eot, pause = (tok.encode_single_token(name) for name in (BOT, EOT, PAUSE))
    if cfg.method in PLAIN:
        return question, n, []
    prefix = question + [bot] * (cfg.markers != "none")
    forced = [eot] * (cfg.markers == "both")  # thinking ends when we say so: the model is never asked to predict <eot>
    return (prefix + [pause] * n, 0, forced) if cfg.method == "pause_as_thought" else (prefix, n, forced)


def split(problem, stage, cfg, tok):
    """One problem at one stage: (prefix, n, forced) of its prompt, and the tokens that the model should then write.

    In stage k the first k steps (remove_from="back": the last k) give way to k * c_thought thoughts. A problem of
    fewer steps gets fewer thoughts, unless pad_latent_to_max. Past max_latent_stage all steps go.
    """
    stage = {"cot": 0, "no_cot": cfg.max_latent_stage + 1}.get(cfg.method, stage)
    n_steps = len(problem.steps)
    removed = n_steps if stage > cfg.max_latent_stage else min(stage, n_steps)
    replaced = min(stage if cfg.pad_latent_to_max else removed, cfg.max_latent_stage)
    read, write = [], problem.steps[removed:]
    if removed and cfg.remove_from == "back":  # the steps that stay come before the thoughts: they are read
        read, write = problem.steps[: n_steps - removed], []
    n = 0 if cfg.method in PLAIN else replaced * cfg.c_thought
    prefix, n, forced = prompt(sum(read, problem.question), n, cfg, tok)
    return prefix, n, forced, sum(write, []) + problem.answer


def segments(problem, stage, cfg, tok):
    """One problem at one stage as (prefix, n, suffix, labels), in lists of tokens: a row of GPT.forward."""
    prefix, n, forced, written = split(problem, stage, cfg, tok)
    # With peek, the place before <eot> is trained on what comes after <eot>, so that thinking has a meaning at once.
    return prefix, n, forced + written, [written[0] if cfg.peek else -100] * len(forced) + written


def load(path, cfg, tok):
    """The problems of a data file, encoded; UserError for one that is too long at some stage, or is nothing at all."""
    problems = [encode(p, cfg, tok) for p in load_json(path)]
    for i, p in enumerate(problems):
        n_steps = len(p.steps)
        for stage in range(min(n_steps, cfg.max_latent_stage) + 2):
            prefix, n, suffix, _ = segments(p, stage, cfg, tok)
            if len(prefix) + n + len(suffix) > cfg.block_size:
                lengths = f"{len(prefix)} + {n} + {len(suffix)} positions (question, thoughts, rest) at stage {stage}"
                raise UserError(f"{path}: example {i} is too long: {lengths}, but block_size is {cfg.block_size}")
        if not prefix:
            raise UserError(f"{path}: example {i} has no question")
    return problems


# ---------------------------------------------------------------- batches


def epoch_order(problems, stage, epoch, cfg):
    """The problems of one epoch in their order, as a list of (index, stage): a function of (seed, stage, epoch) alone.

    Stage mixing: with probability uniform_prob a problem's stage is drawn from 0 .. its number of steps instead.
    """
    rng = np.random.default_rng((cfg.seed, stage, epoch))
    order = rng.permutation(len(problems)).tolist()
    mixed, where = rng.random(len(problems)) < of_stage(cfg.uniform_prob, stage), rng.random(len(problems))
    return [(i, int(where[i] * (len(problems[i].steps) + 1)) if mixed[i] else stage) for i in order]


def collate(rows, device="cpu"):
    """Rows of (prefix, n, suffix, labels) as the tensors (prefix, prefix_len, n, suffix, labels) of GPT.forward."""
    prefix, n, suffix, labels = zip(*rows)

    def pad(lists, value):
        width = max(map(len, lists))
        return torch.tensor([x + [value] * (width - len(x)) for x in lists], dtype=torch.long, device=device)

    length, n = torch.tensor([len(x) for x in prefix], device=device), torch.tensor(n, device=device)
    return pad(prefix, 0), length, n, pad(suffix, 0), pad(labels, -100)
