"""
From problems to batches: the order of an epoch, rows of similar length side by side, tensors.

What a row is made of: curriculum.py.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from config import UserError
from curriculum import METHODS, for_stage, make_row, mixed_stages
from tasks.graphs import augment, more_questions, read_graph

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
    n_steps = problems.n_steps
    size = len(n_steps)
    mixing = cfg.mixing if METHODS[cfg.method].stages == "all" else "none"
    chance = for_stage(cfg.uniform_prob, stage) if mixing == "uniform" else 0
    order, mixed = rng.permutation(size), rng.random(size) < chance
    stages = np.where(mixed, (rng.random(size) * mixed_stages(cfg, n_steps)).astype(int), stage)
    if mixing == "proportional":
        bounds = np.arange(1, stage + 2).cumsum()
        stages = np.searchsorted(bounds, rng.random(size) * bounds[-1], side="right")
    if cfg.sort_window > 1:
        window = cfg.sort_window * cfg.batch_size
        order = np.concatenate(
            [by_length(problems, order[i : i + window], stages, cfg) for i in range(0, size, window)]
        )
        batches = [order[i : i + cfg.batch_size] for i in range(0, size, cfg.batch_size)]
        shuffled = rng.permutation(size // cfg.batch_size).tolist()  # the last batch, if it is a short one, stays last
        order = np.concatenate([batches[i] for i in shuffled] + batches[len(shuffled) :])
    return list(zip(order.tolist(), stages[order].tolist()))


def by_length(problems, order, stages, cfg):
    """Problems sorted by the length of the prefix, roughly, and among those of about the same by that of the suffix."""
    first, bounds = problems.first, problems.bounds
    removed = np.minimum(stages, problems.n_steps)[order]
    prefix = bounds[first[order] + 1] - bounds[first[order]]
    suffix = bounds[first[order + 1]] - bounds[first[order] + 1 + removed]
    rank = np.argsort(np.lexsort((suffix, prefix)))
    group = rank * round(math.sqrt(cfg.sort_window)) // len(order)
    return order[np.lexsort((prefix, suffix, group))]


def training_rows(problems, chosen, cfg, tok, rng, given=None):
    """The Rows of the chosen [(number of the problem, its stage), ...]; rng for what is drawn anew each time."""
    rows = []
    for i, stage in chosen:
        asked, shared = [problems[i]], []
        if cfg.names:
            asked = [augment(problems[i], cfg, tok, rng)]
        if cfg.questions > 1:
            shared = asked[0].question[: -len(read_graph(asked[0].question, cfg, tok)[2])]
            asked += more_questions(asked[0], cfg.questions - 1, cfg, tok, rng)
        for row in (make_row(problem, stage, cfg, tok, rng) for problem in asked):
            needed = max(len(each.prefix) + each.n + len(each.suffix) for each in (row, row.teacher) if each)
            if needed > cfg.block_size:  # load() has seen the questions in the file, but not what is drawn
                raise UserError(f"a question drawn about example {i} takes {needed} positions: raise block_size")
            teacher = row.teacher and row.teacher._replace(prefix=row.teacher.prefix[len(shared) :])
            row = row._replace(shared=shared, prefix=row.prefix[len(shared) :], given=given, teacher=teacher)
            rows.append(row)
    return rows


def micro_batches(rows, cfg):
    """The rows of a step, sorted by length and cut to micro_batch_size rows and micro_batch_tokens positions each."""
    if not (cfg.micro_batch_size or cfg.micro_batch_tokens):
        yield rows
        return
    micro, limit, width = [], cfg.micro_batch_size or len(rows), size(rows[0])
    for row in sorted(rows, key=size):
        wider = tuple(map(max, width, size(row))) if micro else size(row)
        if micro and (len(micro) == limit or 0 < cfg.micro_batch_tokens < sum(wider) * (len(micro) + 1)):
            yield micro
            micro, wider = [], size(row)
        micro, width = [*micro, row], wider
    yield micro


def size(row):
    """Lengths of prefix, thoughts and suffix, of its teacher's, too, and of what it shares with other rows."""
    own = len(row.shared), len(row.prefix), row.n, len(row.suffix)
    return own + size(row.teacher) if row.teacher else own


NOTHING, ANYTHING = -1, -2  # no further token in a set of targets; a state that may predict whatever it likes


class Batch(NamedTuple):
    """Rows as tensors. The first five are what Coconut.think and GPT.forward take; their docstrings say more."""

    prefix: torch.Tensor  # (B, P) int64
    prefix_len: torch.Tensor  # (B,) int64
    n: torch.Tensor  # (B,) int64, on the CPU: the number of passes depends on it, and a GPU would have to be waited for
    suffix: torch.Tensor  # (B, S) int64
    labels: torch.Tensor  # (B, S) int64
    shared: torch.Tensor | None  # (G, P') int64: what is read before the prefix, by B / G rows each
    shared_len: torch.Tensor | None  # (G,) int64
    targets: torch.Tensor | None  # (B, N+1, W) int64: what the states should predict: sets of tokens, filled up with
    # NOTHING, or ANYTHING
    given: int | None  # not None: the thoughts are what they should be, fed back so often, all at once
    teacher: "Batch | None"
    steps: torch.Tensor | None  # (B, G, W) int64: what each group of thoughts stands for, filled up with NOTHING
    answer: torch.Tensor | None  # (B,) int64: where in the suffix the answer begins, if there is a teacher


def collate(rows, device="cpu"):
    """Rows as a Batch on the device."""
    on_gpu = torch.device(device).type == "cuda"

    def tensor(x, device=device):
        x = torch.tensor(x, dtype=torch.int64)  # or empty lists would become floats
        return (x.pin_memory() if on_gpu else x).to(device, non_blocking=on_gpu)  # while the GPU works

    def pad(lists, value):
        width = max(map(len, lists))
        return tensor([[*x, *[value] * (width - len(x))] for x in lists])

    shared = [row.shared for row in rows]
    times = sum(x is shared[0] for x in shared)  # so many rows read one after the other what stands there once
    if len(rows) % times or any(x is not shared[i - i % times] for i, x in enumerate(shared)):
        times = 1  # such as rows of a micro-batch that ends in the middle of a graph's questions
    shared, targets = shared[::times], None
    if rows[0].targets:
        sets = [[[ANYTHING] if found is None else found or [NOTHING] for found in row.targets] for row in rows]
        most, widest = max(map(len, sets)), max(len(found) for row in sets for found in row)
        sets = [row + [[ANYTHING]] * (most - len(row)) for row in sets]
        targets = tensor([[[*found, *[NOTHING] * (widest - len(found))] for found in row] for row in sets])
    steps, n_groups = [row.steps for row in rows], max(len(row.steps) for row in rows)
    if n_groups:
        width = max(1, *(len(text) for groups in steps for text in groups))
        steps = [groups + [[]] * (n_groups - len(groups)) for groups in steps]
        steps = tensor([[text + [NOTHING] * (width - len(text)) for text in groups] for groups in steps])
    return Batch(
        prefix=pad([row.prefix for row in rows], 0),
        prefix_len=tensor([len(row.prefix) for row in rows]),
        n=tensor([row.n for row in rows], device="cpu"),
        suffix=pad([row.suffix for row in rows], 0),
        labels=pad([row.labels for row in rows], -100),
        shared=pad(shared, 0) if any(shared) else None,
        shared_len=tensor([len(x) for x in shared]) if any(shared) else None,
        targets=targets,
        given=rows[0].given,
        teacher=collate([row.teacher for row in rows], device) if rows[0].teacher else None,
        steps=steps if n_groups else None,
        answer=tensor([row.answer for row in rows]) if rows[0].answer is not None else None,
    )
