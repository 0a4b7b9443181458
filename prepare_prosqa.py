"""
Get or make ProsQA: from which of two concepts does a person descend? To know, one has to search a graph.

    {"question": "Tom is a terpus. Every terpus is a brimpus. Bob is a rempus. ... Is Tom a lempus or scrompus?",
     "steps": ["Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus."],
     "answer": "Tom is a lempus.",
     "idx_to_symbol": ["Bob", "Tom", "terpus", ...], "edges": [[1, 2], ...], "root": 1, "target": 16, "neg_target": 13}

Nodes are people and concepts, an edge is a sentence. The target is a leaf under the root, neg_target a leaf under
somebody else, and the steps are a shortest path from root to target. Nodes are numbered such that edges go upwards.

    python prepare_prosqa.py                              # the paper's files, 17,886 + 300 + 500 problems
    python prepare_prosqa.py --from=FOLDER                # the same, from prosqa_{train,valid,test}.json there
    python prepare_prosqa.py --generate=17886 --seed=1    # our own, like them, by the paper's algorithm (appendix)
    python prepare_prosqa.py --generate=17886 --hops=2,3 --nodes=8,11      # easier; or harder, as you like
    python prepare_prosqa.py --generate=17886 --chains    # two chains side by side, nothing to choose: the first rung

--symbols writes whatever it is for models that start from scratch: a node is one token, an edge two and a separator.

    {"question": "3 7 | 7 2 | 12 3 | ... to 5 or 8 from 0", "steps": ["7", "2", "5"], "answer": "5", ...}
"""

import heapq
import math
import os
import random
from dataclasses import dataclass

from config import UserError, cli, option, parse
from data import SPLITS, load_json, write_files, write_splits
from download import download
from tasks.graphs import check_fields, children, search

OFFICIAL_URL = "https://raw.githubusercontent.com/facebookresearch/coconut/main/data"
# Measured by statistics() on the official prosqa_valid.json, 300 problems; 3, ..., 6: the share with so many steps.
OFFICIAL = {"nodes": 22.82, "edges": 36.26, "steps": 3.753, 3: 0.413, 4: 0.443, 5: 0.120, 6: 0.023, "paths": 1.613}
POISSON = [1.5**k / math.factorial(k) for k in range(12)]  # weights of 0, 1, 2, ... parents
DRAWN = 28  # nodes drawn for a problem like the official ones; those that nothing hangs on are dropped, some 5 of 28
POOL = 40  # --symbols: names are 0 to 39, if --names does not say otherwise
TRIES = 10_000  # graphs drawn before we give up on --hops and --nodes
PEOPLE = "Ada Ben Clara Emil Finn Greta Hugo Ida Jonas Karl Lena Mia Nils Olga Paul Rosa Tom Uma Vera Will".split()
ONSETS = "b br d f fl g gr h j k kl l m n p r s st t v w y z zh".split()
CONCEPTS = [onset + middle + "pus" for onset in ONSETS for middle in ("em", "er", "im", "om", "or", "um")]


@dataclass
class ProsQAConfig:
    from_: str = option("", "folder with prosqa_{train,valid,test}.json, instead of downloading them")
    generate: int = option(0, "number of training problems to make; 0: the official files", least=0)
    valid: int = option(300, "number of validation problems to make", least=1)
    test: int = option(500, "number of test problems to make", least=1)
    hops: tuple[int, ...] = option((), "--generate: fewest,most steps; default 3,6; chains 3,4", least=1, most=50)
    nodes: tuple[int, ...] = option((), "--generate: fewest,most nodes; default as official", least=4, most=100)
    chains: bool = option(False, "--generate: two chains of equal length instead of random graphs")
    symbols: bool = option(False, "compact wording for training from scratch")
    names: int = option(
        0, "--symbols: how many names there are; 0: 40, or as many as a problem may have nodes", most=999
    )
    out_dir: str = option("", "where the files go; default data/prosqa, with --symbols data/prosqa_symbols")
    seed: int = option(0, "seed of the random numbers", least=0)

    def __post_init__(self):
        for name in ("hops", "nodes"):
            value = getattr(self, name)
            if len(value) > 2 or list(value) != sorted(value):
                raise UserError(f"--{name}={','.join(map(str, value))}: expected the fewest and the most, such as 3,6")
        if self.generate and self.from_:
            raise UserError("--from and --generate: expected one of them")
        if not self.generate and (self.hops or self.nodes or self.chains):
            raise UserError("--hops, --nodes and --chains belong to --generate=N")
        if self.chains and self.nodes:
            raise UserError("--chains and --nodes: expected one of them; two chains have 2 * hops + 2 nodes")
        self.hops = self.hops or ((3, 4) if self.chains else (3, 6))
        if 0 < self.names < self.most_nodes and self.generate and self.symbols:
            raise UserError(f"--names={self.names}: a problem may have {self.most_nodes} nodes")
        self.out_dir = self.out_dir or ("data/prosqa_symbols" if self.symbols else "data/prosqa")

    @property
    def train(self):  # what write_splits() calls it
        return self.generate

    @property
    def most_nodes(self):
        return 2 * self.hops[-1] + 2 if self.chains else self.nodes[-1] if self.nodes else DRAWN


# ---------------------------------------------------------------- graphs


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


def make_chains(rng, hops):
    """The graph fields of a problem with two disjoint chains, 0 2 4 ... and 1 3 5 ..."""
    edges, root = [[v, v + 2] for v in range(2 * hops)], rng.randrange(2)
    return {"edges": edges, "root": root, "target": 2 * hops + root, "neg_target": 2 * hops + 1 - root}


def n_nodes(edges):
    """The number of nodes; each has an edge."""
    return 1 + max(map(max, edges))


def make_graph(rng, cfg):
    """The graph fields of a problem, with as many nodes and hops as cfg allows."""
    if cfg.chains:
        return make_chains(rng, rng.randint(cfg.hops[0], cfg.hops[-1]))
    fewest, most = cfg.nodes[0] if cfg.nodes else 0, cfg.most_nodes
    for _ in range(TRIES):
        n = round(rng.randint(fewest, most) * DRAWN / OFFICIAL["nodes"]) if cfg.nodes else DRAWN
        graph = make_dag(rng, n)
        if graph and fewest <= n_nodes(graph["edges"]) <= most:
            if cfg.hops[0] <= search(children(graph["edges"]), [graph["root"]])[0][graph["target"]] <= cfg.hops[-1]:
                return graph
    asked = " ".join(f"--{k}={','.join(map(str, v))}" for k, v in (("hops", cfg.hops), ("nodes", cfg.nodes)) if v)
    raise UserError(f"{asked}: none of {TRIES:,} random graphs is like that; more steps need more nodes")


# ---------------------------------------------------------------- problems


def in_words(rng, graph):
    """The graph as a problem in the official wording and format."""
    edges, root, target = graph["edges"], graph["root"], graph["target"]
    n, concepts = n_nodes(edges), {b for _, b in edges}  # people have no parents
    names = {True: rng.sample(CONCEPTS, len(concepts)), False: rng.sample(PEOPLE, n - len(concepts))}
    symbols = [names[v in concepts].pop() for v in range(n)]

    def sentence(edge):
        return "Every " * (edge[0] in concepts) + f"{symbols[edge[0]]} is a {symbols[edge[1]]}."

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


def in_symbols(rng, problem, pool):
    """The problem in the compact wording. Names are drawn anew: the nodes' own numbers would tell what is upstream."""
    edges, root, target = problem["edges"], problem["root"], problem["target"]
    symbols = [str(name) for name in rng.sample(range(pool), len(problem["idx_to_symbol"]))]
    first, second = rng.sample([symbols[target], symbols[problem["neg_target"]]], 2)
    listed = " ".join(f"{symbols[a]} {symbols[b]} |" for a, b in rng.sample(edges, len(edges)))
    return {
        **problem,
        "question": f"{listed} to {first} or {second} from {symbols[root]}",
        "answer": symbols[target],
        "steps": [symbols[v] for v in shortest_path(rng, edges, root, target)[1:]],
        "idx_to_symbol": symbols,
    }


def identity(problem):
    """What two problems have in common if they differ in the order of sentences and candidates alone."""
    symbols, edges = problem["idx_to_symbol"], problem["edges"]
    candidates = frozenset(symbols[problem[key]] for key in ("target", "neg_target"))
    return frozenset((symbols[a], symbols[b]) for a, b in edges), symbols[problem["root"]], candidates


# ---------------------------------------------------------------- files


def read(path):
    """The problems of a file, official or ours, checked; UserError names file, example and key."""
    problems = load_json(path)
    for i, problem in enumerate(problems):
        try:
            check_fields(problem)
        except ValueError as e:
            raise UserError(f"{path}: example {i}: {e}") from None
    return problems


def read_official(folder):
    """{split: problems}, of the files in a folder, or else downloaded."""
    splits = {}
    for split in SPLITS:
        name = f"prosqa_{split}.json"
        path = os.path.join(folder, name) if folder else download(f"{OFFICIAL_URL}/{name}")
        if os.path.exists(path):
            splits[split] = read(path)
        else:
            print(f"WARNING: {path}: no such file; {split}.json is left out")
    if not splits:
        raise UserError(f"{folder}: none of prosqa_train.json, prosqa_valid.json and prosqa_test.json is there")
    return splits


def statistics(problems):
    """Means over the problems; under the key 3 the share of those with three steps, and so on."""
    found = [search(children(p["edges"]), [p["root"]]) for p in problems]
    lengths = [distance[p["target"]] for p, (distance, _) in zip(problems, found)]
    sums = {
        "nodes": sum(len(p["idx_to_symbol"]) for p in problems),
        "edges": sum(len(p["edges"]) for p in problems),
        "steps": sum(lengths),
        **{length: lengths.count(length) for length in sorted({3, 4, 5, 6, *lengths})},
        "paths": sum(paths[p["target"]] for p, (_, paths) in zip(problems, found)),
    }
    return {key: total / len(problems) for key, total in sums.items()}


def print_table(splits):
    columns = {**{name: statistics(problems) for name, problems in splits.items()}, "official valid": OFFICIAL}
    print(f"\n{'mean of':<20}" + "".join(f"{name:>16}" for name in columns))
    lengths = sorted({key for column in columns.values() for key in column if isinstance(key, int)})
    for key in ("nodes", "edges", "steps", *lengths, "paths"):
        name, form = (f"  {key} steps", "16.1%") if key in lengths else (key, "16.3f")
        name = "shortest paths" if key == "paths" else name
        print(f"{name:<20}" + "".join(f"{column.get(key, 0):{form}}" for column in columns.values()))


def generate(cfg, rng):
    """Make and write the splits; they are read back, and so checked."""
    pool = max(cfg.most_nodes, cfg.names or (0 if cfg.nodes or cfg.chains else POOL))

    def draw():
        problem = in_words(rng, make_graph(rng, cfg))
        problem = in_symbols(rng, problem, pool) if cfg.symbols else problem
        return problem, identity(problem)

    write_splits(cfg, draw)
    return {split: read(os.path.join(cfg.out_dir, f"{split}.json")) for split in SPLITS}


def convert(cfg, rng):
    """Read the official splits and write them, as they are or in symbols."""
    splits = read_official(cfg.from_)
    pool = max(cfg.names or POOL, *(len(p["idx_to_symbol"]) for problems in splits.values() for p in problems))
    if cfg.symbols:
        splits = {split: [in_symbols(rng, p, pool) for p in problems] for split, problems in splits.items()}
    for split, path in write_files(cfg.out_dir, splits).items():
        print(f"{path}: {len(splits[split]):,} problems, such as {splits[split][0]!s:.400}")
    return splits


def main(argv):
    cfg = parse(ProsQAConfig, argv, __doc__)
    print_table((generate if cfg.generate else convert)(cfg, random.Random(cfg.seed)))


if __name__ == "__main__":
    cli(main)
