"""
Ask a trained model, and look into its thoughts: for each, its norm and the tokens that it is closest to.

    python sample.py                                       # the latest run, a few questions of its test file
    python sample.py --latent=0                            # the same model, not allowed to think
    python sample.py --question="e c b i c g g h a j i f d b h a j d f e start c" --latent=2
    python sample.py --init_from=FOLDER --latent=6 --question="Tom has 3 apples and eats one. How many are left?"
    python sample.py --out_dir=out/addition --file=data/addition/valid.json --count=10
"""

import glob
import os
from dataclasses import dataclass

import torch

import data
from config import TrainConfig, UserError, cli, option, parse
from evaluate import solve
from run import load_checkpoint, pick_device, pretrained_model
from tokenizer import make_tokenizer


@dataclass
class SampleConfig:
    out_dir: str = option("", "folder of a training run; by default that of the latest one under out/")
    init_from: str = option(
        "", "weights from elsewhere instead: gpt2, ..., hf:owner/name, a file or a folder (weights.py)"
    )
    latent: int | None = option(
        None, "number of thoughts; by default as many as in training (with --init_from: none)", least=0
    )
    question: str | None = option(None, "a question to answer")
    file: str = option("", "a data file to take questions from; by default the run's test.json")
    count: int = option(3, "how many of the file's questions", least=1)
    top: int = option(5, "tokens to show for each thought", least=1)
    max_new_tokens: int = option(256, "most tokens to write", least=1)
    temperature: float = option(0.0, "0 writes the likeliest token each time; above, tokens are drawn", least=0)
    top_k: int | None = option(None, "draw from the k likeliest tokens only", least=1)
    seed: int = option(1, "decides what is drawn", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")


def find_checkpoint(out_dir):
    """best.pt of a run, or of the latest run under out/; ckpt.pt if there is no best.pt yet."""
    folders = [out_dir] if out_dir else sorted(glob.glob("out/*/"), key=os.path.getmtime)
    found = [p for f in folders for name in ("ckpt.pt", "best.pt") if os.path.exists(p := os.path.join(f, name))]
    if not found:
        raise UserError(f"{out_dir or 'out'}: no checkpoint there; `python train.py configs/NAME.py` makes one")
    return found[-1]


def show_token(tok, token):
    """A token's text on one line, whatever it is."""
    text = tok.decode_single_token_bytes(token).decode(errors="backslashreplace")
    return text.strip(" ").replace("\n", "\\n") or "' '"


def load(args):
    """(model, cfg, tokenizer, the stage it was trained in or None if that is not known, most steps of a problem)."""
    if args.init_from:
        if not args.file and args.question is None:
            raise UserError("--init_from: expected --question or --file with it")
        tok, method = make_tokenizer("gpt2"), "cot" if args.latent is None else "coconut"
        model, cfg = pretrained_model(args.init_from, TrainConfig(tokenizer="gpt2", method=method), tok)
        print(f"{args.init_from}: {'plain text (no --latent)' if method == 'cot' else 'between <bot> and <eot>'}")
        return model.eval(), cfg, tok, None, 0
    path = find_checkpoint(args.out_dir)
    model, cfg, tok, saved = load_checkpoint(path)
    latest = "" if args.out_dir else " (the latest run; --out_dir=FOLDER for another)"
    print(f"{path}{latest}: {cfg.method}, stage {saved['stage']}")
    if args.question and cfg.tokenizer != "gpt2":
        asked = {"question": args.question, "steps": [], "answer": ""}
        unknown = {*data.find_pieces([asked], cfg)} - {*saved["pieces"], " "}
        if unknown:
            print(f"WARNING: these are not in the training data: {' '.join(repr(p.strip()) for p in sorted(unknown))}")
    return model, cfg, tok, saved["stage"], saved["longest"]


def make_prompts(problems, cfg, tok, stage, latent):
    """Prompts with `latent` thoughts, or if that is None with as many as training gave each problem at this stage."""
    prompts, trained = [], [None if stage is None else data.count(len(p.steps), stage, cfg)[1] for p in problems]
    if stage is not None and latent is not None and {*trained} != {latent}:
        print(
            f"WARNING: in training such problems had {' or '.join(map(str, sorted({*trained})))} thoughts, not {latent}"
        )
    for p, n_trained in zip(problems, trained):
        if latent in (None, n_trained) and stage is not None:
            (prefix, n, forced), _ = data.split(p, stage, cfg, tok)
        else:
            prefix, n, forced = data.make_prompt(p.question, latent or 0, cfg, tok)
        if not prefix or len(prefix) + n + len(forced) > cfg.block_size:
            lengths = f"{len(prefix)} tokens and {n} thoughts, where {cfg.block_size} fit (block_size)"
            raise UserError(f"{tok.decode(p.question)[:50]!r} cannot be answered: {lengths}")
        prompts.append((prefix, n, forced))
    return prompts


@torch.no_grad()
def main(argv):
    args = parse(SampleConfig, argv, __doc__)
    model, cfg, tok, stage, longest = load(args)
    model.to(pick_device(args.device))
    torch.manual_seed(args.seed)
    if args.question is not None:  # as if it needed as many steps as the longest problem
        problems = [{"question": args.question, "steps": [""] * longest, "answer": ""}]
    else:
        problems = data.load_json(args.file or os.path.join(cfg.data_dir, "test.json"))[: args.count]
    problems = data.encode(problems, cfg, tok)
    prompts = make_prompts(problems, cfg, tok, stage, args.latent)
    sampling = {"temperature": args.temperature, "top_k": args.top_k}
    n_right, solved = 0, solve(model, prompts, tok, args.max_new_tokens, cfg.eval_batch_size, **sampling)
    for problem, (text, _, thoughts) in zip(problems, solved):
        print(f"\nquestion    {tok.decode(problem.question).strip()}")
        chances = model.head(thoughts)[:, : tok.n_vocab].softmax(-1).topk(min(args.top, tok.n_vocab))
        for i, thought in enumerate(thoughts):
            tokens = zip(chances.indices[i].tolist(), chances.values[i].tolist())
            shown = "  ".join(f"{show_token(tok, t)} {f'{p:.1%}' if p > 0.001 else '<0.1%'}" for t, p in tokens)
            print(f"thought {i + 1:<3} norm {thought.norm():5.1f}   {shown}")
        expected = data.right_answer(problem, cfg, tok)
        right = data.read_answer(text, cfg) == expected
        n_right += right
        print(f"writes      {text.strip()}   {'' if not expected else '(right)' if right else f'(wrong: {expected})'}")
    if args.question is None:
        print(f"\n{n_right} of {len(problems)} right")


if __name__ == "__main__":
    cli(main)
