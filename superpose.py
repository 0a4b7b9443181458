"""
Two searches in one chain of thoughts. Also an example: how an idea is tried with these files.

If a thought is a set of nodes, the sum of two thoughts should be two searches at once. Here two graphs stand in one
question; what the model would think first about the one and about the other is added; from there it thinks on, and
both questions are answered from the same thoughts.

    python prepare_prosqa.py --generate=1 --valid=1 --test=600 --symbols --names=12 --nodes=10,12 --hops=3,4 --seed=7 \\
        --out_dir=data/halves
    python superpose.py out/prosqa_scratch data/halves/test.json
"""

import random
import re
from dataclasses import dataclass

import torch

import data
from checkpoint import find_checkpoint, load_checkpoint
from config import UserError, cli, option, parse
from curriculum import make_prompt
from evaluate import find_answer, most_tokens, right_answer, solve


@dataclass
class SuperposeConfig:
    out_dir: str = option("out/prosqa_scratch", "a run's folder, or a checkpoint")
    file: str = option("data/halves/test.json", "questions about graphs in symbols; two of them become one pair")
    count: int = option(600, "how many of the file's questions", least=2)
    seed: int = option(1, "decides on the order of edges", least=0)


def put_together(a, b, rng):
    """Two problems about the graphs of both: b's nodes get other names, its edges are shuffled among a's."""
    n = 1 + max(map(int, re.findall(r"\d+", a["question"])))
    a = {name: a[name] for name in ("question", "steps", "answer")}
    b = {name: [rename(t, n) for t in b[name]] if name == "steps" else rename(b[name], n) for name in a}
    edges = [edge for p in (a, b) for edge in re.findall(r"\d+ \d+ \|", p["question"])]
    rng.shuffle(edges)
    return [p | {"question": " ".join(edges) + p["question"][p["question"].index(" to ") :]} for p in (a, b)]


def rename(text, n):
    return re.sub(r"\d+", lambda name: str(int(name[0]) + n), text)


def read_question(model, prompt):
    """(the first thought (1, 1, C) about a Prompt, the past after reading it)."""
    prefix = torch.tensor([prompt.prefix])
    h, past = model.read(model.embed(prefix), torch.ones_like(prefix).bool())
    return model.next_thoughts([layer[:, -1:] for layer in h], 0), past


def think_on(model, thought, past, n):
    """n thoughts (n, C), of which the first is given, and each other one follows from those before."""
    thoughts = [thought]
    while len(thoughts) < n:
        h, past = model.read(thoughts[-1], torch.ones(1, 1).bool(), past)
        thoughts.append(model.next_thoughts(h, len(thoughts)))
    return torch.cat(thoughts, 1)[0]


@torch.no_grad()
def main(argv):
    args = parse(SuperposeConfig, argv, __doc__, places=("out_dir", "file"))
    model, cfg, tok, saved = load_checkpoint(find_checkpoint(args.out_dir))
    found = data.load_json(args.file)[: args.count // 2 * 2]
    wrong = [p["question"] for p in found if not re.fullmatch(r"(\d+ \d+ \| )+to \d+ or \d+ from \d+", p["question"])]
    if wrong or not found:
        raise UserError(f"{args.file}: expected graphs in symbols, '3 7 | ... to 5 or 8 from 0', found {wrong[:1]}")
    rng = random.Random(args.seed)
    texts = [p for a, b in zip(found[::2], found[1::2]) for p in put_together(a, b, rng)]
    problems = data.encode(texts, cfg, tok)
    prompts = [make_prompt(p.question, cfg.max_latent_stage * cfg.c_thought, cfg, tok) for p in problems]
    own, summed = [], []
    for i in range(0, len(prompts), 2):
        (a, past), (b, other_past) = (read_question(model, prompt) for prompt in prompts[i : i + 2])
        n = prompts[i].n
        own += [think_on(model, a, past, n), think_on(model, b, other_past, n)]
        summed += [think_on(model, a + b, past, n)] * 2
    others = [own[i ^ 1] for i in range(len(own))]
    print(f"{len(prompts):,} questions, two about the two graphs in each; {n} thoughts")
    for name, given in {"its own": own, "both searches'": summed, "the other question's": others}.items():
        solved = solve(model, prompts, cfg, tok, most_tokens(problems, cfg), given=given)
        right = sum(find_answer(text, cfg) == right_answer(p, cfg, tok) for p, (text, *_) in zip(problems, solved))
        print(f"answered from {name + ' thoughts':<30} {right / len(problems):6.1%}")


if __name__ == "__main__":
    cli(main)
