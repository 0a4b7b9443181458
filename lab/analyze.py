"""
What happens inside the silence: force a trained model to stop thinking after K thoughts, and look at what it does.

Pictures are plot.py's business, grading that of tasks/graphs.py, single questions that of explore.py.

    python -m lab.analyze out/hops/best.pt                 # the test file of its task; writes out/hops/analysis.json
    python -m lab.analyze out/hops/best.pt data/hops/valid.json --count=200
    python -m lab.plot out/hops                            # pictures of it

For K = 0, c, 2c, ... thoughts (c of them replace a step): accuracy, and tokens written. For each thought: its norm, the
entropy of softmax(W h), and linear probes, which ask whether step k can be read from thought i. Where problems are
graphs (of prepare_hops.py, or with ProsQA's keys: root, target, edges, idx_to_symbol), also what follows, after the
paper's section 5. Then the same questions with other thoughts in place of its own; of <pause> tokens, with other keys
and values (questions.py). Of an accuracy, the 95 % interval stands in brackets.

Values. The value of a node after K thoughts is the probability that the next step, after <eot>, goes there: that of the
step's whole text, summed over the edges to the node where a step names its edge ("Every terpus is a brimpus.").
The frontier are the nodes that can be next, by any walk from the root. Problems without a step left are not counted.
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.analyze, from the project's folder")

import json
import os
import shlex
from dataclasses import dataclass
from statistics import fmean

import torch
from torch.distributions import Categorical
from torch.nn import functional as F

from config import cli, option, parse, replacing
from evaluate import percent, precision
from lab.questions import LookConfig, load, one_at_a_time, replacements, stacked, values_after
from tasks.graphs import CATEGORIES, search

PERCENTILES = range(0, 101, 5)


@dataclass
class AnalyzeConfig(LookConfig):
    ridge: float = option(0.01, "the probes' penalty on large weights", least=0)
    examples: int = option(20, "graphs to keep with all their values, for plot.py", least=0)


def summarise(graphs, values, n_replaced):
    """Means over the problems: where the value lies, how spread it is, and how it depends on a node's place."""
    right, frontier, sizes, tops, places = [], [], [], [], {}
    for graph, value in zip(graphs, values):
        next_nodes, left = graph.frontier(n_replaced + 1), search(graph.predecessors(), [graph.target])[0]
        leaves = [a for a in graph.successors if not graph.successors[a]]
        place = search(graph.predecessors(), leaves)[0] if leaves else graph.depths()
        best = graph.depths()[graph.target] - n_replaced - 1
        right.append(sum(value[node] for node in next_nodes if left.get(node) == best))
        frontier.append(sum(value[node] for node in next_nodes))
        sizes.append(len(next_nodes))
        tops.append(torch.tensor(sorted(value.values(), reverse=True)[:3]).cumsum(0))
        for node in next_nodes if leaves else place:  # in a circle only one node can be next: look at all of them
            if node in place:
                places.setdefault((place[node], node in left), []).append(value[node])
    tops = torch.stack([F.pad(t, (0, 3 - len(t)), value=t[-1].item()) for t in tops])  # (problems, 3)
    quantiles = torch.quantile(tops, torch.tensor(PERCENTILES) / 100, dim=0)  # (percentiles, 3)
    medians = dict(zip(("best", "two best", "three best"), tops.median(0).values.tolist()))
    by_place = [
        {"place": k, "to_target": to, "nodes": len(v), "value": fmean(v)} for (k, to), v in sorted(places.items())
    ]
    return {
        "problems": len(graphs), "right": fmean(right), "frontier": fmean(frontier),
        "elsewhere": fmean(sum(v.values()) for v in values) - fmean(frontier), "frontier_size": fmean(sizes), **medians,
        "percentiles": list(PERCENTILES), "top": quantiles.T.tolist(), "by_place": by_place,
    }  # fmt: skip


# ---------------------------------------------------------------- thoughts


def probe(x, labels, ridge=0.01, seed=1, n_shuffles=10):
    """How well a linear map of x (n, C) tells the labels (n,), on the half that it was not fitted to.

    Ridge regression onto one-hot labels, in closed form. control: the same, fitted to shuffled labels, the mean of
    n_shuffles. None if there are more than n / 4 labels, too rare to learn.
    """
    known, y = torch.unique(labels, return_inverse=True)
    if len(known) > len(y) / 4:
        return None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    fit, test = order[: len(y) // 2], order[len(y) // 2 :]
    x = ((x - x[fit].mean(0)) / (x[fit].std(0) + 1e-6)).double()
    square = x[fit].T @ x[fit] + ridge * len(fit) * torch.eye(x.size(1), dtype=torch.double)

    def accuracy(y_fit):
        wanted = F.one_hot(y_fit, len(known)).double()
        w = torch.linalg.solve(square, x[fit].T @ (wanted - wanted.mean(0)))
        return ((x[test] @ w + wanted.mean(0)).argmax(1) == y[test]).double().mean().item()

    control = fmean(accuracy(y[fit][torch.randperm(len(fit), generator=generator)]) for _ in range(n_shuffles))
    return {"accuracy": accuracy(y[fit]), "control": control}


def probe_all(thoughts, steps, args):
    """A probe of each step from each thought; thoughts (n, N, C), steps: texts, of each problem as many as it has."""
    found, names = [], {text: i for i, text in enumerate(sorted({text for s in steps for text in s}))}
    for k in range(max(map(len, steps))):
        has = [i for i, s in enumerate(steps) if len(s) > k]
        labels = torch.tensor([names[steps[i][k]] for i in has])
        for i, of in enumerate(thoughts[has].unbind(1), 1):
            result = probe(of, labels, args.ridge, args.seed)
            if result:
                found.append({"thought": i, "step": k + 1, **result})
    return found


def describe_thoughts(model, thoughts, tok):
    """Mean and standard deviation, over the problems, of the norm and the entropy (nats) of each thought (M, N, C)."""
    rows = []
    bare = torch.stack([model.bare(of) for of in thoughts])  # LOTUS adds more than the feedback's vectors
    for i, (own, seen) in enumerate(zip(thoughts.unbind(1), bare.unbind(1)), 1):
        entropy = Categorical(logits=model.head(seen)[:, : tok.n_vocab].float()).entropy()
        row = {"thought": i}
        for name, values in ("norm", own.norm(dim=-1)), ("entropy", entropy):
            std, mean = torch.std_mean(values, correction=0)
            row |= {name: mean.item(), f"{name}_std": std.item()}
        rows.append(row)
    return rows


# ---------------------------------------------------------------- all of it


def sweep(asked, ns, given=None):
    """Let each problem be answered after n of ns thoughts: (accuracy, tokens and categories; the Answers)."""
    answers = asked.answer(ns, given)
    row = {"accuracy": fmean(answer.right for answer in answers), "tokens": fmean(a.n_tokens for a in answers)}
    if asked.graphs:
        grades = [answer.category for answer in answers]
        row["categories"] = {name: grades.count(name) / len(grades) for name in CATEGORIES}
    return row, answers


def analyze(asked, args):
    """Everything, as it goes into the file."""
    graphs, c = asked.graphs, max(1, asked.task.cfg.c_thought)
    most = asked.most - asked.most % c  # whole steps only
    stops, asked.model.may_stop = asked.model.may_stop, False
    result = {"sweep": [], "values": [], "examples": [], "controls": []}
    for p, path, graph in [*zip(asked.raw, asked.paths, graphs or [])][: args.examples]:
        result["examples"].append({"question": p["question"], "path": path, **graph._asdict(), "values": []})
    for n in range(0, most + 1, c):
        row, answers = sweep(asked, [n] * len(asked.raw))
        result["sweep"].append({"thoughts": n} | row)
        values = values_after(asked, n)
        if values:
            summary = summarise([graphs[i] for i in values], [*values.values()], n // c)
            result["values"].append({"thoughts": n} | summary)
        for i in range(min(args.examples, len(asked.raw))):
            if i in values:
                result["examples"][i]["values"].append({"thoughts": n, "value": values[i]})
    held, trained = stacked(answers), [min(most, n) for n in asked.trained]
    if len({*trained}) > 1:  # a fixed number is too many for some, and too few for others
        result["trained"] = {"thoughts": fmean(trained)} | sweep(asked, trained)[0]
    if stops:
        asked.model.may_stop = True
        row, answers = sweep(asked, [most] * len(asked.raw))
        result["auto"] = {"thoughts": fmean(len(answer.held) for answer in answers)} | row
        asked.model.may_stop = False
    others = replacements(held, trained, args.seed)
    if held.size(1) > 1:
        others |= one_at_a_time(held, others["another question's"])
    for name, given in others.items():  # what it answers if it was made to think something else
        result["controls"].append({"thoughts": name, "accuracy": sweep(asked, trained, given)[0]["accuracy"]})
    thoughts = held[:, :0] if asked.pauses else held
    result["thoughts"] = describe_thoughts(asked.model.cpu(), thoughts, asked.task.tok)
    result["probes"] = probe_all(thoughts, asked.paths, args)
    return result


# ---------------------------------------------------------------- what one sees

NO_SHARES = {"thoughts", "tokens", "frontier_size", "norm", "norm_std", "entropy", "entropy_std"}


def table(title, rows, n=0):
    """Print dicts, whose keys are the columns, but no lists and dicts. n: how many questions an accuracy is of."""
    if not rows:
        return
    columns = [name for name, value in rows[0].items() if not isinstance(value, (list, dict))]

    def cell(name, value):
        if name == "accuracy" and n:
            return percent(value, n)
        if isinstance(value, float):
            return f"{value:.2f}" if name in NO_SHARES else f"{value:.1%}"
        return str(value)

    cells = [columns, *([cell(name, row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths)))


def show(result):
    """Print all of it, but for single problems."""
    n, values = result["problems"], result["values"]
    sweeps = {
        "what is written after so many forced thoughts": result["sweep"],
        "with as many thoughts as each has had in training": [result[name] for name in ("trained",) if name in result],
        "when it stops by itself": [result[name] for name in ("auto",) if name in result],
    }
    for title, rows in sweeps.items():
        table(title, [{**row, **row.get("categories", {})} for row in rows], n)
    table("value: probability to be the next step (means; of the best node, the two and three best: medians)", values)
    places = [{"thoughts": row["thoughts"], **place} for row in values for place in row["by_place"]]
    table("mean value by height (distance to a leaf), on the frontier; in a circle by position", places)
    table("answers with other thoughts", result["controls"], n)
    table("thoughts: norm, and entropy in nats", result["thoughts"])
    table("linear probes of step k from thought i: held out; control: fitted to shuffled labels", result["probes"])


@torch.no_grad()
def main(argv):
    command = shlex.join(["python", "-m", "lab.analyze", *argv])
    args = parse(AnalyzeConfig, argv, __doc__, places=("ckpt", "data"))
    asked, about = load(args)
    out = args.out or os.path.join(os.path.dirname(about["checkpoint"]), "analysis.json")
    with replacing(out) as f, precision(asked.task.cfg, next(asked.model.parameters()).device):
        result = {"command": command} | about | analyze(asked, args)
        json.dump(result, f)
    show(result)
    print(f"\n{out} has it all; `python -m lab.plot {os.path.dirname(out) or '.'}` makes pictures of it")


if __name__ == "__main__":
    cli(main)
