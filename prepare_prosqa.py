"""
Get ProsQA: "is this one a such or a so?", answered by a search in a graph of made-up concepts (paper, appendix).

    {"question": "Every shumpus is a rempus. Tom is a terpus. ... Is Tom a lempus or scrompus?",
     "steps": ["Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus."],
     "answer": "Tom is a lempus.",
     "idx_to_symbol": ["Bob", "Tom", "terpus", ...], "edges": [[1, 2], ...], "root": 1, "target": 16, "neg_target": 13}

Nodes are people and concepts, an edge is a sentence. The target is a leaf under the root, neg_target a leaf under
somebody else, and the steps are a shortest path from root to target. Nodes are numbered such that edges go upwards.

    python prepare_prosqa.py                              # the paper's files, 17,886 + 300 + 500 problems
    python prepare_prosqa.py --from=FOLDER                # the same, from prosqa_{train,valid,test}.json there
    python prepare_prosqa.py --generate=17886 --seed=1    # our own, like them, by the paper's algorithm (appendix)

With --symbols, --hops, --nodes or --chains, for models that start from scratch: tasks/prosqa.py.
"""

import heapq
import math
import os
import random
from dataclasses import dataclass
from itertools import chain

from config import UserError, cli, option, parse, upstairs
from data import SPLITS, keep_sound, load_json, write_files, write_splits
from download import find_or_download

OFFICIAL_URL = "https://raw.githubusercontent.com/facebookresearch/coconut/main/data"
POISSON = [1.5**k / math.factorial(k) for k in range(12)]  # weights of 0, 1, 2, ... parents
DRAWN = 28  # nodes drawn for a problem like the official ones; those that nothing hangs on are dropped, some 5 of 28
PEOPLE = "Ada Ben Clara Emil Finn Greta Hugo Ida Jonas Karl Lena Mia Nils Olga Paul Rosa Tom Uma Vera Will".split()
ONSETS = "b br d f fl g gr h j k kl l m n p r s st t v w y z zh".split()
CONCEPTS = [onset + middle + "pus" for onset in ONSETS for middle in ("em", "er", "im", "om", "or", "um")]
FURTHER = "--symbols", "--hops", "--nodes", "--chains", "--names"  # flags of tasks/prosqa.py


@dataclass
class ProsQAConfig:
    from_: str = option("", "folder with prosqa_{train,valid,test}.json, instead of downloading them")
    generate: int = option(0, "number of training problems to make; 0: the official files", least=0)
    valid: int = option(300, "number of validation problems to make", least=1)
    test: int = option(500, "number of test problems to make", least=1)
    out_dir: str = option("data/prosqa", "where the files go")
    seed: int = option(0, "seed of the random numbers", least=0)

    def __post_init__(self):
        if self.generate and self.from_:
            raise UserError("--from and --generate: expected one of them")

    @property
    def train(self):  # what write_splits() calls it
        return self.generate


# ---------------------------------------------------------------- graphs


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


def shortest_path(rng, edges, root, target):
    """The nodes of a shortest path, root and target included; each of several is equally likely."""
    distance, paths = search(children(edges), [root])
    path = [target]
    while path[0] != root:
        before = [a for a, b in edges if b == path[0] and distance.get(a) == distance[b] - 1]
        path.insert(0, rng.choices(before, [paths[a] for a in before])[0])
    return path


def make_edges(rng, n):
    """Random edges between n nodes, of which 0 and 1 have no parents; the paper's algorithm.

    A label tells from which of nodes 0 and 1 a node descends (1, 2, both: 3, neither: 0). Read literally, the
    pseudo-code gives other graphs than the official files. Two readings reproduce them: the second threshold is
    compared with a new random number, so that side 2 gets more nodes than side 1 and few get both labels; and nodes
    labelled 0 are nobody's parents but in the last case.
    """
    edges, label, depth = [], [1, 2], [0, 0]
    for node in range(2, n):
        side = 1 if rng.random() <= 0.35 else 2 if rng.random() <= 0.7 else None
        candidates = [v for v in range(node) if side in (label[v], None)]
        k = rng.choices(range(len(POISSON)), POISSON)[0]
        # The k with the largest u ** (1 / weight), u uniform: k draws without replacement, by weight depth * 1.5 + 1.
        parents = heapq.nlargest(k, candidates, key=lambda v: rng.random() ** (1 / (1.5 * depth[v] + 1)))
        edges += [(v, node) for v in parents]
        label.append(0)
        for v in parents:
            label[node] |= label[v]
        depth.append(1 + min(depth[v] for v in parents) if parents else 0)
    return edges


def make_dag(rng, n):
    """The graph fields of a problem with up to n nodes; None if these edges hold no question."""
    edges = make_edges(rng, n)
    kept = sorted({v for edge in edges for v in edge} | {0, 1})  # nodes without any edge are dropped
    number = {v: i for i, v in enumerate(kept)}
    edges = [[number[a], number[b]] for a, b in edges]
    leaves = sorted({b for _, b in edges} - {a for a, _ in edges})
    below = [search(children(edges), [root])[0] for root in (0, 1)]
    own = [[v for v in leaves if v in below[r] and v not in below[1 - r]] for r in (0, 1)]  # leaves under r only
    if not all(own):
        return None
    # As in the official files: no leaf that is under one of the two only lies deeper than the target.
    deepest = max(below[r][v] for r in (0, 1) for v in own[r])
    root = rng.choice([r for r in (0, 1) if any(below[r][v] == deepest for v in own[r])])
    target = rng.choice([v for v in own[root] if below[root][v] == deepest])
    return {"edges": edges, "root": root, "target": target, "neg_target": rng.choice(own[1 - root])}


def n_nodes(edges):
    """The number of nodes; each has an edge."""
    return 1 + max(map(max, edges))


def make_graph(rng):
    """The graph fields of a problem like the official ones, with 3 to 6 steps."""
    while True:
        graph = make_dag(rng, DRAWN)
        if graph and 3 <= search(children(graph["edges"]), [graph["root"]])[0][graph["target"]] <= 6:
            return graph


# ---------------------------------------------------------------- problems


def in_words(rng, graph):
    """The graph as a problem in the official wording and format."""
    edges, root, target = graph["edges"], graph["root"], graph["target"]
    n, concepts = n_nodes(edges), {b for _, b in edges}  # people have no parents
    names = {True: rng.sample(CONCEPTS, len(concepts)), False: rng.sample(PEOPLE, n - len(concepts))}
    symbols = [names[v in concepts].pop() for v in range(n)]

    def sentence(edge):
        every = "Every " if edge[0] in concepts else ""
        return f"{every}{symbols[edge[0]]} is a {symbols[edge[1]]}."

    path = shortest_path(rng, edges, root, target)
    first, second = rng.sample([symbols[target], symbols[graph["neg_target"]]], 2)
    sentences = " ".join(map(sentence, rng.sample(edges, len(edges))))
    return {
        "question": f"{sentences} Is {symbols[root]} a {first} or {second}?",
        "answer": sentence((root, target)),
        "steps": [sentence(edge) for edge in zip(path, path[1:])],
        "idx_to_symbol": symbols,
        **graph,
    }


def identity(problem):
    """What two problems have in common if they differ in the order of sentences and candidates alone."""
    symbols, edges = problem["idx_to_symbol"], problem["edges"]
    candidates = frozenset(symbols[problem[key]] for key in ("target", "neg_target"))
    return frozenset((symbols[a], symbols[b]) for a, b in edges), symbols[problem["root"]], candidates


# ---------------------------------------------------------------- files


def check_graph(problem):
    """The problem; ValueError unless its graph fields say that the target can be reached from the root."""
    try:
        edges, root = problem["edges"], problem["root"]
        reached = search(children(edges), [root])[0]
        for v in {root, problem["target"], problem["neg_target"], *chain.from_iterable(edges)}:
            problem["idx_to_symbol"][v]
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise ValueError(f"its idx_to_symbol, edges, root, target and neg_target are no graph: {e!r}") from None
    if problem["target"] not in reached:
        raise ValueError("its 'target' cannot be reached from its 'root'")
    return problem


def read_official(folder):
    """{split: problems}, of the files in a folder, or else downloaded; without those whose graph is none."""
    splits = {}
    for split in SPLITS:
        path = find_or_download(folder, f"prosqa_{split}.json", f"{OFFICIAL_URL}/prosqa_{split}.json")
        if os.path.exists(path):
            splits[split] = keep_sound(load_json(path), check_graph, path)
        else:
            print(f"WARNING: {path}: no such file; {split}.json is left out")
    if not splits:
        raise UserError(f"{folder}: none of prosqa_train.json, prosqa_valid.json and prosqa_test.json is there")
    return splits


def main(argv):
    if any(arg.partition("=")[0] in FURTHER for arg in argv):
        return upstairs("tasks", "prosqa").main(argv)
    cfg = parse(ProsQAConfig, argv, __doc__)
    rng = random.Random(cfg.seed)

    def draw():
        problem = in_words(rng, make_graph(rng))
        return problem, identity(problem)

    if cfg.generate:
        write_splits(cfg, draw)
    else:
        write_files(cfg.out_dir, read_official(cfg.from_))


if __name__ == "__main__":
    cli(main)
