"""
Make addition problems: two numbers of two to four digits, added as at school, column by column from the right.

    {"question": "0058+0967", "steps": ["15", "12", "10", "01"], "answer": "01025"}

A step is the sum of one column with the carry from the column before it: 8+7 = 15, 5+6+1 = 12, 0+9+1 = 10, 0+0+1 = 01.
Numbers are filled up with zeros, so that a column stands at the same place in every problem. No pair of numbers
occurs twice in the three files, nor swapped.

    python -m tasks.prepare_addition             # data/addition/{train,valid,test}.json
"""

if not __package__:
    raise SystemExit("error: call it as python -m tasks.prepare_addition, from the project's folder")

import random
from dataclasses import dataclass

from config import UserError, cli, option, parse
from data import write_splits
from prepare_hops import SplitsConfig


@dataclass
class AdditionConfig(SplitsConfig):
    min_digits: int = option(2, "fewest digits of a number", least=1, most=1000)
    max_digits: int = option(4, "most digits of a number", least=1, most=1000)
    train: int = option(200_000, "number of training problems", least=1, most=10**7)
    out_dir: str = option("data/addition", "where the files go")


def make_problem(a, b, width):
    """The problem of adding a and b, written with `width` digits each, and its identity."""
    a_text, b_text = f"{a:0{width}}", f"{b:0{width}}"
    steps, carry = [], 0
    for x, y in zip(reversed(a_text), reversed(b_text)):
        column = int(x) + int(y) + carry
        steps.append(f"{column:02}")
        carry = column // 10
    return {"question": f"{a_text}+{b_text}", "steps": steps, "answer": f"{a + b:0{width + 1}}"}, (min(a, b), max(a, b))


def main(argv):
    cfg = parse(AdditionConfig, argv, __doc__)
    if cfg.min_digits > cfg.max_digits:
        raise UserError(f"--min_digits={cfg.min_digits} is more than --max_digits={cfg.max_digits}")
    rng = random.Random(cfg.seed)

    def number():
        digits = rng.randint(cfg.min_digits, cfg.max_digits)
        return rng.randrange(10 ** (digits - 1), 10**digits)

    write_splits(cfg, lambda: make_problem(number(), number(), cfg.max_digits))


if __name__ == "__main__":
    cli(main)
