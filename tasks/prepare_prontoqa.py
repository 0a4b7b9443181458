"""
Make ProntoQA: follow five rules about made-up concepts, and tell whether a statement is true or false.

    {"question": "Rompuses are not red. Each wumpus is a rompus. Every yumpus is a zompus. ... Zompuses are red.
                  Alex is a wumpus. True or false: Alex is red.",
     "steps": ["Alex is a wumpus. Each wumpus is a rompus.",
               "Alex is a rompus. Rompuses are not red.",
               "Alex is not red."],
     "answer": "False"}

These are two hops. Five of them make eleven sentences; a step is a pair of sentences, so that there are six steps.

The red zompuses are the distractor: "red" and "not red" both stand in the text. Two chains of concepts are drawn in the
same way, one with either of them, and a coin decides which chain is Alex's, so that nothing but following the rules
tells the answer. The official distractor is a single concept (--distractor=concept), which gives itself away: no other
sentence names it. No question occurs twice in the three files, in whatever order its sentences stand.

    python -m tasks.prepare_prontoqa                   # data/prontoqa/{train,valid,test}.json
    python -m tasks.prepare_prontoqa --from=5hop.json  # the same from a file of the official generator (asaparov)
"""

if not __package__:
    raise SystemExit("error: call it as python -m tasks.prepare_prontoqa, from the project's folder")

import json
import random
from dataclasses import dataclass
from itertools import cycle

from config import UserError, cli, option, parse, read_text
from data import write_splits
from prepare_hops import SplitsConfig

CONCEPTS = [start + end for start in "b d f g h j l n r s t v w y z".split() for end in ("umpus", "ompus")]
PROPERTIES = """angry bitter blue bright brown cold dull fast flat green happy heavy hot kind large light liquid
                metallic nervous noisy quiet red round shy slow small sour spicy sweet wooden""".split()
PEOPLE = "Alex Fae Max Polly Rex Sally Sam Stella Wren".split()
SPARE = 2  # concepts of a chain besides those on the way: they stand before its first and behind its last one
LAYOUT = '{"test_example": {"question": text, "query": text, "chain_of_thought": [text, ...], "answer": text}}'


@dataclass
class ProntoQAConfig(SplitsConfig):
    from_: str = option("", "a JSON file of the official generator, instead of new questions")
    hops: int = option(5, "rules to follow; of a file: as many as it has", least=1)
    distractor: str = option("chain", "where the opposite stands: in its own chain, or alone", ("chain", "concept"))
    train: int = option(9_000, "number of training problems", least=1, most=10**7)
    valid: int = option(200, "number of validation problems", least=1, most=10**7)
    test: int = option(800, "number of test problems", least=1, most=10**7)
    out_dir: str = option("data/prontoqa", "where the files go")


def say(rng, concept, what):
    """One of the three ways to say what every member of a concept is: "a rompus", "red" or "not red"."""
    if rng.randrange(3) == 0:
        return f"{concept.capitalize()}es are {what[2:] + 'es' if what.startswith('a ') else what}."
    return f"{rng.choice(['Every', 'Each'])} {concept} is {what}."


def to_problem(context, query, proof, answer):
    """The problem, and its identity: the sentences in any order. A step is a pair of the proof's sentences."""
    question, steps = f"{context} {query}", [" ".join(proof[i : i + 2]) for i in range(0, len(proof), 2)]
    return {"question": question, "steps": steps, "answer": answer}, frozenset(question.rstrip(".").split(". "))


def make_problem(rng, hops, distractor, answer):
    """One problem whose answer is `answer` ("True" or "False"), with its identity."""
    concepts, properties = (rng.sample(words, len(words)) for words in (CONCEPTS, PROPERTIES))
    person, asked = rng.choice(PEOPLE), properties.pop()
    right, wrong = rng.sample([asked, f"not {asked}"], 2)  # as often one way as the other: "not" is no hint
    context, proof = [], []
    for at_end, length in ((right, hops + SPARE), (wrong, hops + SPARE if distractor == "chain" else 1)):
        chain = [concepts.pop() for _ in range(length)]
        end = rng.randrange(min(hops, length) - 1, length)  # whose property is asked for
        things = [at_end if i == end else rng.choice(["", "not "]) + properties.pop() for i in range(length)]
        rules = [say(rng, a, f"a {b}") for a, b in zip(chain, chain[1:])]
        facts = [say(rng, concept, thing) for concept, thing in zip(chain, things)]
        context += rules + facts
        if not proof:  # the first chain is the person's
            start = end - hops + 1
            for concept, rule in zip(chain[start:end], rules[start:end]):
                proof += [f"{person} is a {concept}.", rule]
            proof += [f"{person} is a {chain[end]}.", facts[end], f"{person} is {right}."]
    rng.shuffle(context)
    query = f"True or false: {person} is {right if answer == 'True' else wrong}."
    return to_problem(" ".join([*context, proof[0]]), query, proof, answer)


def convert(example):
    """An example of the official generator as a problem with its identity; ValueError if it is none."""
    try:
        test = example["test_example"]
        context, query, proof, answer = (test[key] for key in ("question", "query", "chain_of_thought", "answer"))
    except (KeyError, TypeError):
        raise ValueError(f"expected {LAYOUT}") from None
    if not (isinstance(proof, list) and proof and all(isinstance(text, str) for text in (context, query, *proof))):
        raise ValueError(f"expected {LAYOUT}")
    if not query.startswith("True or false:") or answer not in ("True", "False"):
        raise ValueError(f"expected 'True or false: ...', answered True or False, found {query[:40]!r}, {answer!r}")
    return to_problem(context, query, proof, answer)


def read_official(path):
    """The problems, with their identities, of {"example1": ..., "example2": ...}; UserError for anything else."""
    text = read_text(path)
    try:
        examples = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not JSON: {e}") from None
    if not isinstance(examples, dict):
        raise UserError(f'{path}: expected {{"example1": ..., "example2": ...}}, found a {type(examples).__name__}')
    problems = []
    for name, example in examples.items():
        try:
            problems.append(convert(example))
        except ValueError as e:
            raise UserError(f"{path}: {name}: {e}") from None
    return problems


def main(argv):
    cfg = parse(ProntoQAConfig, argv, __doc__)
    if 2 * (cfg.hops + SPARE) > len(CONCEPTS):
        raise UserError(f"--hops={cfg.hops}: there are names for {len(CONCEPTS) // 2 - SPARE} hops")
    rng = random.Random(cfg.seed)
    if cfg.from_:
        problems = read_official(cfg.from_)
        rng.shuffle(problems)  # they may be sorted, by hops for example
    answers = cycle(["True", "False"])  # as many of either

    def draw():
        if not cfg.from_:
            return make_problem(rng, cfg.hops, cfg.distractor, next(answers))
        if not problems:
            wanted = f"{cfg.train:,} + {cfg.valid:,} + {cfg.test:,} (--train, --valid, --test)"
            raise UserError(f"{cfg.from_}: not as many different questions as are wanted: {wanted}")
        return problems.pop()

    write_splits(cfg, draw)


if __name__ == "__main__":
    cli(main)
