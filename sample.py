"""
Ask a trained model, and look into its thoughts: for each, its norm and the tokens that it is closest to.

    python sample.py                                       # the latest run, a few questions of its test file
    python sample.py --latent=0                            # the same model, not allowed to think
    python sample.py --question="a b b c c a start a" --latent=8
    python sample.py --out_dir=out/addition --file=data/addition/valid.json --count=10
"""

import glob
import os
from dataclasses import dataclass

import torch

import data
from config import UserError, cli, option, parse
from evaluate import solve
from train import load_checkpoint, pick_device


@dataclass
class SampleConfig:
    out_dir: str = option("", "folder of a training run; by default that of the latest one under out/")
    latent: int | None = option(None, "number of thoughts; by default as many as in training", least=0)
    question: str = option("", "a question to answer")
    file: str = option("", "a data file to take questions from; by default the run's test.json")
    count: int = option(3, "how many of the file's questions", least=1)
    top: int = option(5, "tokens to show for each thought", least=1)
    temperature: float = option(0.0, "0 writes the likeliest token each time; above, tokens are drawn", least=0)
    top_k: int | None = option(None, "draw from the k likeliest tokens only", least=1)
    seed: int = option(1, "decides what is drawn", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")


def find_checkpoint(out_dir):
    """best.pt of a run, or of the latest run under out/; ckpt.pt if there is no best.pt yet."""
    folders = [out_dir] if out_dir else sorted(glob.glob("out/*/"), key=os.path.getmtime)
    found = [p for f in folders for name in ("ckpt.pt", "best.pt") if os.path.exists(p := os.path.join(f, name))]
    if not found:
        raise UserError(f"{out_dir or 'out'}: no checkpoint there; `python train.py configs/hops.py` makes one")
    return found[-1]


def show_token(tok, token):
    """A token's text on one line, whatever it is."""
    text = tok.decode_single_token_bytes(token).decode(errors="backslashreplace")
    return text.strip(" ").replace("\n", "\\n") or "' '"


def make_prompts(problems, cfg, tok, stage, latent):
    """Prompts with as many thoughts as training gave each problem at this stage, or with `latent` thoughts."""
    prompts = []
    for p in problems:
        prompt, _ = data.split(p, stage, cfg, tok)
        if latent is not None and latent != data.count(len(p.steps), stage, cfg)[1]:
            print(
                f"WARNING: training gave this problem {data.count(len(p.steps), stage, cfg)[1]} thoughts, not {latent}"
            )
            prompt = data.make_prompt(p.question, latent, cfg, tok)
        prefix, n, forced = prompt
        if not prefix or len(prefix) + n + len(forced) > cfg.block_size:
            lengths = f"{len(prefix)} tokens and {n} thoughts, where {cfg.block_size} fit (block_size)"
            raise UserError(f"{tok.decode(p.question)[:50]!r} cannot be answered: {lengths}")
        prompts.append(prompt)
    return prompts


@torch.no_grad()
def main(argv):
    args = parse(SampleConfig, argv, __doc__)
    path = find_checkpoint(args.out_dir)
    model, cfg, tok, saved = load_checkpoint(path)
    model.to(pick_device(args.device))
    torch.manual_seed(args.seed)
    print(f"{path}: {cfg.method}, stage {saved['stage']}")

    if args.question:  # as if it had as many steps as there are stages
        problems = [{"question": args.question, "steps": [""] * (cfg.max_latent_stage + 1), "answer": ""}]
    else:
        problems = data.load_json(args.file or os.path.join(cfg.data_dir, "test.json"))[: args.count]
    problems = data.encode(problems, cfg, tok)
    prompts = make_prompts(problems, cfg, tok, saved["stage"], args.latent)
    sampling = {"temperature": args.temperature, "top_k": args.top_k}
    solved = solve(model, prompts, tok, cfg.block_size, cfg.eval_batch_size, **sampling)
    for problem, (text, _, thoughts) in zip(problems, solved):
        print(f"\nquestion    {tok.decode(problem.question).strip()}")
        chances = model.head(thoughts).softmax(-1).topk(min(args.top, tok.n_vocab))
        for i, thought in enumerate(thoughts):
            tokens = zip(chances.indices[i].tolist(), chances.values[i].tolist())
            shown = "  ".join(f"{show_token(tok, token)} {chance:.1%}" for token, chance in tokens)
            print(f"thought {i + 1:<3} norm {thought.norm():5.1f}   {shown}")
        right = data.right_answer(problem, cfg, tok)
        verdict = "(right)" if data.read_answer(text, cfg) == right else f"(wrong: {right})"
        print(f"writes      {text.strip()}   {verdict if right else ''}")


if __name__ == "__main__":
    cli(main)
