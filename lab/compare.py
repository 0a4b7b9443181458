"""
Two checkpoints, asked the same questions: is one of them better than the other?

    python -m lab.compare out/hops out/hops_no_cot                     # on the test file of the first one's task
    python -m lab.compare out/hops/best.pt out/hops_cot/best.pt data/hops/valid.json

Each answers as it does in an evaluation. What tells them apart are the questions that only one of them gets right: if
both were equally good, each of these would be a coin's toss between the two (McNemar's test, computed exactly).
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.compare, from the project's folder")

from dataclasses import dataclass, replace
from math import comb
from statistics import fmean

import torch

from config import UserError, cli, option, parse
from evaluate import percent, precision
from lab.questions import AskConfig, load


@dataclass
class CompareConfig(AskConfig):
    other: str = option("", "the run, or checkpoint, to compare it with")
    count: int = option(10**6, "how many of the file's questions, at most", least=1)


def mcnemar(n_first, n_second):
    """The exact p that of so many questions, on which two disagree, as few or fewer fall to one of them by chance."""
    n, least = n_first + n_second, min(n_first, n_second)
    return min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)


@torch.no_grad()
def main(argv):
    args = parse(CompareConfig, argv, __doc__, places=("ckpt", "other", "data"))
    if not args.other:
        raise UserError("expected two checkpoints, such as out/hops out/hops_no_cot")
    names, right = [], []
    for path in (args.ckpt, args.other):
        asked, about = load(replace(args, ckpt=path))
        args.data = about["data"]
        with precision(asked.task.cfg, next(asked.model.parameters()).device):
            right.append([answer.right for answer in asked.answer(asked.in_evaluation)])
        names.append(about["checkpoint"])
    pairs = [*zip(*right)]
    print(f"\n{len(pairs):,} questions of {args.data}")
    for name, of in zip(names, right):
        print(f"{name}: {percent(fmean(of), len(of))} right")
    first, second = pairs.count((True, False)), pairs.count((False, True))
    print(f"both right: {pairs.count((True, True)):,}, neither: {pairs.count((False, False)):,}")
    print(f"only {names[0]}: {first:,}, only {names[1]}: {second:,}; exact McNemar p = {mcnemar(first, second):.2g}")
    print("This says something about these two checkpoints, not about two methods: another seed is another checkpoint")
    print("(several seeds of each: python -m lab.runs).")


if __name__ == "__main__":
    cli(main)
