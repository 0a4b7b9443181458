"""
A page to look into a model's thoughts, question by question: one HTML file, to be opened in a browser, or sent.

    python -m lab.explore out/hops                            # 30 questions of its test file; out/hops/explore.html
    python -m lab.explore out/hops data/hops/valid.json --count=50

For each question and each number K of thoughts: what the model writes if it has to stop there; of the last thought
norm, cosine and likeliest tokens; where its position looks (attention); in a graph the nodes' values; and what the
model answers with other thoughts in place of its own. What is measured over all questions is analyze.py's business,
from which all of this comes. The page is explore.html, into which the numbers are put as JSON.
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.explore, from the project's folder")

import json
import math
import os
import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from config import UserError, cli, option, parse, read_text, replacing
from curriculum import Row, kind_of, objective_class
from data import collate
from evaluate import precision
from lab.plot import layers
from lab.questions import LookConfig, load, replacements, stacked, values_after
from sample import look_into
from tasks.graphs import node_of
from tokenizer import BOT, PAUSE

LARGEST = 1_000_000  # bytes of a page: what can be sent by mail, and opens on a phone at once


@dataclass
class ExploreConfig(LookConfig):
    count: int = option(30, "how many of the file's questions, the first ones", least=2)
    top: int = option(6, "tokens to show for each thought", least=1)


# ---------------------------------------------------------------- attention


def attention(q, past):
    """softmax(q k^T / sqrt(hs)), which no layer keeps: (B, nh, T, K) for q (B, nh, T, hs) and the passes so far.

    Rows without padding only. Of Llama's keys there are fewer heads than of its queries.
    """
    k = torch.cat([k for k, _ in past], 2)  # (B, ng, K, hs)
    scores = q @ k.repeat_interleave(q.size(1) // k.size(1), 1).mT / math.sqrt(q.size(-1))
    T, K = scores.shape[2:]
    causal = torch.ones(T, K, dtype=torch.bool, device=q.device).tril(K - T)
    return scores.masked_fill(~causal, -math.inf).softmax(-1)


@contextmanager
def listening(model):
    """Meanwhile the yielded list gets the attention of each pass, [of each layer], [of each pass]."""
    attending = [module for module in model.modules() if hasattr(module, "attend")]
    heard = [[] for _ in attending]

    def tell(attend, passes):
        def attend_and_tell(q, past, mask):
            passes.append(attention(q, past).float().cpu())
            return attend(q, past, mask)

        return attend_and_tell

    for module, passes in zip(attending, heard):
        module.attend = tell(module.attend, passes)
    try:
        yield heard
    finally:
        for module in attending:
            del module.attend  # the class's own is there again


def looks(asked, problem):
    """Where the last position before the thoughts, and that of each thought, looks: [(layers, heads, K), ...].

    K are the positions up to itself: those of the question and its marker, then the thoughts (or <pause> tokens).
    """
    model, begin = asked.model, len(asked.prompt(problem, 0).prefix)
    prefix, n, eot = asked.prompt(problem, asked.most)
    batch = collate([Row(prefix, n, eot, [])], next(model.parameters()).device)
    segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
    thoughts = model.think(*segments).fed
    with listening(model) as heard:  # a few passes, however often it has to read until it has these thoughts
        model.think(*segments, given=thoughts)
    rows = [[row for weights in passes for row in weights[0].unbind(1)] for passes in heard]  # (nh, K) per position
    return [torch.stack([layer[k - 1][:, :k] for layer in rows]) for k in range(begin, begin + asked.most + 1)]


DETAILS = "heads", "layers", "mean"  # the first that is not too large


def views(weights, detail):
    """Of attention (layers, heads, K): {name: per mille of each position}, always beginning with the mean."""
    L, H, _ = weights.shape
    found = {"all heads, their mean": weights.mean((0, 1))}
    if detail == "layers":
        found |= {f"layer {i + 1}, mean of its heads": weights[i].mean(0) for i in range(L)}
    if detail == "heads":
        found |= {f"layer {i + 1}, head {j + 1}": weights[i, j] for i in range(L) for j in range(H)}
    return {name: (1000 * share).round().int().tolist() for name, share in found.items()}


# ---------------------------------------------------------------- the page


def picture(graph, path):
    """A graph as it is drawn: the places of all nodes that the root leads to, from top to bottom or in a circle."""
    reached, successors = graph.depths(), graph.successors
    circle = all(len(successors[a]) == 1 for a in reached)  # the quick start's: it comes back to where it began
    if circle:
        radius = 0.17 * len(reached)  # neighbours are about 1 apart
        angles = {node: 2 * math.pi * depth / len(reached) for node, depth in reached.items()}
        place = {node: (radius * math.sin(a), -radius * math.cos(a)) for node, a in angles.items()}
    else:
        place = {node: (y, x) for node, (x, y) in layers(successors, graph.root).items()}
    return {
        "place": {node: [round(x, 2), round(y, 2)] for node, (x, y) in place.items()},
        "edges": [[a, b] for a in place for b in successors[a]],
        "path": [graph.root, *path], "target": graph.target, "other": graph.other,
        "hidden": len(successors) - len(place), "circle": circle,
    }  # fmt: skip


def token_text(tok, token):
    text = tok.decode([token])
    return {BOT: "<bot>", PAUSE: "<pause>"}.get(text, text)


def explore(asked, args):
    """Everything that the page shows, but for attention: a list of questions."""
    cfg, tok, graphs = asked.task.cfg, asked.task.tok, asked.graphs
    questions = []
    for i, (p, problem) in enumerate(zip(asked.raw, asked.problems)):
        questions.append({
            "tokens": [token_text(tok, t) for t in asked.prompt(problem, 0).prefix],
            "steps": p["steps"], "answer": p["answer"], "trained": asked.trained[i],
            "graph": picture(graphs[i], asked.paths[i]) if graphs else None, "after": [], "instead": [],
        })  # fmt: skip
    asked.model.may_stop = False
    for n in range(asked.most + 1):
        answers, values = asked.answer([n] * len(questions)), values_after(asked, n)
        for i, answer in enumerate(answers):
            seen = {"writes": answer.text.strip(), "tokens": answer.n_tokens, "right": answer.right}
            if graphs:
                named = node_of(asked.task.read_answer(answer.text))
                seen |= {"category": answer.category, "answer": named}
            if i in values:
                value = {node: round(v, 3) for node, v in values[i].items()}
                seen |= {"value": value, "frontier": sorted(graphs[i].frontier(n // max(1, cfg.c_thought) + 1))}
            questions[i]["after"].append(seen)
    for question, answer in zip(questions, answers):
        for seen, thought in zip(question["after"][1:], () if asked.pauses else looked_into(answer.held, asked, args)):
            seen["thought"] = thought
    for name, given in replacements(stacked(answers), asked.trained, args.seed).items():
        for question, answer in zip(questions, asked.answer(asked.trained, given)):
            question["instead"].append({"thoughts": name, "writes": answer.text.strip(), "right": answer.right})
    return questions


def looked_into(thoughts, asked, args):
    """What sample.py shows of a question's thoughts, with few digits."""
    device = next(asked.model.parameters()).device
    for seen in look_into(thoughts.to(device), asked.model, asked.task.tok, args.top):
        cosine = None if seen["cosine"] is None else round(seen["cosine"], 2)
        tokens = [[text, round(p, 4)] for text, p in seen["tokens"]]
        yield {"norm": round(seen["norm"], 2), "cosine": cosine, "tokens": tokens}


def write(page):
    """The page as HTML: the template with the numbers in it."""
    text = json.dumps(page, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no tag can end it
    return read_text(os.path.join(os.path.dirname(__file__), "explore.html")).replace(">null<", f">{text}<", 1)


def write_with_attention(page, found):
    """The same, and in it as much of the attention found, [of each question][of each K], as fits."""
    html = write(page)
    if len(html.encode()) > LARGEST:
        raise UserError(f"a page of {len(html.encode()) / 1e6:.1f} MB, expected at most 1: lower --count")
    for detail in DETAILS:
        for question, weights in zip(page["questions"], found):
            for seen, w in zip(question["after"], weights):
                seen["looks"] = [*views(w, detail).values()]
        page["views"] = [*views(found[0][0], detail)]
        full = write(page)
        if len(full.encode()) <= LARGEST:
            return full
    return html


@torch.no_grad()
def main(argv):
    command, began = shlex.join(["python", "-m", "lab.explore", *argv]), time.monotonic()
    args = parse(ExploreConfig, argv, __doc__, places=("ckpt", "data"))
    asked, about = load(args)
    cfg, out = asked.task.cfg, args.out or os.path.join(os.path.dirname(about["checkpoint"]), "explore.html")
    with replacing(out) as file, precision(cfg, next(asked.model.parameters()).device):
        questions = explore(asked, args)
        found = [looks(asked, problem) for problem in asked.problems]
        losses = [name for name, weight in objective_class(cfg).all_weights().items() if name != "ce" and weight]
        page = about | {
            "command": command, "feedback": cfg.feedback, "width": asked.model.config.n_embd, "most": asked.most,
            "thing": kind_of(cfg.method).instead, "named": asked.told, "losses": losses, "views": [],
            "questions": questions,
        }  # fmt: skip
        html = write_with_attention(page, found)
        file.write(html)
    print(f"{out}: {len(html.encode()) / 1000:,.0f} kB, {time.monotonic() - began:.1f} s; open it in a browser")


if __name__ == "__main__":
    cli(main)
