"""
Ask a trained model, and look into its thoughts: norm, cosine to the one before, and the tokens they are closest to.

Those are the tokens that the head would choose if the thought were a last hidden state. It is one if that is what is
fed back (--feedback=last), and soft and members are sums of embeddings, from which the head reads what is in them. Of
other thoughts (layer:-2, embedding, projection) the head has learned nothing: their tokens say little.

A whole file of questions, measured: train.py --eval_only and lab/analyze.py.

    python sample.py                                       # the latest run, a few questions of its test file
    python sample.py out/hops                              # another run; or one of its checkpoints
    python sample.py --latent=0                            # the same model, not allowed to think
    python sample.py --latent=auto                         # until it stops by itself (--method=coconut+stop)
    python sample.py --interactive                         # type questions, until an empty line or ^D
    python sample.py --question="e c b i c g g h a j i f d b h a j d f e start c" --latent=2
    python sample.py --init_from=FOLDER --latent=6 --question="Tom has 3 apples and eats one. How many are left?"
    python sample.py --out_dir=out/addition --file=data/addition/valid.json --count=10 --json > thoughts.json
"""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from itertools import chain, takewhile

import torch
from torch.nn import functional as F

import data
from checkpoint import find_checkpoint, is_ours, latest_run, load_checkpoint, pick_device, questions_for
from config import UserError, cli, option, parse, upstairs
from curriculum import kind_of, make_prompt, make_task, row_for
from evaluate import right_answer, solve


@dataclass
class SampleConfig:
    out_dir: str = option("", "a run's folder, or a checkpoint; by default the latest run under out/")
    init_from: str = option("", "weights from elsewhere instead: gpt2, hf:owner/name, a file, ... (pretrained/)")
    latent: str = option(
        "", "number of thoughts, or auto: until the model stops; by default as in training (--init_from: none)"
    )
    question: str | None = option(None, "a question to answer")
    interactive: bool = option(False, "read questions from the terminal")
    file: str = option("", "a data file to take questions from; by default NAME.json beside NAME.pt, or test.json")
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
    path = find_checkpoint(args.init_from or args.out_dir or latest_run())
    if args.init_from and not is_ours(path):
        if not args.file and args.question is None and not args.interactive:
            raise UserError("--init_from: expected --question or --file or --interactive with it")
        found = upstairs("pretrained", "weights").to_sample(path, thinks=bool(args.latent))
        return *found, {"path": path, "stage": None, "longest": 0, "pieces": set()}
    model, cfg, tok, state = load_checkpoint(path)
    latest = "" if args.init_from or args.out_dir else " (the latest run; FOLDER for another)"
    print(f"{path}{latest}: {cfg.method}, stage {state['stage']}")
    if kind_of(cfg.method).instead != "thought" and args.latent not in ("", "0"):
        raise UserError(f"--latent={args.latent}: {path} has never thought, its method is {cfg.method}")
    return model, cfg, tok, state | {"path": path}


def ask(args, cfg, known):
    """Yields lists of problems to answer together: a file's, or a single one as it is asked."""
    if args.question is None and not args.interactive:
        yield data.load_json(args.file or questions_for(known["path"], cfg))[: args.count]
    typed = [] if args.question is None else [args.question]
    if args.interactive:
        print("type questions; an empty line ends")
        typed = chain(typed, map(str.strip, takewhile(str.strip, sys.stdin)))
    for question in typed:
        problem = {"question": question, "steps": [""] * known["longest"], "answer": ""}  # as if it were the longest
        unknown = data.unknown_pieces([problem], cfg, known["pieces"])[1]
        if unknown:
            print(f"WARNING: these are not in the training data: {data.name_some(unknown)}")
        yield [problem]


def make_prompts(problems, cfg, tok, stage, model, args):
    """Prompts with --latent thoughts, or else with as many as training gave each problem at this stage."""
    latent = int(args.latent) if args.latent.isdecimal() else None
    if args.latent == "auto" and (stage is None or not model.may_stop):
        raise UserError("--latent=auto: this model was not trained to stop by itself (--method=coconut+stop)")
    model.may_stop = model.may_stop and latent is None
    if stage is None:
        prompts = [make_prompt(p.question, 0, cfg, tok) for p in problems]
    else:
        rows = [row_for(p, stage, cfg, tok) for p in problems]
        prompts, usual = [row.prompt for row in rows], {row.n for row in rows}
        if latent is not None and usual != {latent}:
            trained = " or ".join(map(str, sorted(usual)))
            print(f"WARNING: in training such problems had {trained} thoughts, not {latent}")
    if latent is not None:
        prompts = [prompt._replace(n=latent) for prompt in prompts]
    for p, prompt in zip(problems, prompts):
        if not prompt.prefix or len(prompt.prefix) + prompt.n + len(prompt.eot) > cfg.block_size:
            lengths = f"{len(prompt.prefix)} tokens and {prompt.n} thoughts, where {cfg.block_size} fit (block_size)"
            raise UserError(f"{tok.decode(p.question)[:50]!r} cannot be answered: {lengths}")
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
    sampling, task = {"temperature": args.temperature, "top_k": args.top_k}, make_task(cfg, tok)
    solved = solve(model, prompts, cfg, tok, args.max_new_tokens, **sampling)
    for problem, (text, n_tokens, thoughts) in zip(problems, solved):
        expected = right_answer(problem, task) or None
        yield {
            "question": tok.decode(problem.question[len(tok.bos) :]).strip(),
            "thoughts": look_into(thoughts, model, tok, args.top),
            "writes": text.strip(),
            "tokens_written": n_tokens,
            "expected": expected,
            "right": task.is_right(task.read_answer(text), expected) if expected else None,
        }


def show_token(tok, token):
    """A token's text on one line, whatever it is."""
    text = tok.decode_single_token_bytes(token).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip(" ")) or "' '"


def show(seen):
    """Print what answer() yields."""
    print(f"\nquestion    {seen['question']}")
    if seen["thoughts"]:
        print("             norm  cosine  likeliest tokens")
    for i, thought in enumerate(seen["thoughts"], 1):
        cosine = "" if thought["cosine"] is None else f"{thought['cosine']:.2f}"
        likeliest = "   ".join(f"{text:<6} {p:6.1%}" for text, p in thought["tokens"])
        print(f"thought {i:<3} {thought['norm']:5.1f}  {cosine:>6}  {likeliest}")
    verdict = {True: "(right)", False: f"(wrong: {seen['expected']})", None: ""}[seen["right"]]
    print(f"writes      {seen['writes']}   {verdict}".rstrip())


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
                prompts = make_prompts(problems, cfg, tok, known["stage"], model, args)
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
