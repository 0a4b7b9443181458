"""
From a file of worked problems to batches of three segments, for any method and any stage of the curriculum.

A data file is a JSON list of {"question": str, "steps": [str, ...], "answer": str}; other keys are ignored. A problem
at a stage becomes (prefix, n, suffix, labels). Coconut with two steps, one thought for each:

    stage 0    question <bot>    -                  <eot> step1 step2 answer eos
    stage 1    question <bot>    thought            <eot> step2 answer eos
    stage 2    question <bot>    thought thought    <eot> answer eos
               prefix            n = 0, 1, 2        suffix; its labels score everything but <eot>

What the model gets when it has to answer is the prompt (prefix, n, forced); forced is the part of the suffix that is
given and not written: [<eot>], or nothing.
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

# Names and, after GPT-2's vocabulary, ids (50256 to 50259) are the official code's. Where a method wants a <pause>
# token, <|latent|> is it: continuous thoughts need no token of their own here.
SPECIALS = EOS, BOT, EOT, PAUSE = "<|endoftext|>", "<|start-latent|>", "<|end-latent|>", "<|latent|>"
PATTERNS = {
    "words": r"[^\w\n]?\w+| ?[^\w\s]+|\s",  # a word takes along the one character before it: " is", ">b"
    "chars": r"[\s\S]",
}


def make_tokenizer(kind, pieces=()):
    """A tiktoken.Encoding with the SPECIALS: "gpt2", or "words" or "chars" that know the given pieces of text.

    Text is always encoded with encode_ordinary, so that "<|latent|>" in a question remains text.
    """
    if kind == "gpt2":
        try:
            base = tiktoken.get_encoding("gpt2")
        except OSError as e:  # requests' errors are OSErrors
            raise UserError(f"cannot download GPT-2's vocabulary (or set TIKTOKEN_CACHE_DIR): {e}") from None
        pattern, ranks = base._pat_str, base._mergeable_ranks
    else:  # what is not among the pieces is spelt in shorter ones, in the end in bytes
        pattern, ranks = PATTERNS[kind], {bytes([i]): i for i in range(256)}
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


def encode(problem, cfg, tok):
    """A dict of a data file as a Problem."""
    question, *steps, answer = [tok.encode_ordinary(text) for text in texts(problem, cfg)]
    return Problem(question, steps, answer + [tok.encode_single_token(EOS)])


def encode_all(problems, cfg, tok, path):
    """The dicts of a data file as Problems; UserError for one that cannot be trained on. path: for the message."""
    encoded = []
    for i, p in enumerate(problems):
        encoded.append(problem := encode(p, cfg, tok))
        if read_answer(texts(p, cfg)[-1], cfg) != p["answer"].strip():
            mark = cfg.answer_format.partition("{}")[0].strip()
            raise UserError(f"{path}: example {i}: its answer contains {mark!r}, which marks an answer (answer_format)")
        if not problem.question:
            raise UserError(f"{path}: example {i}: its question has no tokens")
        check_length(problem, cfg, tok, f"{path}: example {i}")
    return encoded


def check_length(problem, cfg, tok, where):
    """UserError if the problem does not fit into block_size at some stage."""
    tokens = len(problem.question) + sum(map(len, problem.steps)) + len(problem.answer)
    if tokens + 2 + cfg.max_latent_stage * cfg.c_thought <= cfg.block_size:
        return  # not even all thoughts and all steps together would be too long
    for stage in range(cfg.max_latent_stage + 2):
        prefix, n, suffix, _ = segments(problem, stage, cfg, tok)
        if len(prefix) + n + len(suffix) > cfg.block_size:
            lengths = f"{len(prefix)} + {n} + {len(suffix)} positions (prefix, thoughts, suffix) at stage {stage}"
            raise UserError(f"{where} is too long: {lengths}, but block_size is {cfg.block_size}")


def read_answer(text, cfg):
    """The answer in a solution: what follows the last mark, such as "###"; None if there is no mark."""
    _, found, answer = text.rpartition(cfg.answer_format.partition("{}")[0].strip())
    return answer.strip() if found else None


def right_answer(problem, cfg, tok):
    """What read_answer returns for a correct solution."""
    return read_answer(tok.decode(problem.answer[:-1]), cfg)


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
        print(f"{path}: {len(splits[name]):,} problems, such as {splits[name][0]}")


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


def count(n_steps, stage, cfg):
    """(steps that are not written, thoughts in their place) at this stage, of a problem with n_steps.

    Stage k takes away k steps and gives k * c_thought thoughts; where there are fewer steps, fewer thoughts as well,
    unless pad_latent_to_max.
    """
    if cfg.method in ("cot", "no_cot"):
        return (0 if cfg.method == "cot" else n_steps), 0
    removed = n_steps if stage > cfg.max_latent_stage else min(stage, n_steps)
    return removed, cfg.c_thought * min(stage if cfg.pad_latent_to_max else removed, cfg.max_latent_stage)


def make_prompt(question, n, cfg, tok):
    """What the model is given to answer a question with n thoughts: (prefix, n, forced)."""
    bot, eot, pause = (tok.encode_single_token(name) for name in (BOT, EOT, PAUSE))
    if cfg.method in ("cot", "no_cot"):
        return question, n, []
    prefix = question + [bot] * (cfg.markers != "none")
    forced = [eot] * (cfg.markers == "both")  # thinking ends when we say so: the model is never asked to predict <eot>
    return (prefix + [pause] * n, 0, forced) if cfg.method == "pause_as_thought" else (prefix, n, forced)


def split(problem, stage, cfg, tok):
    """One problem at one stage: its prompt (prefix, n, forced), and the tokens that the model should then write."""
    removed, n = count(len(problem.steps), stage, cfg)
    read, write = [], problem.steps[removed:]
    if removed and cfg.remove_from == "back":  # the last steps go, so those that stay come before the thoughts: read
        read, write = problem.steps[: len(problem.steps) - removed], []
    return make_prompt(sum(read, problem.question), n, cfg, tok), sum(write, []) + problem.answer


def segments(problem, stage, cfg, tok):
    """One problem at one stage as (prefix, n, suffix, labels), in lists of tokens: a row of GPT.forward."""
    (prefix, n, forced), written = split(problem, stage, cfg, tok)
    # With peek, the place before <eot> is trained on what comes after <eot>, so that thinking has a meaning at once.
    return prefix, n, forced + written, [written[0] if cfg.peek else -100] * len(forced) + written


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
