"""
From problems to batches: the order of an epoch, rows of similar length side by side, tensors for GPT.forward.
"""

import math

import numpy as np
import torch

from data import METHODS, of_stage, segments
from graphs import augment


def epoch_order(problems, stage, epoch, cfg):
    """The order of an epoch, as a list of (number of the problem, its stage): a function of (seed, stage, epoch) alone.

    Stage mixing: with probability uniform_prob a problem's stage is drawn from 0 .. its number of steps instead.
    With sort_window, neighbours are of similar length: shuffled rows are cut into windows of so many batches, each is
    sorted, and then the order of the batches is shuffled.
    """
    rng, n_steps = np.random.default_rng((cfg.seed, stage, epoch)), problems.n_steps
    size = len(n_steps)
    chance = of_stage(cfg.uniform_prob, stage) if METHODS[cfg.method].stages == "all" else 0
    order, mixed = rng.permutation(size), rng.random(size) < chance
    stages = np.where(mixed, (rng.random(size) * (n_steps + 1)).astype(int), stage)
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


def training_rows(problems, chosen, cfg, tok, rng):
    """The segments of the chosen [(number of the problem, its stage), ...]; rng for what is drawn anew each time."""
    drawn = ((problems[i], stage) for i, stage in chosen)
    return [segments(augment(p, cfg, tok, rng) if cfg.names else p, stage, cfg, tok, rng) for p, stage in drawn]


def micro_batches(rows, cfg):
    """The rows of a step, sorted by length and cut to micro_batch_size rows and micro_batch_tokens positions each."""
    if not (cfg.micro_batch_size or cfg.micro_batch_tokens):
        yield rows
        return
    micro, size, width = [], cfg.micro_batch_size or len(rows), (0, 0, 0)
    for row in sorted(rows, key=lambda row: (len(row[0]), row[1], len(row[2]))):
        wider = tuple(map(max, width, (len(row[0]), row[1], len(row[2]))))
        if micro and (len(micro) == size or 0 < cfg.micro_batch_tokens < sum(wider) * (len(micro) + 1)):
            yield micro
            micro, wider = [], (len(row[0]), row[1], len(row[2]))
        micro, width = [*micro, row], wider
    yield micro


def collate(rows, device="cpu"):
    """Rows of (prefix, n, suffix, labels) as the tensors (prefix, prefix_len, n, suffix, labels) of GPT.forward.

    n stays on the CPU: the number of passes depends on it, and asking a GPU for it would mean to wait for it.
    """
    prefix, n, suffix, labels = zip(*rows)

    def to_device(x):
        x = torch.tensor(x, dtype=torch.int64)  # or empty lists would become floats
        return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else x.to(device)

    def pad(lists, value):
        width = max(map(len, lists))
        return to_device([x + [value] * (width - len(x)) for x in lists])

    return pad(prefix, 0), to_device([len(x) for x in prefix]), torch.tensor(n), pad(suffix, 0), pad(labels, -100)
