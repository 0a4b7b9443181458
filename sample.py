"""
Ask a trained model, and look into its thoughts: norm, cosine to the one before, and the tokens they are closest to.

Those are the tokens that the head would choose if the thought were a last hidden state. It is one if that is what is
fed back (--feedback=last), and soft and members are sums of embeddings, from which the head reads what is in them. Of
other thoughts (layer:-2, embedding, projection) the head has learned nothing: their tokens say little.

A whole file of questions, measured: train.py --eval_only and lab/analyze.py.

    python sample.py                                       # the latest run, a few questions of its test file
    python sample.py out/hops                              # another run; or one of its checkpoints
    python sample.py --latent=0                            # the same model, not allowed to think
    python sample.py --latent=auto                         # until it stops by itself (train.py --stop=classifier)
    python sample.py --interactive                         # type questions, until an empty line or ^D
    python sample.py --question="e c b i c g g h a j i f d b h a j d f e start c" --latent=2
    python sample.py --init_from=FOLDER --latent=6 --question="Tom has 3 apples and eats one. How many are left?"
    python sample.py --out_dir=out/addition --file=data/addition/valid.json --count=10 --json > thoughts.json
"""

import json
import os
import shutil
import sys
import textwrap
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from itertools import chain, takewhile

import torch
from torch.nn import functional as F

import data
from checkpoint import (
    find_checkpoint,
    its_thinking,
    latest_run,
    load_checkpoint,
    pick_device,
    pretrained_model,
    source_tokenizer,
)
from config import UserError, cli, option, parse
from curriculum import count, make_prompt, split
from evaluate import find_answer, most_thoughts, right_answer, solve
from settings import TrainConfig


@dataclass
class SampleConfig:
    out_dir: str = option("", "a run's folder, or a checkpoint; by default the latest run under out/")
    init_from: str = option(
        "", "weights from elsewhere instead: gpt2, hf:owner/name, a file, ... (pretrained/weights.py)"
    )
    latent: str = option(
        "", "number of thoughts, or auto: until the model stops; by default as in training (--init_from: none)"
    )
    question: str | None = option(None, "a question to answer")
    interactive: bool = option(False, "read questions from the terminal")
    file: str = option("", "a data file to take questions from; by default the run's test.json")
    count: int = option(3, "how many of the file's questions", least=1)
    top: int = option(5, "tokens to show for each thought", least=1)
    json: bool = option(False, "print one JSON document, and nothing else on stdout")
    max_new_tokens: int = option(256, "most tokens to write", least=1)
    temperature: float = option(
        0.0, "0 writes the likeliest token each time; above, tokens are drawn", least=0, most=1e6
    )
    top_k: int | None = option(None, "draw from the k likeliest tokens only", least=1)
    seed: int = option(1, "decides what is drawn", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")

    def __post_init__(self):
        if self.latent not in ("", "auto") and not (self.latent.isdecimal() and int(self.latent) <= 1000):
            raise UserError(f"--latent={self.latent}, expected a number of at most 1000, or auto")


def load(args):
    """(model, cfg, tokenizer, what else is known: its path, stage, pieces, and the most steps that a problem had)."""
    if args.init_from:
        if not args.file and args.question is None and not args.interactive:
            raise UserError("--init_from: expected --question or --file or --interactive with it")
        tok, method = source_tokenizer(args.init_from), "coconut" if args.latent else "cot"
        thinks = its_thinking(args.init_from) | {"stop": ""} if args.latent else {}  # nobody says how many at most
        model, cfg = pretrained_model(args.init_from, TrainConfig(tokenizer=tok.name, method=method, **thinks), tok)
        print(f"{args.init_from}: {'plain text (no --latent)' if method == 'cot' else 'between <bot> and <eot>'}")
        return model.eval(), cfg, tok, {"path": args.init_from, "stage": None, "longest": 0, "pieces": set()}
    path = find_checkpoint(args.out_dir or latest_run())
    model, cfg, tok, saved = load_checkpoint(path)
    latest = "" if args.out_dir else " (the latest run; FOLDER for another)"
    print(f"{path}{latest}: {cfg.method}, stage {saved['stage']}")
    return model, cfg, tok, saved | {"path": path, "pieces": {*saved["pieces"], " "}}


def ask(args, cfg, known):
    """Yields lists of problems to answer together: a file's, or a single one as it is asked."""
    if args.question is None and not args.interactive:
        yield data.load_json(args.file or os.path.join(cfg.data_dir[-1], "test.json"))[: args.count]
    print("type questions; an empty line ends\n" * args.interactive, end="")
    typed = takewhile(str.strip, sys.stdin) if args.interactive else []
    for question in chain([args.question] * (args.question is not None), map(str.strip, typed)):
        unknown = {*data.find_pieces([{"question": question, "steps": [], "answer": ""}], cfg)} - known["pieces"]
        if unknown:
            some = data.name_some([p.strip() for p in sorted(unknown)])
            print(f"WARNING: these are not in the training data: {some}")
        yield [{"question": question, "steps": [""] * known["longest"], "answer": ""}]  # as if it were the longest


def make_prompts(problems, cfg, tok, stage, args):
    """Prompts with --latent thoughts, or else with as many as training gave each problem at this stage.

    Of a model that stops by itself they are given as many as there may be.
    """
    latent, prompts = int(args.latent) if args.latent.isdecimal() else None, []
    if args.latent == "auto" and not cfg.stop:
        raise UserError("--latent=auto: this model was not trained to stop by itself (train.py --stop=classifier)")
    trained = [None if stage is None else count(len(p.steps), stage, cfg)[1] for p in problems]
    if stage is not None and latent is not None and {*trained} != {latent}:
        usual = " or ".join(map(str, sorted({*trained})))
        print(f"WARNING: in training such problems had {usual} thoughts, not {latent}")
    for p, n_trained in zip(problems, trained):
        if cfg.stop and latent is None:
            prompt = make_prompt(p.question, most_thoughts(stage, cfg), cfg, tok)
        elif latent in (None, n_trained) and stage is not None:
            prompt, _ = split(p, stage, cfg, tok)
        else:
            prompt = make_prompt(p.question, latent or 0, cfg, tok)
        if not prompt.prefix or len(prompt.prefix) + prompt.n + len(prompt.eot) > cfg.block_size:
            lengths = f"{len(prompt.prefix)} tokens and {prompt.n} thoughts, where {cfg.block_size} fit (block_size)"
            raise UserError(f"{tok.decode(p.question)[:50]!r} cannot be answered: {lengths}")
        prompts.append(prompt)
    return prompts


def look_into(thoughts, model, tok, top):
    """Of each of a question's thoughts (N, C): norm, cosine to the one before, and the `top` likeliest tokens."""
    likeliest = model.head(model.bare(thoughts))[:, : tok.n_vocab].softmax(-1).topk(min(top, tok.n_vocab))
    cosines = [None, *F.cosine_similarity(thoughts[1:], thoughts[:-1]).tolist()]
    rows = zip(thoughts.norm(dim=-1).tolist(), cosines, likeliest.indices.tolist(), likeliest.values.tolist())
    return [
        {"norm": norm, "cosine": cosine, "tokens": [[show_token(tok, t), p] for t, p in zip(tokens, ps)]}
        for norm, cosine, tokens, ps in rows
    ]


def answer(model, problems, prompts, cfg, tok, args):
    """Yields for each problem all that there is to see, as --json has it; `right` is None where nobody knows."""
    sampling = {"temperature": args.temperature, "top_k": args.top_k}
    sampling["may_stop"] = bool(cfg.stop) and args.latent in ("", "auto")
    solved = solve(model, prompts, cfg, tok, args.max_new_tokens, **sampling)
    for problem, (text, n_tokens, thoughts) in zip(problems, solved):
        expected = right_answer(problem, cfg, tok) or None
        yield {
            "question": tok.decode(problem.question).strip(),
            "thoughts": look_into(thoughts, model, tok, args.top),
            "writes": text.strip(),
            "tokens_written": n_tokens,
            "expected": expected,
            "right": find_answer(text, cfg) == expected if expected else None,
        }


def show_token(tok, token):
    """A token's text on one line, whatever it is."""
    text = tok.decode_single_token_bytes(token).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip(" ")) or "' '"


def bar(p, width=4):
    full, rest = divmod(round(p * width * 8), 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[rest]).ljust(width)[:width]


def fit(thoughts, columns):
    """(how many tokens of a thought are shown, in how many columns each, how many of them with a bar) on one line.

    If they do not all fit, only the first keeps its bar, then their texts are cut, and then there are fewer.
    """
    n, widest = len(thoughts[0]["tokens"]), max(len(text) for thought in thoughts for text, _ in thought["tokens"])
    head, percent, bar, cut = 25, 9, 5, min(widest, 8)  # columns of each
    for width, bars in ((widest, n), (widest, 1), (cut, 1)):
        if head + n * (width + percent) + bars * bar <= columns:
            return n, width, bars
    return max(1, (columns - head - bar) // (cut + percent)), cut, 1


def wrap(text, columns):
    """The lines of a text, broken where they are too long."""
    return [part for line in text.split("\n") for part in textwrap.wrap(line, max(1, columns)) or [""]]


def show(seen):
    """Print what answer() yields, as wide as the terminal: in colour there, plain in a pipe, or with NO_COLOR set."""
    colour, columns = sys.stdout.isatty() and not os.environ.get("NO_COLOR"), shutil.get_terminal_size().columns
    bold, cyan, green, red, off = (f"\033[{code}m" * colour for code in (1, 36, 32, 31, 0))
    margin = " " * 12
    print("\nquestion    " + f"\n{margin}".join(wrap(seen["question"], columns - 12)))
    print("             norm  cosine  likeliest tokens\n" * bool(seen["thoughts"]), end="")
    n, width, bars = fit(seen["thoughts"], columns) if seen["thoughts"] else (0, 0, 0)
    for i, thought in enumerate(seen["thoughts"], 1):
        cosine = "" if thought["cosine"] is None else f"{thought['cosine']:.2f}"
        row = f"thought {i:<3} {thought['norm']:5.1f}  {cosine:>6}"
        for k, (text, p) in enumerate(thought["tokens"][:n]):
            percent = f"{p:.1%}" if p > 0.001 else "<0.1%"
            text = text if len(text) <= width else text[: width - 1] + "…"
            row += f"  {bold * (p > 0.5)}{text:<{width}}{off} {f'{cyan}{bar(p)}{off} ' * (k < bars)}{percent:<6}"
        print(row.rstrip())
    verdict = {True: "(right)", False: f"(wrong: {seen['expected']})", None: ""}[seen["right"]]
    writes = wrap(seen["writes"], columns - 12)
    beside = len(writes[-1]) + 3 + len(verdict) <= columns - 12
    verdict = f"\n{margin}".join(wrap(verdict, columns - 12))
    print("writes      " + f"\n{margin}".join(writes), end="   " if beside else f"\n{margin}")
    print(f"{green if seen['right'] else red}{verdict}{off}" if verdict else "")


@torch.no_grad()
def main(argv):
    args, seen = parse(SampleConfig, argv, __doc__, places=("out_dir",)), []
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        model, cfg, tok, known = load(args)
        model.to(pick_device(args.device))
        torch.manual_seed(args.seed)
        for problems in ask(args, cfg, known):
            problems = data.encode(problems, cfg, tok)
            try:
                prompts = make_prompts(problems, cfg, tok, known["stage"], args)
            except UserError as e:  # somebody who types gets another chance
                if not args.interactive:
                    raise
                print(f"error: {e}")
                continue
            for result in answer(model, problems, prompts, cfg, tok, args):
                seen.append(result)
                if not args.json:
                    show(result)
    if args.json:
        print(json.dumps({"checkpoint": known["path"], "stage": known["stage"], "questions": seen}))
    elif args.question is None and not args.interactive:
        print(f"\n{sum(s['right'] is True for s in seen)} of {len(seen)} right")


if __name__ == "__main__":
    cli(main)
