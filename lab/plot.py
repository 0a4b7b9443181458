"""
Pictures of a run, as PNG and SVG beside it: from log.txt (train.py) and analysis.json (analyze.py). Needs matplotlib.

Nothing is computed here, titles say what was measured, and what would say nothing is left out (categories, if there is
but one; parallelism, if only one node can be next). All can be printed in black and white.

    python -m lab.plot out/hops
    python -m lab.plot out/hops --baselines=out/hops_cot,out/hops_no_cot --example=3

    training      validation accuracy over the stages, other runs' test accuracy dashed
    categories    what is written after K forced thoughts
    tree          the graph of one question, its nodes shaded by their value after no thought, one, two and three
    parallelism   how much value the best, the two best and the three best nodes of a question have together
    probes        which step can be read from which thought

    python -m lab.plot out/depth.csv     # of lab.depth: accuracy over layers, thoughts and pauses

The command that made a picture is in its metadata ("Description").
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.plot, from the project's folder")

import csv
import json
import math
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass

from config import UserError, cli, no_such, option, parse, read_text, replacing
from tasks.graphs import walk

HATCHES = {  # category: colour and hatch; the right ones are dark
    "correct path": ("#1b4f72", ""), "longer path": ("#5499c7", "///"), "correct label": ("#a9cce3", "..."),
    "wrong target": ("#fdebd0", "\\\\\\"), "hallucination": ("#f5b041", "xxx"), "incorrect label": ("#ffffff", "---"),
}  # fmt: skip
DASHES = [(0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 3))]


@dataclass
class PlotConfig:
    out_dir: str = option("", "folder of a training run, or a file in it; or a CSV file of lab.depth")
    baselines: str = option("", "folders of other runs, with commas between them, to compare training with")
    example: int = option(0, "number of the question whose graph is drawn", least=0)


def run_folder(path):
    """The folder of a run, given itself or one of its files, such as best.pt; UserError if it is not there."""
    if not os.path.exists(path):
        raise UserError(no_such("run", path))
    return os.path.dirname(path) or "." if os.path.isfile(path) else path.rstrip("/")


def read_log(path):
    """{stream: [(step, value), ...]} of a log.txt, without lines that are damaged, or only begun."""
    streams = {}
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            with suppress(ValueError):
                step, stream, value = line.split() if line.endswith("\n") else ()
                streams.setdefault(stream, []).append((int(step), float(value)))
    return streams


def final_accuracy(folder):
    """A run's test accuracy, or its latest validation accuracy if it has not come so far: (label, accuracy)."""
    log, name = read_log(os.path.join(folder, "log.txt")), os.path.basename(folder)
    if "test/accuracy" in log:
        return name, log["test/accuracy"][-1][1]
    if "valid/accuracy" not in log:
        raise UserError(f"{folder}: there is no accuracy in its log.txt yet")
    return f"{name} (not finished)", log["valid/accuracy"][-1][1]


def read_analysis(path):
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"command", "sweep", "values", "examples", "probes"} <= found.keys():
        raise UserError(f"{path}: not what analyze.py has written")
    return found


def new_figure(title, width=8, height=3, columns=1, rows=1, **kwargs):
    """(figure, its axes); 8 inches are the 800 pixels of a README. UserError without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError("plot.py needs matplotlib: pip install matplotlib") from None
    plt.switch_backend("agg")  # files only, no window
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                         "axes.titlesize": 9, "hatch.linewidth": 0.6, "svg.hashsalt": "nanoCoconut"})  # fmt: skip
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **kwargs)
    fig.suptitle(title, fontsize=10)
    return fig, axes


def finish(ax, **settings):
    """Shares on the y axis, and the legend to the right of the picture."""
    ax.yaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    ax.set(**settings)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, reverse=True, handlelength=3)


def draw_training(log, baselines):
    # at a switch there are two: of the old stage after its last step, and of the new one before its first
    points = sorted(log["valid/accuracy"] + log.get("before/accuracy", []), key=lambda point: point[0])
    steps, accuracy = zip(*points)
    begun = [(step, stage) for step, stage in log["stage"] if step < steps[-1]]  # of what has been evaluated
    begins = [step for step, _ in begun]
    fig, ((ax,),) = new_figure(training_title(log, begins[-1]))
    ax.plot(steps, accuracy, "k.-", markersize=5, label="validation")
    for dash, (name, value) in zip(DASHES * len(baselines), baselines.items()):
        ax.axhline(value, color="0.35", linestyle=dash, label=f"{name}: {value:.1%}")
    if "test/accuracy" in log:
        step, value = log["test/accuracy"][-1]
        ax.plot([step], [value], "k*", markersize=11, clip_on=False, label=f"test: {value:.1%}")
    for step in begins[1:]:
        ax.axvline(step, color="0.7", linewidth=0.8)
    top = ax.secondary_xaxis("top")  # the number of each stage, above its middle
    middles = [(a + b) / 2 for a, b in zip(begins, [*begins[1:], steps[-1]])]
    top.set_xticks(middles, [f"{stage:.0f}" for _, stage in begun], fontsize=9)
    top.tick_params(length=0)
    top.set_xlabel("stage")
    finish(ax, xlabel="training step", ylabel="accuracy on held-out questions", ylim=(0, 1.02), xlim=(0, max(steps)))
    return fig


def training_title(log, last_begins):
    """With how many thoughts in the first and in the last evaluation, and what came of it in the last stage."""
    best = max(value for step, value in log["valid/accuracy"] if step > last_begins)
    thoughts = [f"{round(value, 1):g}" for _, value in log.get("valid/thoughts", [])]
    if not thoughts or thoughts[-1] == "0":  # it writes, or pauses
        return f"{best:.1%} right in the last stage"
    first, last = thoughts[0], thoughts[-1]
    return f"{last if first == last else f'from {first} to {last}'} thoughts: {best:.1%} right in the last stage"


def says_something(sweep):
    """Whether what is written depends on the number of thoughts, or is not always of one kind."""
    kinds = {name for row in sweep for name, share in row.get("categories", {}).items() if share > 0.02}
    accuracies = [row["accuracy"] for row in sweep]
    return len(sweep) > 1 and (len(kinds) > 2 or max(accuracies) - min(accuracies) > 0.02)


def draw_categories(analysis):
    rows = analysis["sweep"]
    last = f"{rows[-1]['accuracy']:.0%} after {rows[-1]['thoughts']}"
    fig, ((ax,),) = new_figure(f"{rows[0]['accuracy']:.0%} right without a thought, {last}")
    x, bottom = [row["thoughts"] for row in rows], [0.0] * len(rows)
    for name, (color, hatch) in HATCHES.items() if "categories" in rows[0] else ():
        heights = [row["categories"][name] for row in rows]
        style = {"color": color, "hatch": hatch, "edgecolor": "black", "linewidth": 0.6}
        ax.bar(x, heights, 0.6 * (x[1] - x[0]), bottom, label=name, **style)
        bottom = [a + b for a, b in zip(bottom, heights)]
    ax.plot(x, [row["accuracy"] for row in rows], "ko-", markerfacecolor="white", label="accuracy", clip_on=False)
    finish(ax, xlabel="thoughts that it was made to think", ylabel="share of the questions", ylim=(0, 1), xticks=x)
    return fig


def layers(successors, root):
    """{node: (column, row)} of all nodes that the root leads to; column: fewest edges from it, row: 0 in the middle.

    Within a column, nodes are ordered like those that lead to them, so that fewer arrows cross, and every second one
    stands a little to the right, so that arrows between them can be seen.
    """
    columns, seen = [[root]], {root}
    while columns[-1]:
        found = dict.fromkeys(b for a in columns[-1] for b in successors[a] if b not in seen)
        seen |= found.keys()
        columns.append(list(found))
    place = {}
    for x, column in enumerate(columns[:-1]):
        before = {b: [place[a][1] for a in place if b in successors[a]] for b in column}
        column.sort(key=lambda b: sum(before[b]) / max(1, len(before[b])))
        place |= {b: (x + 0.2 * (i % 2), i - (len(column) - 1) / 2) for i, b in enumerate(column)}  # room for arrows
    return place


def draw_tree(analysis, number):
    """The search tree: panels after 0 to 3 steps' thoughts; the node with most value is the darkest of its panel."""
    if number >= len(analysis["examples"]):
        raise UserError(f"--example={number}: analysis.json has {len(analysis['examples'])} examples, from 0 on")
    example = analysis["examples"][number]
    shown, root, successors = example["values"][:4], example["root"], example["successors"]
    place = layers(successors, root)
    path = list(zip([root, *example["path"]], example["path"]))
    rows = max(abs(y) for _, y in place.values()) * 2 + 1
    title = "darker: more value; oval: root; thick frame: target; thick arrows: the path"
    if example["other"] in place:
        title += "; dashed frame: the wrong target"
    fig, axes = new_figure(title, 8, len(shown) * (0.55 * max(rows, 2) + 0.25) + 0.3, rows=len(shown))
    for ax, of, frontier in zip(axes[:, 0], shown, walk(successors, root, len(shown))):
        n, value = of["thoughts"], of["value"]
        ax.set_axis_off()
        ax.set(xlim=(-0.5, max(x for x, _ in place.values()) + 0.5), ylim=(rows / 2, -rows / 2))
        share = sum(value[name] for name in frontier)
        ax.set_title(f"thoughts: {n}; nodes that can be next: {len(frontier)}; their value: {share:.0%}", loc="left")
        top = max(*value.values(), 1e-9)  # a set of eight nodes is as dark as one of two
        boxes = {name: draw_node(ax, name, xy, value[name], top, example) for name, xy in place.items()}
        fig.canvas.draw()  # a box knows its size when it has been drawn
        for a in place:
            for b in successors[a]:
                draw_arrow(ax, place[a], place[b], boxes[a], boxes[b], (a, b) in path)
    return fig


def draw_node(ax, name, xy, value, top, example):
    """A box with the node's name and value; returns its outline."""
    shade = 1 - 0.85 * value / top
    frame = {"facecolor": (shade, shade, shade), "edgecolor": "black", "linewidth": 0.7, "boxstyle": "round,pad=0.3"}
    if name == example["root"]:
        frame["boxstyle"] = "ellipse,pad=0.25"
    elif name == example["target"]:
        frame["linewidth"] = 2.5
    elif name == example["other"]:
        frame["linestyle"] = "--"
    text = ax.text(*xy, f"{name}\n{value:.0%}", ha="center", va="center", fontsize=7.5, linespacing=1.1,
                   color="white" if shade < 0.5 else "black", bbox=frame, zorder=2)  # fmt: skip
    return text.get_bbox_patch()


def draw_arrow(ax, start, end, box_a, box_b, on_path):
    back = int(start[0]) - int(end[0])  # columns to the left; if it does not go right, it goes round those between
    bend = 0.0 if back < 0 else min(0.25, 1.4 / max(1, back))
    style = {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={bend}", "patchA": box_a, "patchB": box_b}
    style |= {"color": "black", "linewidth": 1.8} if on_path else {"color": "0.55", "linewidth": 0.7}
    ax.annotate("", xy=end, xytext=start, arrowprops={**style, "shrinkA": 1, "shrinkB": 1}, zorder=0)


def draw_parallelism(analysis):
    shown = [v for v in analysis["values"] if v["thoughts"]][:3] or analysis["values"][:1]
    first = shown[0]
    size, best = f"{first['frontier_size']:.1f} nodes can be next", f"the best has {first['best']:.0%} of the value"
    title = f"thoughts: {first['thoughts']}; {size}, {best} (median)"
    fig, axes = new_figure(title, columns=len(shown), height=2.8, sharey=True)
    for ax, row in zip(axes[0], shown):
        for of, line, label in zip(row["top"], ("-", (0, (5, 2)), (0, (1, 1))), ("best", "two best", "three best")):
            ax.plot(row["percentiles"], of, color="black", linestyle=line, label=label)
        ax.set_title(f"thoughts: {row['thoughts']}")
        ax.set(ylim=(0, 1.02), xlim=(0, 100), xlabel="percentile of the questions")
    axes[0, 0].set_ylabel("value, added up")
    finish(axes[0, -1])
    return fig


def draw_probes(analysis):
    probes = {(p["thought"], p["step"]): p for p in analysis["probes"]}
    thoughts, steps = (sorted({key[i] for key in probes}) for i in (0, 1))
    best = [max((p["accuracy"], -i) for (i, step), p in probes.items() if step == k) for k in steps]
    where, shares = [-i for _, i in best], sorted({f"{share:.0%}" for share, _ in (min(best), max(best))}, key=len)
    where = "thought k" if where == steps else f"thoughts {', '.join(map(str, where))}"
    title = f"a linear map reads step k best from {where}: {' to '.join(shares)} right"
    fig, axes = new_figure(title, 4 + 0.8 * len(steps), 1.3 + 0.45 * len(thoughts), columns=2, sharey=True)
    for ax, key, title in zip(axes[0], ("accuracy", "control"), ("held-out accuracy", "control: shuffled labels")):
        shares = [[probes[i, k][key] if (i, k) in probes else math.nan for k in steps] for i in thoughts]
        edges = [[k - 0.5 for k in (*of, of[-1] + 1)] for of in (steps, thoughts)]
        ax.pcolormesh(*edges, shares, cmap="gray_r", vmin=0, vmax=1 / 0.85, edgecolors="white")
        for (i, k), p in probes.items():
            ax.text(k, i, f"{p[key]:.0%}", ha="center", va="center", color="white" if p[key] > 0.5 else "black")
        ax.set(ylim=(thoughts[-1] + 0.5, thoughts[0] - 0.5), xticks=steps, yticks=thoughts, xlabel="step", title=title)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("thought")
    return fig


def draw_depth(runs):
    """Test accuracy over the number of layers, a panel for each number of arrows, a line for each method."""
    panels = sorted({int(run["arrows"]) for run in runs})
    fig, axes = new_figure("", 2.6 + 2.7 * len(panels), columns=len(panels), sharey=True)
    names, looks = {"coconut": "thoughts", "pause_as_thought": "pauses in their place"}, ("ko-", "ks--", "k^:", "kd-.")
    methods = list(dict.fromkeys(run["method"] for run in runs))
    for ax, arrows in zip(axes[0], panels):
        for method, look in zip(methods, looks * len(methods)):
            of = [run for run in runs if (run["method"], int(run["arrows"])) == (method, arrows)]
            points = sorted((int(run["layers"]), float(run["test"])) for run in of)
            if not points:
                continue
            means = {layers: [right for n, right in points if n == layers] for layers, _ in points}
            x, y = [*means], [sum(values) / len(values) for values in means.values()]
            ax.plot(x, y, look, markerfacecolor="white", label=names.get(method, method), clip_on=False)
            ax.plot(*zip(*points), look[:2], markersize=3, clip_on=False)  # each seed
        ax.set_title(f"{arrows} arrows")
        ax.set(xlabel="layers", xticks=sorted({int(run["layers"]) for run in runs if int(run["arrows"]) == arrows}))
        ax.axhline(0.1, color="0.6", linewidth=0.8)
    axes[0, 0].set_ylabel("test accuracy (line: chance)")
    finish(axes[0, -1], ylim=(0, 1.02))
    return fig


def save(fig, out_dir, name, command):
    for kind, more in (("png", {}), ("svg", {"Date": None})):  # the same picture twice is the same file
        path = os.path.join(out_dir, f"{name}.{kind}")
        with replacing(path, "wb") as file:
            fig.savefig(file, format=kind, dpi=200, metadata={"Description": command, **more})
    print(f"{os.path.join(out_dir, name)}.png, .svg")


def main(argv):
    command = shlex.join(["python", "-m", "lab.plot", *argv])
    args = parse(PlotConfig, argv, __doc__, places=("out_dir",))
    if not args.out_dir:
        raise UserError("no folder given: expected that of a training run")
    if args.out_dir.endswith(".csv"):
        with open(args.out_dir, encoding="utf-8", newline="") as file:
            runs = [run for run in csv.DictReader(file) if run.get("test")]
        if not runs or not {"arrows", "layers", "method"} <= runs[0].keys():
            raise UserError(f"{args.out_dir}: not what lab.depth has written, or no run has ended yet")
        name = os.path.basename(args.out_dir).removesuffix(".csv")
        return save(draw_depth(runs), os.path.dirname(args.out_dir) or ".", name, command)
    folder = run_folder(args.out_dir)
    log, analysis = (os.path.join(folder, name) for name in ("log.txt", "analysis.json"))
    if not (os.path.exists(log) or os.path.exists(analysis)):
        raise UserError(f"{folder}: expected log.txt (of train.py) or analysis.json there")
    streams = read_log(log) if os.path.exists(log) else {}
    if "valid/accuracy" in streams:
        baselines = dict(final_accuracy(run_folder(path)) for path in args.baselines.split(",") if path)
        save(draw_training(streams, baselines), folder, "training", command)
    if not os.path.exists(analysis):
        return print(f"for the other pictures: python -m lab.analyze {folder}")
    found = read_analysis(analysis)
    command = f"{found['command']}; {command}"
    if says_something(found["sweep"]):
        save(draw_categories(found), folder, "categories", command)
    if found["values"] and (found["examples"] or args.example):  # analyze.py keeps none with --examples=0
        save(draw_tree(found, args.example), folder, "tree", command)
    if any(row["frontier_size"] > 1 for row in found["values"]):
        save(draw_parallelism(found), folder, "parallelism", command)
    if found["probes"]:
        save(draw_probes(found), folder, "probes", command)


if __name__ == "__main__":
    cli(main)
