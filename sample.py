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
from train import load_checkpoint, solve


@dataclass
class SampleConfig:
    out_dir: str = option("", "folder of a training run; by default that of the latest one under out/")
    latent: int | None = option(None, "thoughts before the answer; by default as many as in training", least=0)
    question: str = option("", "a question to answer")
    file: str = option("", "a data file to take questions from; by default the run's test.json")
    count: int = option(3, "how many of the file's questions", least=1)
    top: int = option(5, "tokens to show for each thought", least=1)
    device: str = option("cpu", "cpu, cuda, mps, ...")


def find_checkpoint(out_dir):
    """best.pt of a run, or of the latest run under out/; ckpt.pt if there is no best.pt yet."""
    folders = [out_dir] if out_dir else sorted(glob.glob("out/*/"), key=os.path.getmtime)
    found = [p for f in folders for name in ("ckpt.pt", "best.pt") if os.path.exists(p := os.path.join(f, name))]
    if not found:
        raise UserError(f"{out_dir or 'out'}: no checkpoint there; `python train.py configs/hops.py` makes one")
    return found[-1]


def show_token(tok, token):
    """A token's text on one line, whatever it is."""
    return (
        tok.decode_single_token_bytes(token).decode(errors="backslashreplace").strip(" ").replace("\n", "\\n") or "' '"
    )


def main(argv):
    args = parse(SampleConfig, argv, __doc__)
    path = find_checkpoint(args.out_dir)
    model, cfg, tok, saved = load_checkpoint(path, args.device)
    trained = 0 if cfg.method in data.PLAIN else min(saved["stage"], cfg.max_latent_stage) * cfg.c_thought
    latent = trained if args.latent is None else args.latent
    print(f"{path}: {cfg.method}, stage {saved['stage']}, trained with {trained} thoughts; now {latent}")
    if latent != trained:
        print(f"WARNING: this model has not learned to answer after {latent} thoughts at this stage")

    if args.question:
        problems = [{"question": args.question, "steps": [], "answer": ""}]
    else:
        problems = data.load_json(args.file or os.path.join(cfg.data_dir, "test.json"))[: args.count]
    prompts = [data.prompt(data.encode(p, cfg, tok).question, latent, cfg, tok) for p in problems]
    for p, (prefix, n, forced) in zip(problems, prompts):
        if not prefix or len(prefix) + n + len(forced) > cfg.block_size:
            lengths = f"{len(prefix)} tokens and {n} thoughts in {cfg.block_size} positions"
            raise UserError(f"{p['question'][:60]!r} cannot be answered: {lengths} (block_size)")

    for p, (text, _, thoughts) in zip(problems, solve(model, prompts, tok, cfg.block_size, cfg.eval_batch_size)):
        print(f"\nquestion   {p['question']}")
        chances = model.head(thoughts).softmax(-1).topk(min(args.top, tok.n_vocab))
        for i, thought in enumerate(thoughts):
            tokens = zip(chances.indices[i].tolist(), chances.values[i].tolist())
            shown = "  ".join(f"{show_token(tok, token)} {chance:.1%}" for token, chance in tokens)
            print(f"thought {i + 1:<2} norm {thought.norm():5.1f}   {shown}")
        answer = data.read_answer(text, cfg)
        verdict = "" if not p["answer"] else "   (right)" if answer == p["answer"] else f"   (wrong: {p['answer']})"
        print(f"writes     {text.strip()}{verdict}")


if __name__ == "__main__":
    with torch.no_grad():
        cli(main)
