"""
Two searches in one chain of thoughts. Also an example: how an idea is tried with these files.

If a thought is a set of nodes, the sum of two thoughts should be two searches at once. Here two graphs stand in one
text; what the model would think first about the one question and about the other is added; from there it thinks on,
with the first question before it; and both questions are answered from these thoughts.

    python prepare_prosqa.py --generate=1 --valid=1 --test=600 --symbols --names=12 --nodes=10,12 --hops=3,4 --seed=7 \\
        --out_dir=data/halves
    python -m lab.superpose out/prosqa_scratch data/halves/test.json
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.superpose, from the project's folder")

import random
import re
from dataclasses import dataclass
from statistics import fmean

import torch

import data
from checkpoint import find_checkpoint, load_checkpoint
from coconut import Coconut
from config import UserError, cli, option, parse
from curriculum import kind_of, make_task
from evaluate import percent
from lab.analyze import table
from lab.questions import Questions


@dataclass
class SuperposeConfig:
    out_dir: str = option("out/prosqa_scratch", "a run's folder, or a checkpoint")
    file: str = option("data/halves/test.json", "questions about graphs in symbols; two of them become one pair")
    count: int = option(600, "how many of the file's questions", least=2)
    seed: int = option(1, "decides on the order of edges", least=0)


def put_together(a, b, names, rng):
    """Two problems about the graphs of both: b's nodes get other names, its edges are shuffled among a's.

    names: all that there are; UserError if they do not suffice.
    """
    taken, nodes = nodes_of(a), nodes_of(b)
    free = sorted(set(names) - taken, key=int)
    if len(free) < len(nodes):
        raise UserError(f"two graphs of {len(taken)} and {len(nodes)} nodes, but the model knows {len(names)} names")
    new = dict(zip(sorted(nodes, key=int), free))
    a, b = ({name: p[name] for name in ("question", "steps", "answer")} for p in (a, b))
    b = {name: [rename(t, new) for t in b[name]] if name == "steps" else rename(b[name], new) for name in b}
    edges = [edge for p in (a, b) for edge in re.findall(r"\d+ \d+ \|", p["question"])]
    rng.shuffle(edges)
    return [p | {"question": " ".join(edges) + p["question"][p["question"].index(" to ") :]} for p in (a, b)]


def nodes_of(problem):
    return {*re.findall(r"\d+", problem["question"])}


def rename(text, new):
    return re.sub(r"\d+", lambda name: new[name[0]], text)


def read_question(model, prompt):
    """(the first thought (1, 1, C) about a Prompt, the past after reading it)."""
    prefix = torch.tensor([prompt.prefix])
    h, past = model.read(model.embed(prefix))
    return model.feedback([layer[:, -1:] for layer in h], model), past


def think_on(model, thought, past, n):
    """n thoughts (n, C), of which the first is given, and each other one follows from those before."""
    thoughts = [thought]
    while len(thoughts) < n:
        h, past = model.read(thoughts[-1], past=past)
        thoughts.append(model.feedback(h, model))
    return torch.cat(thoughts, 1)[0]


def pairs_of(problems, names, rng, file):
    """Problems two after the other about the same two graphs."""
    asked = [p["question"] for p in problems]
    other = [text for text in asked if not re.fullmatch(r"(\d+ \d+ \| )+to \d+ or \d+ from \d+", text)]
    if other or len(asked) < 2:
        what = repr(other[0][:60]) if other else f"{len(asked)} questions"
        expected = "expected graphs in symbols, '3 7 | ... to 5 or 8 from 0', two or more"
        raise UserError(f"{file}: {expected}, found {what}")
    return [p for a, b in zip(problems[::2], problems[1::2]) for p in put_together(a, b, names, rng)]


@torch.no_grad()
def main(argv):
    args = parse(SuperposeConfig, argv, __doc__, places=("out_dir", "file"))
    model, cfg, tok, saved = load_checkpoint(find_checkpoint(args.out_dir))
    thinks = kind_of(cfg.method).instead == "thought"
    if not thinks or type(model).make_thoughts is not Coconut.make_thoughts or "vector" in cfg.feedback:
        raise UserError(f"{args.out_dir}: expected a model that thinks one plain thought after the other")
    names = [piece.strip() for piece in saved["pieces"] if piece.strip().isdecimal()]
    raw = pairs_of(data.load_json(args.file)[: args.count // 2 * 2], names, random.Random(args.seed), args.file)
    asked = Questions(model, make_task(cfg, tok), raw, args.file, saved["stage"])
    data.check_lengths(asked.problems, cfg, tok, args.file, saved["pieces"])
    n, own, summed = cfg.max_latent_stage * cfg.c_thought, [], []
    read = [read_question(model, asked.prompt(problem, n)) for problem in asked.problems]
    for (a, past), (b, other_past) in zip(read[::2], read[1::2]):
        own += [think_on(model, a, past, n), think_on(model, b, other_past, n)]
        summed += [think_on(model, a + b, past, n)] * 2
    others, rows = [own[i ^ 1] for i in range(len(own))], []
    for name, given in {"its own": own, "both questions'": summed, "the other question's": others}.items():
        right = [answer.right for answer in asked.answer([n] * len(raw), given)]
        row = {"answered from": f"{name} thoughts"}
        for which, half in (("first question", right[::2]), ("second question", right[1::2])):
            row[which] = percent(fmean(half), len(half))
        rows.append(row)
    table(f"{len(raw) // 2:,} pairs of questions, each about two graphs in one text; {n} thoughts", rows)


if __name__ == "__main__":
    cli(main)
