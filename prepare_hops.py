"""
Make the quick start's data: follow arrows from node to node.

Ten nodes stand in one random circle of arrows. The arrows are listed in random order, as pairs of nodes ("e c" is an
arrow from e to c), then comes the node to start from. Where do four hops lead?

    {"question": "e c b i c g g h a j i f d b h a j d f e start c",
     "steps": ["g", "h", "a", "j"], "answer": "j"}

One arrow is easy to look up. Four of them at once are not: a small GPT that has to answer right away stays at chance.
No circle with the same start occurs twice in the three files, in whatever order its arrows are listed.

    python prepare_hops.py                 # data/hops/{train,valid,test}.json
    python prepare_hops.py --hops=6 --out_dir=data/hops6
    python prepare_hops.py --hops=2,6 --out_dir=data/hops_mixed      # "... go 3 start c": as many as it says
"""

import random
from dataclasses import dataclass

from config import UserError, cli, option, parse
from data import write_splits


@dataclass
class SplitsConfig:
    """What write_splits wants of every such script (tasks/prepare_*.py)."""

    train: int = option(50_000, "number of training problems", least=1, most=10**7)
    valid: int = option(1_000, "number of validation problems", least=1, most=10**7)
    test: int = option(1_000, "number of test problems", least=1, most=10**7)
    out_dir: str = option("data/hops", "where the files go")
    seed: int = option(0, "seed of the random numbers")


@dataclass
class HopsConfig(SplitsConfig):
    nodes: int = option(10, "nodes in the circle", least=2, most=26)
    hops: tuple[int, ...] = option(
        (4,), "arrows to follow; fewest,most: the question says how many", least=1, most=1000
    )


def make_problem(rng, n_nodes, hops):
    """One problem, with its identity: the circle, told from the start."""
    n_hops = rng.randint(*hops) if len(hops) > 1 else hops[0]
    circle = list("abcdefghijklmnopqrstuvwxyz"[:n_nodes])
    rng.shuffle(circle)
    arrows = [f"{a} {b}" for a, b in zip(circle, circle[1:] + circle[:1])]
    rng.shuffle(arrows)
    steps = [circle[i % n_nodes] for i in range(1, n_hops + 1)]
    how_many = f" go {n_hops}" if len(hops) > 1 else ""
    question = f"{' '.join(arrows)}{how_many} start {circle[0]}"
    return {"question": question, "steps": steps, "answer": steps[-1]}, "".join(circle)


def main(argv):
    cfg = parse(HopsConfig, argv, __doc__)
    if len(cfg.hops) > 2 or cfg.hops[0] > cfg.hops[-1]:
        raise UserError(f"--hops={','.join(map(str, cfg.hops))}: expected one number, or fewest,most")
    rng = random.Random(cfg.seed)
    write_splits(cfg, lambda: make_problem(rng, cfg.nodes, cfg.hops))


if __name__ == "__main__":
    cli(main)
