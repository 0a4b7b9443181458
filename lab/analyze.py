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

import torch
from torch.nn import functional as F

import batches
import data
from checkpoint import find_checkpoint, latest_run, load_checkpoint, pick_device
from config import UserError, cli, option, parse
from curriculum import METHODS, Row, count, make_prompt
from evaluate import find_answer, most_tokens, precision, right_answer, solve
from tasks.graphs import CATEGORIES, grade, node_of, read_graphs, read_steps, search
from textfile import check_writable

PERCENTILES = range(0, 101, 5)


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


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


# ---------------------------------------------------------------- values


def candidate_steps(graph, cfg, tok):
    """[(tokens of a step that could be written, the node it goes to), ...]."""
    if graph.sentences:
        edges = [(a, b) for a in graph.successors for b in graph.successors[a]]
        steps = [(f"{a if a[0].isupper() else f'Every {a}'} is a {b}.", b) for a, b in edges]  # people have capitals
    else:
        steps = [(node, node) for node in graph.successors]
    return [(tok.encode_ordinary(cfg.step_format.replace("{}", text)), node) for text, node in steps]


def text_probabilities(model, prompts, texts):
    """For each Prompt, the probability of each of its texts (lists of tokens) as what comes next.

    Every prompt is read once; then its past is read on from with each text.
    """
    device = next(model.parameters()).device
    batch = batches.collate([Row(*prompt, labels=[]) for prompt in prompts], device)
    counts, flat = [len(t) for t in texts], [text for t in texts for text in t]
    said = batches.collate([Row(text, 0, [], []) for text in flat], device)  # prefix (M, S)
    thinking = model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix)
    h, past = thinking.predicting, thinking.past
    row = torch.repeat_interleave(torch.arange(len(prompts), device=device), torch.tensor(counts, device=device))
    log_p = model.head(h[:, -1]).float().log_softmax(-1)[row].gather(1, said.prefix[:, :1])[:, 0]  # (M,) first token
    if max(map(len, flat)) > 1:
        real = torch.arange(1, said.prefix.size(1), device=device) < said.prefix_len[:, None]  # (M, S-1) the others
        states, _ = model.read(model.embed(said.prefix[:, :-1]), real, past.select(row))
        more = model.head(states[-1]).float().log_softmax(-1).gather(2, said.prefix[:, 1:, None])[..., 0]
        log_p = log_p + more.masked_fill(~real, 0).sum(1)
    return [p.tolist() for p in log_p.exp().cpu().split(counts)]


def node_values(model, prompts, graphs, cfg, tok):
    """For each problem {node: its value}."""
    found = []
    steps = [candidate_steps(graph, cfg, tok) for graph in graphs]
    size = max(1, cfg.eval_batch_size // max(map(len, steps)))
    for start in range(0, len(prompts), size):
        some = steps[start : start + size]
        chances = text_probabilities(model, prompts[start : start + size], [[text for text, _ in s] for s in some])
        for graph, s, ps in zip(graphs[start : start + size], some, chances):
            values = dict.fromkeys(graph.successors, 0.0)
            for (_, node), p in zip(s, ps):
                values[node] += p
            found.append(values)
    return found


def values_after(model, problems, paths, graphs, n, cfg, tok):
    """{number of a problem: its node_values after n thoughts}, for those that have a step left; paths: their steps."""
    left = [i for i, path in enumerate(paths) if len(path) > n // max(1, cfg.c_thought)]
    prompts = [make_prompt(problems[i].question, n, cfg, tok) for i in left]
    if cfg.thought_targets:  # such a thought says itself what comes next, without <eot>
        prompts = [prompt._replace(eot=[]) for prompt in prompts]
    return dict(zip(left, node_values(model, prompts, [graphs[i] for i in left], cfg, tok))) if left else {}


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
        "problems": len(graphs), "right": mean(right), "frontier": mean(frontier),
        "elsewhere": mean(sum(v.values()) for v in values) - mean(frontier), "frontier_size": mean(sizes),
        "percentiles": list(PERCENTILES), "top": quantiles.T.tolist(), "place": "height" if leaves else "position",
        "by_place": [{"place": k, "to_target": to, "nodes": len(v), "value": mean(v)}
                     for (k, to), v in sorted(places.items())],
    }  # fmt: skip


# ---------------------------------------------------------------- thoughts


def probe(x, labels, ridge=0.01, seed=1, n_shuffles=10):
    """How well a linear map of x (n, C) tells the labels (n,), on the half that it was not fitted to.

    Ridge regression onto one-hot labels, in closed form. control: the same, fitted to shuffled labels, the mean of
    n_shuffles. chance: always say what is most frequent. None if there are more than n / 4 labels, too rare to learn.
    """
    known, y = torch.unique(labels, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    fit, test = order[: len(y) // 2], order[len(y) // 2 :]
    if len(known) > len(y) / 4:
        return None
    x = ((x - x[fit].mean(0)) / (x[fit].std(0) + 1e-6)).double()
    square = x[fit].T @ x[fit] + ridge * len(fit) * torch.eye(x.size(1), dtype=torch.double)

    def accuracy(y_fit):
        wanted = F.one_hot(y_fit, len(known)).double()
        w = torch.linalg.solve(square, x[fit].T @ (wanted - wanted.mean(0)))
        return ((x[test] @ w + wanted.mean(0)).argmax(1) == y[test]).double().mean().item()

    control = mean(accuracy(y[fit][torch.randperm(len(fit), generator=generator)]) for _ in range(n_shuffles))
    chance = (y[test] == y[fit].mode().values).double().mean().item()
    shares = {"accuracy": accuracy(y[fit]), "control": control, "chance": chance}
    return shares | {"labels": len(known), "fitted": len(fit), "tested": len(test)}


def probe_all(thoughts, steps, args):
    """A probe of each step from each thought; thoughts (n, N, C), steps: texts, of each problem as many as it has."""
    found, names = [], {text: i for i, text in enumerate(sorted({text for s in steps for text in s}))}
    for k in range(max(map(len, steps))):
        has = [i for i, s in enumerate(steps) if len(s) > k]
        labels = torch.tensor([names[steps[i][k]] for i in has])
        for i in range(thoughts.size(1)):
            result = probe(thoughts[has, i], labels, args.ridge, args.seed) if len(has) >= 4 else None
            if result:
                found.append({"thought": i + 1, "step": k + 1, **result})
    return found


def describe_thoughts(model, thoughts, tok):
    """Mean and standard deviation, over the problems, of the norm and the entropy (nats) of each thought (n, N, C)."""
    rows, bare = [], torch.stack([model.bare(of) for of in thoughts])
    for i in range(thoughts.size(1)):
        norm = thoughts[:, i].norm(dim=-1)
        log_p = model.head(bare[:, i])[:, : tok.n_vocab].log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        found = {
            "norm": norm.mean(),
            "norm_std": norm.std(correction=0),
            "entropy": entropy.mean(),
            "entropy_std": entropy.std(correction=0),
        }
        rows.append({"thought": i + 1} | {name: value.item() for name, value in found.items()})
    return rows


# ---------------------------------------------------------------- all of it


def load(args):
    """What args.ckpt, data, count, max_thoughts and device stand for, for explore.py, too.

    (model, cfg, tokenizer, what they are, the problems as dicts, their graphs or None, the largest K).
    """
    path = find_checkpoint(args.ckpt or latest_run())
    model, cfg, tok, saved = load_checkpoint(path)
    file = args.data or os.path.join(cfg.data_dir[-1], "test.json")
    raw = data.load_json(file)[: args.count]
    graphs = read_graphs(raw, file)
    if cfg.remove_from != "front":
        raise UserError(f"{path}: the last steps were replaced; what follows a thought is not the rest of a path")
    thinks = bool(METHODS[cfg.method].instead)
    most = thinks * (cfg.c_thought * cfg.max_latent_stage if args.max_thoughts is None else args.max_thoughts)
    longest = max(len(p.question) for p in data.encode(raw, cfg, tok)) + most + 2
    longest += max((len(text) for g in graphs or () for text, _ in candidate_steps(g, cfg, tok)), default=1)
    if longest > cfg.block_size:
        raise UserError(f"{most} thoughts take {longest} positions, where {cfg.block_size} fit: lower --max_thoughts")
    print(f"{path}: {cfg.method}, stage {saved['stage']}; {len(raw):,} problems of {file}", flush=True)
    about = {"checkpoint": path, "data": file, "method": cfg.method, "stage": saved["stage"], "problems": len(raw)}
    return model.to(pick_device(args.device)), cfg, tok, about, raw, graphs, most


def trained_with(problems, stage, most, cfg):
    """How many thoughts each problem has had in training, `most` at most."""
    return [min(most, count(len(p.steps), stage, cfg)[1]) for p in problems]


def stop_after(model, problems, ns, cfg, tok, given=None, may_stop=False):
    """Let each problem be answered after n of ns thoughts (may_stop: at most), the given ones if there are any.

    Returns what solve() does.
    """
    prompts = [make_prompt(p.question, n, cfg, tok) for p, n in zip(problems, ns)]
    return solve(model, prompts, cfg, tok, most_tokens(problems, cfg), given=given, may_stop=may_stop)


def category(graph, text, n, cfg):
    """Of what the model has written after n thoughts, the category (graphs.grade)."""
    return grade(graph, read_steps(text, graph, cfg), node_of(find_answer(text, cfg)), n)


def sweep(model, problems, graphs, cfg, tok, ns, may_stop=False):
    """Let each problem be answered after n of ns thoughts: (accuracy, tokens and categories; each one's thoughts).

    may_stop: after n at most, when the model says so itself.
    """
    solved = stop_after(model, problems, ns, cfg, tok, may_stop=may_stop)
    answers = [find_answer(text, cfg) for text, *_ in solved]
    row = {
        "thoughts": mean([len(thoughts) for *_, thoughts in solved] if may_stop else ns),
        "accuracy": mean(a == right_answer(p, cfg, tok) for a, p in zip(answers, problems)),
        "tokens": mean(n_tokens for _, n_tokens, _ in solved),
    }
    if graphs:
        grades = [category(graph, text, n, cfg) for graph, (text, *_), n in zip(graphs, solved, ns)]
        row["categories"] = {name: grades.count(name) / len(grades) for name in CATEGORIES}
    return row, [thoughts.float().cpu() for _, _, thoughts in solved]


def replacements(thoughts, ns, seed):
    """{what they are: thoughts (M, N, C) in place of these}: what would be found if they did not matter.

    Of a problem's N thoughts its first n of ns count; another's are those of the nearest before it that has as many.
    """
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


def control(model, problems, thoughts, ns, cfg, tok, args):
    """[{what the model was made to think instead, accuracy}, ...]: what it answers to the same questions."""
    rows, right = [], [right_answer(p, cfg, tok) for p in problems]
    for name, given in replacements(thoughts, ns, args.seed).items():
        solved = stop_after(model, problems, ns, cfg, tok, given)
        rows.append({"thoughts": name, "accuracy": mean(find_answer(t, cfg) == r for (t, *_), r in zip(solved, right))})
    return rows


def analyze(model, raw, graphs, cfg, tok, most, args, stage):
    """Everything, as it goes into the file; raw: the problems as dicts, graphs: theirs or None, most: the largest K."""
    problems, c = data.encode(raw, cfg, tok), max(1, cfg.c_thought)
    paths = [[node_of(step) if graphs else step for step in p["steps"]] for p in raw]
    result = {"sweep": [], "values": [], "examples": []}
    for i in range(min(args.examples, len(raw)) if graphs else 0):
        about = {"question": raw[i]["question"], "path": paths[i], **graphs[i]._asdict()}
        result["examples"].append(about | {"values": []})
    for n in range(0, most + 1, c):
        if sys.stderr.isatty():
            print(f"\r{n} of {most} thoughts", end="" if n + c <= most else "\n", file=sys.stderr, flush=True)
        row, thoughts = sweep(model, problems, graphs, cfg, tok, [n] * len(problems))
        result["sweep"].append(row | {"thoughts": n})
        values = values_after(model, problems, paths, graphs, n, cfg, tok) if graphs else {}
        if values:
            summary = summarise([graphs[i] for i in values], [*values.values()], n // c)
            result["values"].append({"thoughts": n, **summary})
        for i, value in values.items():
            if i < args.examples:
                result["examples"][i]["values"].append({"thoughts": n, "value": value})
    thoughts = torch.stack(thoughts)  # the last ones, (problems, N, C)
    trained = trained_with(problems, stage, most, cfg)
    if len({*trained}) > 1:  # a fixed number is too many for some, and too few for others
        result["trained"], _ = sweep(model, problems, graphs, cfg, tok, trained)
    if cfg.stop:
        result["auto"], _ = sweep(model, problems, graphs, cfg, tok, [most] * len(problems), may_stop=True)
    result["controls"] = control(model, problems, thoughts, trained, cfg, tok, args) if thoughts.size(1) else []
    result["thoughts"] = describe_thoughts(model.cpu(), thoughts, tok)
    result["probes"] = probe_all(thoughts, paths, args)
    return result


# ---------------------------------------------------------------- what one sees


def table(title, columns, rows):
    """Print rows under their columns; a float is a share."""

    def cell(value):
        return "" if value is None else f"{value:.1%}" if isinstance(value, float) else str(value)

    rows = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    print(f"\n{title}")
    for row in (columns, *rows):
        print("  ".join(text.rjust(width) for text, width in zip(row, widths)).rstrip())


def show_sweep(rows):
    names = [name for name in CATEGORIES if "categories" in rows[0]]
    shown = [[r["thoughts"], r["accuracy"], f"{r['tokens']:.1f}", *(r["categories"][c] for c in names)] for r in rows]
    table("what is written after so many forced thoughts", ["thoughts", "accuracy", "tokens", *names], shown)


def show_trained(row):
    thinks = f"{row['thoughts']:.2f} on average, {row['tokens']:.1f} tokens, {row['accuracy']:.1%} right"
    print(f"with as many thoughts as each has had in training: {thinks}")


def show_auto(row):
    thinks = f"{row['thoughts']:.2f} thoughts on average and {row['tokens']:.1f} tokens, {row['accuracy']:.1%} right"
    print(f"when it stops by itself: {thinks}")


def show_values(rows):
    columns = [
        "thoughts",
        "problems",
        "right step",
        "frontier",
        "its size",
        "elsewhere",
        "top 1",
        "top 1-2",
        "top 1-3",
    ]
    shown = []
    for r in rows:
        medians = [top[len(PERCENTILES) // 2] for top in r["top"]]
        means = r["right"], r["frontier"], f"{r['frontier_size']:.1f}", r["elsewhere"]
        shown.append([r["thoughts"], r["problems"], *means, *medians])
    table("value: probability to be the next step (means; the largest, two and three largest: medians)", columns, shown)
    what = {"height": "height (distance to a leaf), on the frontier", "position": "position (distance from the root)"}
    places = sorted({p["place"] for r in rows for p in r["by_place"]})
    shown = []
    for r in rows:
        for leads in (True, False):
            value = {p["place"]: p["value"] for p in r["by_place"] if p["to_target"] == leads}
            if value:
                shown.append([r["thoughts"], "yes" if leads else "no", *map(value.get, places)])
    table(f"mean value by {what[rows[0]['place']]}", ["thoughts", "leads to target", *map(str, places)], shown)


def show_controls(rows):
    table("answers with other thoughts", ["thoughts", "accuracy"], [[r["thoughts"], r["accuracy"]] for r in rows])


def show_thoughts(rows):
    names = "norm", "norm_std", "entropy", "entropy_std"
    shown = [[r["thought"], *(f"{r[name]:.2f}" for name in names)] for r in rows]
    table("thoughts", ["thought", "norm", "+-", "entropy (nats)", "+-"], shown)


def show_probes(rows):
    steps, thoughts = (sorted({r[key] for r in rows}) for key in ("step", "thought"))
    for key, title in (("accuracy", "linear probes, held out"), ("control", "the same, shuffled labels")):
        found = {(r["thought"], r["step"]): r[key] for r in rows}
        shown = [[f"thought {i}", *(found.get((i, k)) for k in steps)] for i in thoughts]
        table(title, ["", *(f"step {k}" for k in steps)], shown)


@torch.no_grad()
def main(argv):
    command = shlex.join(["python", "-m", "lab.analyze", *argv])
    args = parse(AnalyzeConfig, argv, __doc__, places=("ckpt", "data"))
    model, cfg, tok, about, raw, graphs, most = load(args)
    most -= most % max(1, cfg.c_thought)  # whole steps only
    out = args.out or os.path.join(os.path.dirname(about["checkpoint"]), "analysis.json")
    check_writable(out)
    with precision(cfg, next(model.parameters()).device):
        result = {"command": command} | about | analyze(model, raw, graphs, cfg, tok, most, args, about["stage"])
    with open(out, "w", encoding="utf-8") as f:
        json.dump(result, f)
    for key, show in (
        ("sweep", show_sweep),
        ("trained", show_trained),
        ("auto", show_auto),
        ("values", show_values),
        ("controls", show_controls),
        ("thoughts", show_thoughts),
        ("probes", show_probes),
    ):
        if result.get(key):
            show(result[key])
    print(f"\n{out} has it all; `python -m lab.plot {os.path.dirname(out) or '.'}` makes pictures of it")


if __name__ == "__main__":
    cli(main)
