"""
What happens inside the silence: force a trained model to stop thinking after K thoughts, and look at what it does.

Pictures are plot.py's business, grading that of tasks/graphs.py, single questions that of sample.py.

    python -m lab.analyze out/hops/best.pt                 # the test file of its task; writes out/hops/analysis.json
    python -m lab.analyze out/hops/best.pt data/hops/valid.json --count=200
    python -m lab.plot out/hops                            # pictures of it

For K = 0, c, 2c, ... thoughts (c of them replace a step): accuracy, and tokens written. For each thought: its norm, the
entropy of softmax(W h), and linear probes, which ask whether step k can be read from thought i. Where problems are
graphs (of prepare_hops.py, or with ProsQA's keys: root, target, edges, idx_to_symbol), also what follows, after the
paper's section 5.

Values. The value of a node after K thoughts is the probability that the next step, after <eot>, goes there: that of the
step's whole text, summed over the edges to the node where a step names its edge ("Every terpus is a brimpus.").
The frontier are the nodes that can be next, by any walk from the root. Problems without a step left are not counted.
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.analyze, from the project's folder")

import json
import os
import shlex
import sys
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch
from torch.nn import functional as F

import data
from checkpoint import find_checkpoint, latest_run, load_checkpoint, pick_device
from config import UserError, cli, option, parse
from curriculum import Row, Task, kind_of, make_prompt, make_task, row_for
from evaluate import most_tokens, precision, right_answer, solve
from tasks.graphs import CATEGORIES, grade, node_of, read_graphs, read_steps, search
from tokenizer import PAUSE

PERCENTILES = range(0, 101, 5)
TOLD = {"targets", "tokens", "first"}  # one of these is in Row.extra if states are told what to predict (methods/)


@dataclass
class AnalyzeConfig:
    ckpt: str = option("", "a run's folder, or a checkpoint; by default the latest run under out/")
    data: str = option("", "a data file; by default test.json of the checkpoint's task")
    count: int = option(1000, "how many of the file's problems, at most", least=4)
    max_thoughts: int | None = option(None, "the largest K; by default as many thoughts as in training", least=0)
    ridge: float = option(0.01, "the probes' penalty on large weights", least=0)
    examples: int = option(20, "graphs to keep with all their values, for plot.py", least=0)
    out: str = option("", "where to write; by default analysis.json beside the checkpoint")
    seed: int = option(1, "decides the probes' halves and shuffled labels", least=0)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")


def check_writable(path):
    """UserError if a file cannot be written there, before there is anything to write. What is there is left alone."""
    try:
        there = os.path.exists(path)
        open(path, "ab").close()
        if not there:
            os.remove(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None


# ---------------------------------------------------------------- values


def candidate_steps(graph, task):
    """[(tokens of a step that could be written, the node it goes to), ...]."""
    form, encode = task.cfg.step_format, task.tok.encode_ordinary
    if graph.sentences:
        edges = [(a, b) for a in graph.successors for b in graph.successors[a]]
        steps = [(f"{a if a[0].isupper() else f'Every {a}'} is a {b}.", b) for a, b in edges]  # people have capitals
    else:
        steps = [(node, node) for node in graph.successors]
    return [(encode(form.replace("{}", text)), node) for text, node in steps]


def text_probabilities(model, prompts, texts):
    """For each Prompt, the probability of each of its texts (lists of tokens) as what comes next.

    Every prompt is read once; then its past is read on from with each text.
    """
    device = next(model.parameters()).device
    batch = data.collate([Row(*prompt, labels=[]) for prompt in prompts], device)
    said = data.collate([Row(text, 0, [], []) for of in texts for text in of], device)  # prefix (M, S)
    thinking = model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix)
    row = torch.tensor([i for i, of in enumerate(texts) for _ in of], device=device)  # (M,) whose text it is
    real = torch.arange(said.prefix.size(1), device=device) < said.prefix_len[:, None]  # (M, S)
    h = thinking.predicting[row, -1:]  # (M, 1, C)
    if said.prefix.size(1) > 1:
        states, _ = model.read(model.embed(said.prefix[:, :-1]), real[:, 1:], thinking.past.select(row))
        h = torch.cat((h, states[-1]), 1)
    log_p = model.head(h).float().log_softmax(-1).gather(2, said.prefix[..., None])[..., 0]
    return [p.tolist() for p in log_p.masked_fill(~real, 0).sum(1).exp().cpu().split([*map(len, texts)])]


def node_values(model, prompts, graphs, task):
    """For each problem {node: its value}."""
    found, steps = [], [candidate_steps(graph, task) for graph in graphs]
    size = max(1, task.cfg.eval_batch_size // max(map(len, steps), default=1))
    for start in range(0, len(prompts), size):
        some = slice(start, start + size)
        chances = text_probabilities(model, prompts[some], [[text for text, _ in of] for of in steps[some]])
        for graph, of, ps in zip(graphs[some], steps[some], chances):
            values = dict.fromkeys(graph.successors, 0.0)
            for (_, node), p in zip(of, ps):
                values[node] += p
            found.append(values)
    return found


def values_after(model, asked, n):
    """{number of a problem: its node_values after n thoughts}, for those that have a step left."""
    cfg, tok = asked.task.cfg, asked.task.tok
    if not asked.graphs:
        return {}
    left = [i for i, path in enumerate(asked.paths) if len(path) > n // max(1, cfg.c_thought)]
    prompts = [make_prompt(asked.problems[i].question, n, cfg, tok) for i in left]
    if asked.told:  # such a thought says itself what comes next, without <eot>
        prompts = [prompt._replace(eot=[]) for prompt in prompts]
    return dict(zip(left, node_values(model, prompts, [asked.graphs[i] for i in left], asked.task)))


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
    return {
        "problems": len(graphs), "right": fmean(right), "frontier": fmean(frontier),
        "elsewhere": fmean(sum(v.values()) for v in values) - fmean(frontier), "frontier_size": fmean(sizes),
        "percentiles": list(PERCENTILES), "top": quantiles.T.tolist(), "place": "height" if leaves else "position",
        "by_place": [{"place": k, "to_target": to, "nodes": len(v), "value": fmean(v)}
                     for (k, to), v in sorted(places.items())],
    }  # fmt: skip


# ---------------------------------------------------------------- thoughts


def probe(x, labels, ridge=0.01, seed=1, n_shuffles=10):
    """How well a linear map of x (n, C) tells the labels (n,), on the half that it was not fitted to.

    Ridge regression onto one-hot labels, in closed form. control: the same, fitted to shuffled labels, the mean of
    n_shuffles. chance: always say what is most frequent. None if there are more than n / 4 labels, too rare to learn.
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
    chance = (y[test] == y[fit].mode().values).double().mean().item()
    shares = {"accuracy": accuracy(y[fit]), "control": control, "chance": chance}
    return shares | {"labels": len(known), "fitted": len(fit), "tested": len(test)}


def probe_all(thoughts, steps, args):
    """A probe of each step from each thought; thoughts (n, N, C), steps: texts, of each problem as many as it has."""
    found, names = [], {text: i for i, text in enumerate(sorted({text for s in steps for text in s}))}
    for k in range(max(map(len, steps))):
        has = [i for i, s in enumerate(steps) if len(s) > k]
        labels = torch.tensor([names[steps[i][k]] for i in has])
        results = [probe(thoughts[has, i], labels, args.ridge, args.seed) for i in range(thoughts.size(1))]
        found += [{"thought": i, "step": k + 1, **result} for i, result in enumerate(results, 1) if result]
    return found


def describe_thoughts(model, thoughts, tok):
    """Mean and standard deviation, over the problems, of the norm and the entropy (nats) of each thought (n, N, C)."""
    rows, bare = [], torch.stack([model.bare(of) for of in thoughts])
    for i in range(thoughts.size(1)):
        norm = thoughts[:, i].norm(dim=-1)
        log_p = model.head(bare[:, i])[:, : tok.n_vocab].log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        row = {"thought": i + 1}
        for name, values in {"norm": norm, "entropy": entropy}.items():
            row |= {name: values.mean().item(), f"{name}_std": values.std(correction=0).item()}
        rows.append(row)
    return rows


# ---------------------------------------------------------------- all of it


class Asked(NamedTuple):
    """Questions about which a model is looked at, and what is known of each."""

    task: Task  # with the settings and the tokenizer
    raw: list  # as dicts
    problems: data.Problems
    right: list  # the answers
    graphs: list | None
    paths: list  # their steps; in graphs the nodes that these go to
    trained: list  # how many thoughts, or <pause> tokens, they have had in training
    most: int  # the largest K
    told: bool  # whether it was told what thoughts should hold


def load(args):
    """What args.ckpt, data, count, max_thoughts, device stand for, for explore.py, too: (model, Asked, what it is)."""
    path = find_checkpoint(args.ckpt or latest_run())
    model, cfg, tok, saved = load_checkpoint(path)
    file = args.data or os.path.join(cfg.data_dir[-1], "test.json")
    raw = data.load_json(file)[: args.count]
    task, problems, graphs = make_task(cfg, tok), data.encode(raw, cfg, tok), read_graphs(raw, file)
    longest = problems[int(problems.n_steps.argmax())]
    replaced = [row_for(longest, stage, cfg, tok).replaced for stage in range(1, saved["stage"] + 1)]
    if any(steps != longest.steps[: len(steps)] for steps in replaced):
        raise UserError(f"{path}: it is not the first steps that are replaced; what follows is not the rest of a path")
    pause, rows = tok.encode_single_token(PAUSE), [row_for(p, saved["stage"], cfg, tok) for p in problems]
    trained = [row.n or row.prefix.count(pause) for row in rows]
    most = max(*trained, *(row.prompt.n for row in rows))
    if args.max_thoughts is not None and kind_of(cfg.method).instead:
        most = args.max_thoughts
    longest = max(len(p.question) for p in problems) + most + 2
    longest += max((len(text) for g in graphs or () for text, _ in candidate_steps(g, task)), default=1)
    if longest > cfg.block_size:
        raise UserError(f"{most} thoughts take {longest} positions, where {cfg.block_size} fit: lower --max_thoughts")
    print(f"{path}: {cfg.method}, stage {saved['stage']}; {len(raw):,} problems of {file}", flush=True)
    asked = Asked(
        task, raw, problems,
        right=[right_answer(p, task) for p in problems],
        graphs=graphs,
        paths=[[node_of(step) if graphs else step for step in p["steps"]] for p in raw],
        trained=[min(most, n) for n in trained],
        most=most,
        told=any(TOLD & row.extra.keys() for row in rows),
    )  # fmt: skip
    about = {"checkpoint": path, "data": file, "method": cfg.method, "stage": saved["stage"], "problems": len(raw)}
    return model.to(pick_device(args.device)), asked, about


def stop_after(model, asked, ns, given=None):
    """Let each problem be answered after n of ns thoughts, the given ones if there are any: what solve() returns."""
    cfg, tok = asked.task.cfg, asked.task.tok
    prompts = [make_prompt(p.question, n, cfg, tok) for p, n in zip(asked.problems, ns)]
    return solve(model, prompts, cfg, tok, most_tokens(asked.problems, cfg), given=given)


def verdicts(asked, solved):
    """Whether each problem has been answered rightly."""
    task = asked.task
    return [task.is_right(task.read_answer(text), right) for (text, *_), right in zip(solved, asked.right)]


def category(asked, i, text, n):
    """Of what the model has written about problem i after n thoughts, the category (graphs.grade)."""
    graph, answer = asked.graphs[i], asked.task.read_answer(text)
    return grade(graph, read_steps(text, graph, asked.task.cfg), node_of(answer), n)


def sweep(model, asked, ns):
    """Let each problem be answered after n of ns thoughts: (accuracy, tokens and categories; what solve() returns)."""
    solved = stop_after(model, asked, ns)
    row = {"accuracy": fmean(verdicts(asked, solved)), "tokens": fmean(n_tokens for _, n_tokens, _ in solved)}
    if asked.graphs:
        grades = [category(asked, i, text, n) for i, ((text, *_), n) in enumerate(zip(solved, ns))]
        row["categories"] = {name: grades.count(name) / len(grades) for name in CATEGORIES}
    return row, solved


def stacked(solved):
    """The thoughts of all problems, (M, N, C)."""
    return torch.stack([thoughts.float().cpu() for *_, thoughts in solved])


def replacements(thoughts, ns, seed):
    """{what they are: thoughts (M, N, C) in place of these}: what would be found if they did not matter.

    Of a problem's N thoughts its first n of ns count; another's are those of the nearest before it that has as many.
    """
    if not thoughts.size(1):
        return {}
    generator = torch.Generator().manual_seed(seed)
    noise, n = torch.randn(thoughts.shape, generator=generator), torch.tensor(ns)
    has = (torch.arange(thoughts.size(1)) < n[:, None])[..., None]  # (M, N, 1)
    order = [[*range(i - 1, -1, -1), *range(len(ns) - 1, i - 1, -1)] for i in range(len(ns))]
    other = [next(j for j in others if ns[j] >= ns[i]) for i, others in enumerate(order)]
    return {
        "their own": thoughts,
        "another question's": thoughts[other],
        "the mean of all questions'": ((thoughts * has).sum(0) / has.sum(0).clamp(min=1)).expand_as(thoughts),
        "noise of the same norm": noise / noise.norm(dim=-1, keepdim=True) * thoughts.norm(dim=-1, keepdim=True),
        "zeros": torch.zeros_like(thoughts),
    }


def counting(most, step=1):
    """0, step, 2 step, ..., most, and on a terminal how far that is."""
    for n in range(0, most + 1, step):
        if sys.stderr.isatty():
            print(f"\r{n} of {most} thoughts", end="" if n + step <= most else "\n", file=sys.stderr, flush=True)
        yield n


def analyze(model, asked, args):
    """Everything, as it goes into the file."""
    raw, graphs, c = asked.raw, asked.graphs, max(1, asked.task.cfg.c_thought)
    most = asked.most - asked.most % c  # whole steps only
    stops, model.may_stop = model.may_stop, False
    result = {"sweep": [], "values": [], "examples": []}
    for p, path, graph in [*zip(raw, asked.paths, graphs or [])][: args.examples]:
        result["examples"].append({"question": p["question"], "path": path, **graph._asdict(), "values": []})
    for n in counting(most, c):
        row, solved = sweep(model, asked, [n] * len(raw))
        result["sweep"].append({"thoughts": n} | row)
        values = values_after(model, asked, n)
        if values:
            summary = summarise([graphs[i] for i in values], [*values.values()], n // c)
            result["values"].append({"thoughts": n, **summary})
        for i, value in values.items():
            if i < args.examples:
                result["examples"][i]["values"].append({"thoughts": n, "value": value})
    thoughts, trained = stacked(solved), [min(most, n) for n in asked.trained]
    if len({*trained}) > 1:  # a fixed number is too many for some, and too few for others
        result["trained"] = {"thoughts": fmean(trained)} | sweep(model, asked, trained)[0]
    if stops:
        model.may_stop = True
        row, solved = sweep(model, asked, [most] * len(raw))
        result["auto"] = {"thoughts": fmean(len(thoughts) for *_, thoughts in solved)} | row
        model.may_stop = False
    result["controls"] = []  # what it answers to the same questions if it was made to think something else
    for name, given in replacements(thoughts, trained, args.seed).items():
        right = fmean(verdicts(asked, stop_after(model, asked, trained, given)))
        result["controls"].append({"thoughts": name, "accuracy": right})
    result["thoughts"] = describe_thoughts(model.cpu(), thoughts, asked.task.tok)
    result["probes"] = probe_all(thoughts, asked.paths, args)
    return result


# ---------------------------------------------------------------- what one sees


def table(title, rows, form=".1%", columns=None):
    """Print dicts, whose keys are the columns; form: of floats."""
    columns = columns or [*rows[0]]
    cells = [
        [f"{row[c]:{form}}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    print(f"\n{title}")
    for row in (columns, *cells):
        print("  ".join(text.rjust(width) for text, width in zip(row, widths)).rstrip())


def show(result):
    """Print all of it, but for single problems."""
    sweep = [{**row, "tokens": f"{row['tokens']:.1f}", **row.get("categories", {})} for row in result["sweep"]]
    table("what is written after so many forced thoughts", sweep, columns=[c for c in sweep[0] if c != "categories"])
    for key, when in {"trained": "with as many thoughts as each has had in training",
                      "auto": "when it stops by itself"}.items():  # fmt: skip
        if key in result:
            row = result[key]
            thinks = f"{row['thoughts']:.2f} thoughts on average, {row['tokens']:.1f} tokens"
            print(f"{when}: {thinks}, {row['accuracy']:.1%} right")
    if result["values"]:
        show_values(result["values"])
    if result["controls"]:
        table("answers with other thoughts", result["controls"])
    if result["thoughts"]:
        table("thoughts: norm, and entropy in nats", result["thoughts"], ".2f")
    if result["probes"]:
        show_probes(result["probes"])


def show_values(rows):
    shown = []
    for r in rows:
        top = [of[len(PERCENTILES) // 2] for of in r["top"]]
        shown.append({
            "thoughts": r["thoughts"], "problems": r["problems"], "right step": r["right"], "frontier": r["frontier"],
            "its size": f"{r['frontier_size']:.1f}", "elsewhere": r["elsewhere"],
            "top 1": top[0], "top 1-2": top[1], "top 1-3": top[2],
        })  # fmt: skip
    table("value: probability to be the next step (means; the largest, two and three largest: medians)", shown)
    what = {"height": "height (distance to a leaf), on the frontier", "position": "position (distance from the root)"}
    shown = []
    for r in rows:
        for leads in (True, False):
            values = {str(p["place"]): p["value"] for p in r["by_place"] if p["to_target"] == leads}
            if values:
                shown.append({"thoughts": r["thoughts"], "leads to target": "yes" if leads else "no", **values})
    places = sorted({p["place"] for r in rows for p in r["by_place"]})
    title = f"mean value by {what[rows[0]['place']]}"
    table(title, shown, columns=["thoughts", "leads to target", *map(str, places)])


def show_probes(probes):
    steps = [f"step {k}" for k in sorted({p["step"] for p in probes})]
    for key, title in (("accuracy", "linear probes, held out"), ("control", "the same, shuffled labels")):
        rows = {}
        for p in probes:
            rows.setdefault(p["thought"], {"": f"thought {p['thought']}"})[f"step {p['step']}"] = p[key]
        table(title, [rows[i] for i in sorted(rows)], columns=["", *steps])


@torch.no_grad()
def main(argv):
    command = shlex.join(["python", "-m", "lab.analyze", *argv])
    args = parse(AnalyzeConfig, argv, __doc__, places=("ckpt", "data"))
    model, asked, about = load(args)
    out = args.out or os.path.join(os.path.dirname(about["checkpoint"]), "analysis.json")
    check_writable(out)
    with precision(asked.task.cfg, next(model.parameters()).device):
        result = {"command": command} | about | analyze(model, asked, args)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(result, f)
    show(result)
    print(f"\n{out} has it all; `python -m lab.plot {os.path.dirname(out) or '.'}` makes pictures of it")


if __name__ == "__main__":
    cli(main)
