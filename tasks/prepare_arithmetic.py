"""
Make problems of arithmetic with names: each variable is defined by another, and the definitions are shuffled.

    {"question": "c e*3 d c-2 e g+5 a b+6 a = 4 b d*5 e ?",
     "steps": ["a = 4", "b+6 = 3", "d*5 = 1", "c-2 = 6", "e*3 = 4"], "answer": "4"}

"a b+6" says that b is a+6, and all numbers are modulo 7: 4+6 is 3. In the first step there is nothing to be worked
out; each of the other four needs the one before it. The question does not need g, a distractor: it is defined by e
(or by another distractor). Names stand in the order of thinking, so that what follows can be looked up (LOG.md).

Every step matters: nothing is added that is 0, and nothing multiplied by what has no inverse, so that another number
to begin with means another answer, and all answers are equally likely. No problem occurs twice in the three files, in
whatever order its definitions stand.

    python -m tasks.prepare_arithmetic           # data/arithmetic/{train,valid,test}.json
    python -m tasks.prepare_arithmetic --depth=6 --distractors=0 --modulus=10 --out_dir=data/arithmetic6
"""

if not __package__:
    raise SystemExit("error: call it as python -m tasks.prepare_arithmetic, from the project's folder")

import math
import random
from collections import Counter
from dataclasses import dataclass

from config import UserError, cli, option, parse
from data import write_splits
from prepare_hops import SplitsConfig

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass
class ArithmeticConfig(SplitsConfig):
    modulus: int = option(7, "numbers are 0 to modulus - 1: single digits", least=3, most=10)
    depth: int = option(4, "operations from the given number to the answer", least=1, most=25)
    distractors: int = option(2, "variables that the question does not need", least=0, most=24)
    out_dir: str = option("data/arithmetic", "where the files go")


def make_problem(rng, modulus, depth, distractors):
    """One problem, with its identity: what is defined, in any order, and what is asked for."""
    names = rng.sample("abcdefghijklmnopqrstuvwxyz", 1 + depth + distractors)
    factors = [n for n in range(2, modulus) if math.gcd(n, modulus) == 1]
    values = [rng.randrange(modulus)]
    definitions, steps = [f"{names[0]} = {values[0]}"], [f"{names[0]} = {values[0]}"]
    for i in range(1, len(names)):
        of = i - 1 if i <= depth else rng.randrange(depth, i)
        sign = rng.choice([*OPERATORS])
        number = rng.choice(factors) if sign == "*" else rng.randrange(1, modulus)
        values.append(OPERATORS[sign](values[of], number) % modulus)
        definitions.append(f"{names[of]} {names[i]}{sign}{number}")
        steps.append(f"{names[i]}{sign}{number} = {values[i]}")
    identity = (*sorted(definitions), names[depth])
    rng.shuffle(definitions)
    question = f"{' '.join(definitions)} {names[depth]} ?"
    return {"question": question, "steps": steps[: depth + 1], "answer": str(values[depth])}, identity


def main(argv):
    cfg = parse(ArithmeticConfig, argv, __doc__)
    if 1 + cfg.depth + cfg.distractors > 26:
        raise UserError(f"--depth={cfg.depth} --distractors={cfg.distractors}: there are names for 26 variables")
    rng, answers = random.Random(cfg.seed), Counter()

    def draw():
        problem, identity = make_problem(rng, cfg.modulus, cfg.depth, cfg.distractors)
        answers[problem["answer"]] += 1
        return problem, identity

    write_splits(cfg, draw)
    print("answers: " + ", ".join(f"{answer} {n / answers.total():.1%}" for answer, n in sorted(answers.items())))


if __name__ == "__main__":
    cli(main)
