"""
Questions about graphs: search; as texts, with the grading of answers; as tokens, for training from scratch.

What is measured with it, and shown: analyze.py. How such questions are made: prepare_hops.py, prepare_prosqa.py.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from config import UserError


def children(edges):
    """{node: [where its edges lead]} of pairs of nodes."""
    found = {}
    for a, b in edges:
        found.setdefault(a, []).append(b)
    return found


def search(neighbours, starts):
    """Breadth-first: ({node: fewest edges from any of the starts}, {node: number of shortest paths})."""
    distance, paths = dict.fromkeys(starts, 0), dict.fromkeys(starts, 1)
    queue = list(distance)
    for a in queue:  # which grows meanwhile
        for b in neighbours.get(a, ()):
            if b not in distance:
                distance[b], paths[b] = distance[a] + 1, 0
                queue.append(b)
            paths[b] += paths[a] * (distance[b] == distance[a] + 1)
    return distance, paths


# ---------------------------------------------------------------- as texts

CATEGORIES = "correct path", "longer path", "hallucination", "wrong target", "correct label", "incorrect label"


class Graph(NamedTuple):
    """What a problem's question says. Nodes are called by their names."""

    successors: dict[str, list[str]]  # of every node
    root: str
    target: str
    other: str | None  # ProsQA offers a second, wrong target
    sentences: bool  # a step is "Every terpus is a brimpus.", not only "brimpus"

    def depths(self):
        return search(self.successors, [self.root])[0]

    def predecessors(self):
        return {b: [a for a in self.successors if b in self.successors[a]] for b in self.successors}

    def frontier(self, n):
        """The nodes where a walk of n steps from the root can end."""
        nodes = {self.root}
        for _ in range(n):
            nodes = {b for a in nodes for b in self.successors[a]}
        return nodes


def graph_of(problem):
    """The Graph of a problem as a dict, or None if it is about something else."""
    sentences = any(" " in step for step in problem["steps"])
    words = problem["question"].split()
    if {"edges", "root", "target", "idx_to_symbol"} <= problem.keys():
        names = [str(name) for name in problem["idx_to_symbol"]]
        edges = [(names[a], names[b]) for a, b in problem["edges"]]
        root, target = names[problem["root"]], names[problem["target"]]
        other = names[problem["neg_target"]] if "neg_target" in problem else None
    elif len(words) % 2 == 0 and words[-2:-1] == ["start"]:
        edges, root, target, other = list(zip(words[:-2:2], words[1:-2:2])), words[-1], problem["answer"], None
        names = sorted({name for edge in edges for name in edge})
    else:
        return None
    return Graph({a: [b for x, b in edges if x == a] for a in names}, root, target, other, sentences)


def read_graphs(problems, path):
    """The Graphs of all problems, or None if they are not about graphs."""
    graphs = [graph_of(p) for p in problems]
    if None in graphs:
        return None
    for i, (graph, p) in enumerate(zip(graphs, problems)):
        if graph.depths().get(graph.target) != len(p["steps"]):
            raise UserError(
                f"{path}: example {i}: its steps are not a shortest path from {graph.root} to {graph.target}"
            )
    return graphs


def node_of(text):
    """The node that a step or an answer goes to: its last word."""
    return text.split()[-1].rstrip(".") if text and text.split() else None


def read_steps(text, graph, cfg):
    """What the model wrote before its answer, as [(node it says to come from, or None, node it goes to), ...]."""
    mark = cfg.answer_format.partition("{}")[0].strip()
    written = text.rpartition(mark)[0] if mark in text else text
    if not graph.sentences:
        return [(None, word) for word in written.split()]
    said = [part.strip() for part in re.split(r"[.\n]", written) if part.strip()]
    matches = [re.fullmatch(r"(?:Every )?(\S+) is a (\S+)", part) for part in said]
    return [match.groups() if match else (part, part) for part, match in zip(said, matches)]  # no match: no such edge


def grade(graph, steps, answer, thoughts):
    """The category of an answer, after the paper's section 5; steps as from read_steps, answer a node or None.

    What the model writes is a path, or only an answer. As K thoughts have replaced the path's first steps, the part
    that is not written is taken to be the shortest way from the root to where the writing begins. How many steps that
    is does not matter, since nobody can see which thought has made which step. With no thought it must begin at the
    root.
        correct path     the edges exist, path and answer end in the target, and no path is shorter
        longer path      the same, but there is a shorter one
        hallucination    an edge does not exist, two steps do not join, or the beginning cannot be reached
        wrong target     the edges exist, but path or answer ends somewhere else, or there is no answer
        correct label    no step is written, and the answer is the target
        incorrect label  no step is written, and the answer is something else, or there is none
    Only correct path, longer path and correct label are right. (Accuracy compares the answer's text, as everywhere.)
    """
    if not steps:
        return "correct label" if answer == graph.target else "incorrect label"
    depth, (source, node) = graph.depths(), steps[0]
    begins = [a for a in (graph.successors if thoughts else [graph.root]) if source in (None, a)]
    unwritten = [depth[a] for a in begins if a in depth and node in graph.successors[a]]
    joined = [a in (None, came_to) and b in graph.successors.get(came_to, ())
              for (_, came_to), (a, b) in zip(steps, steps[1:])]  # fmt: skip
    if not unwritten or not all(joined):
        return "hallucination"
    if not steps[-1][1] == answer == graph.target:
        return "wrong target"
    return "correct path" if min(unwritten) + len(steps) == depth[graph.target] else "longer path"


# ---------------------------------------------------------------- as tokens
#
# For tasks such as ProsQA in symbols, with edges first and the root last: 3 7 7 2 12 3 ... to 5 or 8 from 0
# The setting `names` says which tokens are nodes.


@lru_cache
def is_name(names, tok):
    """For each token whether it is the name of a node, (V,) bool: the setting `names` matches it."""
    tokens = [tok.decode_single_token_bytes(t) for t in range(tok.n_vocab)]
    return np.array([bool(re.fullmatch(names.encode(), t)) for t in tokens])


def read_graph(question, cfg, tok):
    """(edges (E, 2), the rest) of a question in tokens; UserError if it does not begin with names, in pairs."""
    question = np.array(question)
    named = is_name(cfg.names, tok)[question]
    if not named[:2].all():
        text = tok.decode(question.tolist())
        raise UserError(
            f"names = {cfg.names!r} does not match the first tokens of {text[:40]!r} (spaces belong to them)"
        )
    n_edges = int(np.argmin(named)) // 2
    return question[: 2 * n_edges].reshape(-1, 2), question[2 * n_edges :]


def augment(problem, cfg, tok, rng):
    """The same problem with its nodes renamed and its edges in another order."""
    names = np.flatnonzero(is_name(cfg.names, tok))
    renamed = np.arange(tok.n_vocab)
    renamed[names] = rng.permutation(names)
    edges, asked = read_graph(problem.question, cfg, tok)
    question = renamed[np.concatenate((rng.permutation(edges).ravel(), asked))].tolist()
    steps = [renamed[s].tolist() for s in problem.steps]
    return problem._replace(question=question, steps=steps, answer=renamed[problem.answer].tolist())
