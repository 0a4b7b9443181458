"""
Graphs in questions, in tokens, for tasks such as ProsQA in symbols, with edges first and the root last:

    3 7 7 2 12 3 ... to 5 or 8 from 0

The setting `names` says which tokens are nodes.
"""

import re
from functools import lru_cache

import numpy as np

from config import UserError


def search(edges, root):
    """Breadth-first: ({node: distance from the root}, {node: number of shortest paths}) of all that can be reached."""
    children, distance, paths = {}, {root: 0}, {root: 1}
    for a, b in edges:
        children.setdefault(a, []).append(b)
    queue = [root]
    for a in queue:  # which grows meanwhile
        for b in children.get(a, ()):
            if b not in distance:
                distance[b], paths[b] = distance[a] + 1, 0
                queue.append(b)
            paths[b] += paths[a] * (distance[b] == distance[a] + 1)
    return distance, paths


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


def frontier(question, steps, cfg, tok):
    """The tokens of all nodes whose distance from the root is so many edges, in order."""
    edges, asked = read_graph(question, cfg, tok)
    root = int(asked[is_name(cfg.names, tok)[asked]][-1])
    distance, _ = search(edges.tolist(), root)
    return sorted(node for node in distance if distance[node] == steps)


def augment(problem, cfg, tok, rng):
    """The same problem with its nodes renamed and its edges in another order."""
    names = np.flatnonzero(is_name(cfg.names, tok))
    renamed = np.arange(tok.n_vocab)
    renamed[names] = rng.permutation(names)
    edges, asked = read_graph(problem.question, cfg, tok)
    question = renamed[np.concatenate((rng.permutation(edges).ravel(), asked))].tolist()
    steps = [renamed[s].tolist() for s in problem.steps]
    return problem._replace(question=question, steps=steps, answer=renamed[problem.answer].tolist())
