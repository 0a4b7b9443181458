"""
Make problems in sentences, as an example for data of your own (docs/own_data.md): who is whose grandparent?

Ten people are one family, from parent to child to grandchild and so on. Each parent is told in a sentence, but the
sentences are shuffled. Steps are the people on the way, each a name and no more.

    {"question": "Ida is the mother of Gus. Bella is the mother of Emil. Mary is the mother of Bella. Emil is the ...
                  Who is the great-grandparent of Carl?",
     "steps": ["Emil", "Bella", "Mary"], "answer": "Mary"}

Names are drawn anew for each problem, so there is nothing to be learned by heart. Whoever guesses one of the ten
people is right in 10 % of the problems, and in 13 % who also knows that it is somebody with enough descendants. No
family is asked the same question twice, in whatever order its sentences stand.

    python -m tasks.prepare_family               # data/family/{train,valid,test}.json
"""

if not __package__:
    raise SystemExit("error: call it as python -m tasks.prepare_family, from the project's folder")

import random
from dataclasses import dataclass

from config import UserError, cli, option, parse
from data import write_splits
from prepare_hops import SplitsConfig

WOMEN = "Ada Anna Bella Cora Dora Ella Emma Eva Fay Gina Hanna Ida Jane Kate Lena Lucy Mary Nora Olga Rosa".split()
MEN = "Adam Alan Ben Bob Carl Dan Emil Eric Finn Fred Gus Hugo Ivan Jack Karl Leo Max Noah Otto Paul".split()


@dataclass
class FamilyConfig(SplitsConfig):
    people: int = option(10, "people in a family, at most 40", least=2)
    steps: tuple[int, ...] = option((2, 3), "numbers of steps to draw from; 2: a grandparent", least=1, most=39)
    train: int = option(20_000, "number of training problems", least=1, most=10**7)
    valid: int = option(500, "number of validation problems", least=1, most=10**7)
    out_dir: str = option("data/family", "where the files go")


def make_problem(rng, n_people, n_steps):
    """One problem, with its identity: the family from the youngest to the oldest, who is asked about, and for whom."""
    family = rng.sample(WOMEN + MEN, n_people)
    facts = [
        f"{parent} is the {'mother' if parent in WOMEN else 'father'} of {child}."
        for child, parent in zip(family, family[1:])
    ]
    rng.shuffle(facts)
    start = rng.randrange(n_people - n_steps)
    steps = family[start + 1 : start + 1 + n_steps]
    relation = "great-" * (n_steps - 2) + "grand" * (n_steps > 1) + "parent"
    question = f"{' '.join(facts)} Who is the {relation} of {family[start]}?"
    return {"question": question, "steps": steps, "answer": steps[-1]}, (*family, start, n_steps)


def main(argv):
    cfg = parse(FamilyConfig, argv, __doc__)
    if not max(cfg.steps) < cfg.people <= len(WOMEN + MEN):
        most = f"more than {max(cfg.steps)} (steps), and at most {len(WOMEN + MEN)}, for whom there are names"
        raise UserError(f"--people={cfg.people}, expected {most}")
    rng = random.Random(cfg.seed)
    write_splits(cfg, lambda: make_problem(rng, cfg.people, rng.choice(cfg.steps)))


if __name__ == "__main__":
    cli(main)
