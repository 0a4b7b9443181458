"""
What a run tells its user besides: what the data is like, that it learns by heart, that it stands on a plateau.

train.py calls on_data and on_validation if this file is there.
"""

from itertools import chain

import numpy as np

import data
from tokenizer import PATTERNS

PLATEAU = 500  # steps after which something should have been learned


def on_data(run, files):
    """Say how each validation and test file is like the training data; files: [{split: path}, ...]."""
    trains = [problems["train"] for problems in run.all_problems]
    for paths, problems in {tuple(paths.items()): problems for paths, problems in zip(files, run.all_problems)}.items():
        for split, path in paths:
            if split != "train":
                print(compare(path, problems[split], trains, run.cfg, run.tok, run.pieces), flush=True)


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


def watch_heart(run, valid):
    """Say once if the training loss goes on falling, but the validation loss does not: it learns by heart."""
    progress, valid_loss = run.progress, valid["loss"]
    total, n = progress["trained"]
    seen, train_loss = progress["watch"], float(total) / n  # the mean since the last evaluation
    least = seen.get("least")
    if not least or valid_loss < least["valid"]:
        seen["least"] = {"valid": valid_loss, "train": train_loss, "at": progress["total"], "since": 0}
        return
    least["since"] += 1
    falls = train_loss < 0.8 * least["train"] and train_loss < valid_loss / 1.5
    if falls and least["since"] >= 3 and not seen.get("warned"):
        seen["warned"] = True
        print(f"  WARNING: the {len(run.problems['train']):,} training problems are being learned by heart:")
        print(f"    since step {least['at']} their loss has fallen from {least['train']:.2g} to {train_loss:.2g},")
        print(f"    that of validation problems has not: {least['valid']:.2g} then, {valid_loss:.2g} now.")
        print("    More training problems help, or --dropout, or a smaller model.", flush=True)


def watch_plateau(run, valid):
    """Say once if stage 0, where every step is written, is not being learned: later stages build on it."""
    step, curve = run.progress["step"], run.progress["watch"].setdefault("curve", [])
    curve.append((step, valid["loss"]))
    then = [pair for pair in curve if 50 <= pair[0] <= step / 2][-1:]
    if run.plan[run.progress["index"]] > 0 or step < PLATEAU or valid["accuracy"] > 0.5 or not then:
        return
    ((since, loss),) = then
    if 0.8 * loss < valid["loss"] < 1.1 * loss and not run.progress["watch"].get("plateau"):
        run.progress["watch"]["plateau"] = True
        print(f"  WARNING: a plateau: since step {since} the validation loss has gone from {loss:.3g} to")
        print(f"    {valid['loss']:.3g}, with {valid['accuracy']:.1%} right. It may end by itself, or never:")
        print("    docs/own_data.md says what to try.", flush=True)
