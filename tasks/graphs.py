"""
Questions about graphs: as texts, with the grading of paths; as tokens, drawn anew for training from scratch.

With --task=graphs each training problem's nodes get new names and its edges a new order, each time that it is read, and
--questions=8 asks further questions about the same graph, whose edges are read once for all of them. What is measured
with it, and shown: lab/analyze.py. How such questions are made: prepare_hops.py, prepare_prosqa.py, prosqa.py.
"""

import re
from functools import lru_cache
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
import torch

import curriculum
from config import UserError, option
from curriculum import Row
from data import size
from prepare_prosqa import children, search


def walk(neighbours, start, n):
    """[the nodes where a walk of 1 step can end, ..., of n steps], each sorted."""
    found, nodes = [], [start]
    for _ in range(n):
        nodes = sorted({b for a in nodes for b in neighbours.get(a, ())})
        found.append(nodes)
    return found


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
        return set(walk(self.successors, self.root, n)[-1]) if n else {self.root}


def check_fields(problem, nodes):
    """ValueError with the key of the first graph field that is missing or not what it should be.

    problem: as a dict, with names in idx_to_symbol, and edges and `nodes` as indices of these (ProsQA's format).
    """
    symbols = problem.get("idx_to_symbol")
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise ValueError("expected 'idx_to_symbol' to be a list of names")

    def is_node(v):
        return type(v) is int and 0 <= v < len(symbols)

    edges = problem.get("edges")
    if not isinstance(edges, list):
        raise ValueError("expected 'edges' to be a list of pairs of nodes")
    for edge in edges:
        if not (isinstance(edge, list) and len(edge) == 2 and all(map(is_node, edge))):
            raise ValueError(f"expected 'edges' to be pairs of nodes, 0 to {len(symbols) - 1}, found {edge!r:.40}")
    for key in nodes:
        if not is_node(problem.get(key)):
            raise ValueError(f"expected {key!r} to be a node, 0 to {len(symbols) - 1}, found {problem.get(key)!r:.40}")
    if problem["target"] not in search(children(edges), [problem["root"]])[0]:
        raise ValueError("its 'target' cannot be reached from its 'root'")


def graph_of(problem):
    """The Graph of a problem as a dict, or None if it is about something else."""
    sentences = any(" " in step for step in problem["steps"])
    words = problem["question"].split()
    if {"edges", "root", "target", "idx_to_symbol"} <= problem.keys():
        check_fields(problem, [key for key in ("root", "target", "neg_target") if key in problem])
        names = [str(name) for name in problem["idx_to_symbol"]]
        edges = [(names[a], names[b]) for a, b in problem["edges"]]
        root, target = names[problem["root"]], names[problem["target"]]
        other = names[problem["neg_target"]] if "neg_target" in problem else None
    elif len(words) % 2 == 0 and words[-2:-1] == ["start"]:
        words = words[:-4] + words[-2:] if words[-4:-3] == ["go"] else words
        edges, root, target, other = list(zip(words[:-2:2], words[1:-2:2])), words[-1], problem["answer"], None
        names = sorted({name for edge in edges for name in edge})
        if not {root, target, *map(node_of, problem["steps"])} <= {*names}:
            return None  # about something else, which ends in the same word
    else:
        return None
    return Graph({a: [b for x, b in edges if x == a] for a in names}, root, target, other, sentences)


def read_graphs(problems, path):
    """The Graphs of all problems, or None if they are not about graphs."""
    graphs = []
    for i, problem in enumerate(problems):
        try:
            graphs.append(graph_of(problem))
        except ValueError as e:
            raise UserError(f"{path}: example {i}: {e}") from None
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
    written = text.rpartition(cfg.mark)[0] if cfg.mark in text else text
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
# For tasks such as ProsQA in symbols, with edges first and the root last: 3 7 | 7 2 | 12 3 | ... to 5 or 8 from 0
# The setting `names` says which tokens are nodes. The separator is whatever follows each edge; there may be none.


@lru_cache
def is_name(names, tok):
    """For each token whether it is the name of a node, (V,) bool: the setting `names` matches it."""
    tokens = [tok.decode_single_token_bytes(t) for t in range(tok.n_vocab)]
    return np.array([bool(re.fullmatch(names.encode(), t)) for t in tokens])


def read_graph(question, cfg, tok):
    """(edges (E, 2), separator [token] or [], the rest (R,)) of a question in tokens.

    UserError if it does not begin with names, in pairs, with the same token or none after each.
    """
    question = np.array(question)
    named = is_name(cfg.names, tok)[question]
    if not named[:2].all():
        text = tok.decode(question.tolist())
        raise UserError(f"it does not match the first tokens of {text[:40]!r} (spaces belong to them)")
    width = 3 if not named[2] and named[3:5].all() else 2
    of_edges = [named[i::width][: len(named[width - 1 :: width])] for i in (0, 1)]
    n_edges = int(np.argmin([*(of_edges[0] & of_edges[1]), False]))
    edges = question[: width * n_edges].reshape(-1, width)
    after = [tok.decode([t]) for t in dict.fromkeys(edges[:, 2:].ravel().tolist())]
    if len(after) > 1:
        raise UserError(f"expected the same after each edge, found {after[0]!r} and {after[1]!r}")
    return edges[:, :2], edges[:1, 2:].ravel().tolist(), question[width * n_edges :]


def root_of(asked, cfg, tok):
    """The root is the last name in what follows the edges; UserError if there is no name."""
    named = asked[is_name(cfg.names, tok)[asked]]
    if not len(named):
        raise UserError(f"expected the root at the end, found {tok.decode(asked.tolist())!r:.60}")
    return int(named[-1])


def check_graph(problem, cfg, tok):
    """UserError if a problem's question is no graph, or if its nodes could not be renamed wherever they stand."""
    edges, _, asked = read_graph(problem.question, cfg, tok)
    nodes = {tok.decode([t]).strip(): t for t in edges.ravel().tolist()}
    for token in chain(problem.question, *problem.steps, problem.answer):
        node = nodes.get(tok.decode([token]).strip(), token)
        if node != token:
            two = f"{tok.decode([node])!r} and {tok.decode([token])!r} are two tokens for one node"
            raise UserError(f"{two}: expected {{}} after the same in all formats, such as ' {{}}'")
    root = root_of(asked, cfg, tok)
    if root not in edges[:, 0]:
        raise UserError(f"expected the root as the last name, but no edge leaves {tok.decode([root])!r}")


def walks(question, n, cfg, tok):
    """[the nodes (tokens) where a walk of 1 step from the root can end, ..., of n steps]."""
    edges, _, asked = read_graph(question, cfg, tok)
    return walk(children(edges.tolist()), root_of(asked, cfg, tok), n)


def augment(problem, cfg, tok, rng):
    """The same problem with its nodes renamed and its edges in another order."""
    names = np.flatnonzero(is_name(cfg.names, tok))
    renamed = np.arange(tok.n_vocab)
    renamed[names] = rng.permutation(names)
    edges, separator, asked = read_graph(problem.question, cfg, tok)
    edges = rng.permutation(renamed[edges])
    question = write_edges(edges, separator) + renamed[asked].tolist()
    steps = [renamed[s].tolist() for s in problem.steps]
    return problem._replace(question=question, steps=steps, answer=renamed[problem.answer].tolist())


def write_edges(edges, separator):
    """The beginning of a question, in tokens."""
    return np.concatenate((edges, np.tile(separator, (len(edges), 1)).astype(int)), 1).ravel().tolist()


def more_questions(problem, n, cfg, tok, rng):
    """n other questions about the same graph: which of two nodes is below the root, and which is not?

    Roots with much below them come more often: there is more to look up. Steps are written as the problem's first is.
    UserError if the question does not name two candidates and a root, if a step has other than one name, or if there is
    no such question.
    """
    edges, _, asked = read_graph(problem.question, cfg, tok)
    places = np.flatnonzero(is_name(cfg.names, tok)[asked])
    target = [i for i, token in enumerate(problem.answer) if token in asked[places[:2]]]
    if len(places) != 3 or len(target) != 1:
        raise UserError(f"questions > 1: expected two candidates, and a root, in {tok.decode(asked.tolist())!r:.60}")
    step = problem.steps[0] if problem.steps else problem.question[:1]
    at = np.flatnonzero(is_name(cfg.names, tok)[step])
    if len(at) != 1:
        raise UserError(f"questions > 1: expected steps with one name each, found {tok.decode(step)!r:.60}")
    neighbours, nodes, made = children(edges.tolist()), np.unique(edges).tolist(), []
    distances = {node: search(neighbours, [node])[0] for node in neighbours}
    chance = np.array([len(distance) - 1 if len(distance) < len(nodes) else 0 for distance in distances.values()])
    if not chance.any():
        raise UserError(f"questions > 1: all nodes are below each root in {tok.decode(problem.question)!r:.60}")
    for root in rng.choice(list(neighbours), size=n, p=chance / chance.sum()).tolist():
        distance = distances[root]
        levels = [level for level in walk(neighbours, root, len(nodes)) if level]
        below, beside = [v for v in distance if v != root], [v for v in nodes if v not in distance]
        end = int(rng.choice(levels[-1] if rng.random() < 0.8 else below))  # far away: near ones need no search
        other = int(rng.choice(beside))
        asked = asked.copy()
        asked[places] = [*rng.permutation([end, other]), root]
        path = [end]
        while path[0] != root:
            before = (a for a in neighbours if a in distance and path[0] in neighbours[a])
            path.insert(0, min(before, key=distance.get))
        answer = [*problem.answer[: target[0]], end, *problem.answer[target[0] + 1 :]]
        question = problem.question[: len(problem.question) - len(asked)] + asked.tolist()
        steps = [[*step[: at[0]], node, *step[at[0] + 1 :]] for node in path[1:]]
        made.append(problem._replace(question=question, steps=steps, answer=answer))
    return made


# ---------------------------------------------------------------- the task


def without(row, n):
    """A Row that begins n tokens later, and so do the Rows in it."""
    extra = {name: without(value, n) if isinstance(value, Row) else value for name, value in row.extra.items()}
    return row._replace(prefix=row.prefix[n:], extra=extra)


class Task(curriculum.Task):
    settings = {
        "names": (str, option("", "what is a node, a regex: nodes are renamed, and edges shuffled, each time")),
        "questions": (int, option(1, "questions about each graph, read once for all", least=1, most=1000)),
    }  # fmt: skip

    def __init__(self, cfg, tok):
        super().__init__(cfg, tok)
        self.numbers = count()  # of the graphs, as they are drawn
        try:
            re.compile(cfg.names)
        except re.error as e:
            raise UserError(f"names = {cfg.names!r} is not a regular expression: {e}") from None
        if not cfg.names:
            raise UserError(r"--task=graphs needs --names=REGEX, which says what is a node, such as ' \d+'")

    def check(self, problems, path):
        """UserError unless the setting `names` fits the problems, as far as the first 1,000 show."""
        for i, problem in enumerate(islice(problems, 1000)):
            try:
                check_graph(problem, self.cfg, self.tok)
            except UserError as e:
                raise UserError(f"{path}: example {i}: names = {self.cfg.names!r}: {e}") from None

    def rows(self, problem, stage, rng):
        """The problem, renamed, and further questions; what all begin with, the edges, goes to extra["shared"]."""
        cfg, tok = self.cfg, self.tok
        asked, shared = [augment(problem, cfg, tok, rng)], []
        if cfg.questions > 1:
            shared = asked[0].question[: -len(read_graph(asked[0].question, cfg, tok)[2])]
            asked += more_questions(asked[0], cfg.questions - 1, cfg, tok, rng)
        rows = [curriculum.row_for(each, stage, cfg, tok, rng) for each in asked]
        longest = max(max(sum(size(row)[i : i + 4]) for i in range(0, len(size(row)), 4)) for row in rows)
        if longest > cfg.block_size:  # data.load has seen the questions in the file, but not what is drawn
            text = tok.decode(problem.question)[:60]
            raise UserError(f"a question drawn about {text!r} takes {longest} positions: raise block_size")
        if not shared:
            return rows
        more = {"shared": shared, "graph": next(self.numbers)}
        rows = [without(row, len(shared)) for row in rows]
        return [row._replace(extra=row.extra | more) for row in rows]

    def read_shared(self, model, batch):
        """The past of each graph's edges, for all of its questions that follow one another in the batch."""
        shared = batch.extra.get("shared")  # (B, P'), -1 where there is none
        if shared is None:
            return None
        graph = batch.extra["graph"]  # (B,), on the CPU
        new = torch.cat((torch.tensor([True]), graph[1:] != graph[:-1]))  # (B,) whether a graph begins here
        first, number = new.nonzero()[:, 0], new.cumsum(0) - 1  # (G,) where each begins; (B,) which one a row is about
        graphs = shared[first.to(shared.device, non_blocking=True)]  # (G, P')
        _, past = model.read(model.embed(graphs.clamp(min=0)), graphs >= 0)
        return past.select(number.to(shared.device, non_blocking=True))
