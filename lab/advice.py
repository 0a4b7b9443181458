"""
What a run tells its user besides: what the data is like, that it learns by heart, that it stands on a plateau.

train.py calls on_start and on_validation if this file is there.
"""

import os
import traceback
from itertools import chain

import numpy as np
import torch

import data
from config import UserError, first_line, ours
from curriculum import methods_of, row_for
from evaluate import written_loss
from tokenizer import PATTERNS

PLATEAU = 500  # steps after which something should have been learned
KNOWN = {("data/gsm8k", "gpt2"): 0.4}  # data_dir, init_from: what others have after chain of thought (docs/gsm8k.md)


def on_start(run):
    try_objective(run)
    if len(run.plan) > 1 and run.longest < run.cfg.max_latent_stage:
        print(f"WARNING: no problem has more than {run.longest} steps: the stages after that are all the same")
    trains = [problems["train"] for problems in run.all_problems]
    for folder, problems in dict(zip(run.cfg.data_dir, run.all_problems)).items():
        for split in data.SPLITS[1:]:
            path = f"{folder}/{split}.json"
            print(compare(path, problems[split], trains, run.cfg, run.tok, run.pieces), flush=True)


@torch.no_grad()
def try_objective(run):
    """UserError for a method whose losses fail where nobody thinks, as in stage 0: a traceback would come later."""
    row = row_for(run.problems["train"][0], 0, run.cfg, run.tok)
    if row.n or not methods_of(run.cfg.method):
        return
    run.objective.eval()
    try:
        rows = data.training_rows(run.problems["train"], [(0, 0)], 0, run.cfg, run.task, np.random.default_rng(0))
        run.objective(data.collate(rows, run.device))
    except UserError:
        raise
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        place = f"{ours(where.filename)}, line {where.lineno}"
        what = "fails where nobody thinks (thinking.fed is (B, 0, C) in stage 0)"
        raise UserError(f"method={run.cfg.method} {what}: {place}: {type(e).__name__}: {first_line(e)}") from e
    run.objective.train()


def compare(path, problems, trains, cfg, tok, pieces):
    """In one line: how much of a file is in the training data (a list of Problems), and what of it never is.

    In words or characters, where the tokenizer is made of them; else in tokens, which are known, whoever has seen them.
    """
    if cfg.tokenizer not in PATTERNS:
        seen = np.zeros(tok.n_vocab, bool)
        for train in trains:
            seen[train.tokens] = True
        new = ~seen[problems.tokens]
        n_new = np.logical_or.reduceat(new, problems.bounds[problems.first[:-1]]).sum()
        found = [tok.decode([t]).strip() for t in dict.fromkeys(problems.tokens[new].tolist())]
    else:
        n_new, found = data.unknown_pieces(data.load_json(path), cfg, pieces)
    asked = [*questions(problems)]
    common = {*asked}.intersection(chain.from_iterable(map(questions, trains)))
    n_common, n = sum(question in common for question in asked), len(asked)
    what = {"words": "words", "digits": "words", "chars": "characters"}.get(cfg.tokenizer, "tokens")
    line = f"{path}: {n:,} problems, {n_common:,} of whose questions are in train.json, too"
    if n_common > 0.9 * n:
        line = f"WARNING: {line}, so that it only tests what was learned by heart"
    if not n_new:
        return f"{line}; all of their {what} are"
    if cfg.tokenizer in PATTERNS and not line.startswith("WARNING"):
        line = f"WARNING: {line}"
    return f"{line}; {n_new:,} have {what} that are not, such as {data.name_some(found)}"


def questions(problems):
    """The tokens of each question, as bytes."""
    of = problems.first[:-1]
    bounds = zip(problems.bounds[of].tolist(), problems.bounds[of + 1].tolist())
    return (problems.tokens[a:b].tobytes() for a, b in bounds)


def on_validation(run, valid):
    watch_heart(run, valid)
    watch_plateau(run, valid)
    compare_with_known(run, valid)


@torch.no_grad()
def watch_heart(run, valid):
    """Say once if the training loss goes on falling, but the validation loss does not: it learns by heart."""
    progress, valid_loss, seen = run.progress, valid["loss"], run.progress["advice"]
    if seen.get("warned"):
        return
    stage = run.plan[progress["index"]]
    train_loss = written_loss(run.model.eval(), run.problems["train"], stage, run.cfg, run.tok)
    run.model.train()
    least = seen.get("least")
    if not least or valid_loss < least["valid"]:
        seen["least"] = {"valid": valid_loss, "train": train_loss, "at": progress["total"], "since": 0}
        return
    least["since"] += 1
    falls = train_loss < 0.8 * least["train"] and train_loss < valid_loss / 1.5
    if falls and least["since"] >= 3:
        seen["warned"] = True
        print(f"  WARNING: the {len(run.problems['train']):,} training problems are being learned by heart:")
        print(f"    since step {least['at']} their loss has fallen from {least['train']:.2g} to {train_loss:.2g},")
        print(f"    that of validation problems has not: {least['valid']:.2g} then, {valid_loss:.2g} now.")
        print("    More training problems help, or --dropout, or a smaller model.", flush=True)


def watch_plateau(run, valid):
    """Say once if stage 0, where every step is written, is not being learned: later stages build on it."""
    step, seen = run.progress["step"], run.progress["advice"]
    curve = seen.setdefault("curve", [])
    curve.append((step, valid["loss"]))
    then = [pair for pair in curve if 50 <= pair[0] <= step / 2][-1:]
    if run.plan[run.progress["index"]] > 0 or step < PLATEAU or valid["accuracy"] > 0.5 or not then:
        return
    ((since, loss),) = then
    if 0.8 * loss < valid["loss"] < 1.1 * loss and not seen.get("plateau"):
        seen["plateau"] = True
        print(f"  WARNING: a plateau: since step {since} the validation loss has gone from {loss:.3g} to")
        print(f"    {valid['loss']:.3g}, with {valid['accuracy']:.1%} right. It may end by itself, or never:")
        print("    docs/own_data.md says what to try.", flush=True)


def compare_with_known(run, valid):
    """Say if stage 0, all steps written, ends far below what is known for its data and weights: the rest will, too."""
    known = KNOWN.get((os.path.normpath(run.cfg.data_dir[0]), run.cfg.init_from))
    index, step = run.progress["index"], run.progress["step"]
    ends = run.plan[index] == 0 and step == run.lengths[index]
    if known and ends and valid["accuracy"] < 0.75 * known:
        print(f"  WARNING: stage 0 ends with {valid['accuracy']:.1%} right after {step:,} steps; others have")
        print(f"    {known:.0%} after the whole recipe: docs/gsm8k.md says what had gone wrong elsewhere", flush=True)
