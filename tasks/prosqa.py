"""
ProsQA otherwise: in symbols, smaller or larger, or as two chains; and how like the official files it is.

    python prepare_prosqa.py --generate=17886 --hops=2,3 --nodes=8,11      # easier; or harder, as you like
    python prepare_prosqa.py --generate=17886 --chains    # two chains side by side, nothing to choose: the first rung

--symbols writes whatever it is for models that start from scratch: a node is one token, an edge two and a separator.

    {"question": "3 7 | 7 2 | 12 3 | ... to 5 or 8 from 0", "steps": ["7", "2", "5"], "answer": "5", ...}
"""

import os
import random
from dataclasses import dataclass

import prepare_prosqa
from config import UserError, option, parse
from data import SPLITS, load_json, write_files, write_splits
from prepare_prosqa import (
    DRAWN,
    children,
    identity,
    in_words,
    make_dag,
    n_nodes,
    read_official,
    search,
    shortest_path,
)

# Measured by statistics() on the official prosqa_valid.json, 300 problems; 3, ..., 6: the share with so many steps.
OFFICIAL = {"nodes": 22.82, "edges": 36.26, "steps": 3.753, 3: 0.413, 4: 0.443, 5: 0.120, 6: 0.023, "paths": 1.613}
POOL = 40  # --symbols: names are 0 to 39, if --names does not say otherwise
TRIES = 10_000  # graphs drawn before we give up on --hops and --nodes


@dataclass
class ProsQAConfig(prepare_prosqa.ProsQAConfig):
    hops: tuple[int, ...] = option((), "--generate: fewest,most steps; default 3,6; chains 3,4", least=1, most=50)
    nodes: tuple[int, ...] = option((), "--generate: fewest,most nodes; default as official", least=4, most=100)
    chains: bool = option(False, "--generate: two chains of equal length instead of random graphs")
    symbols: bool = option(False, "compact wording for training from scratch")
    names: int = option(
        0, "--symbols: how many names there are; 0: 40, or as many as a problem may have nodes", most=999
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("hops", "nodes"):
            value = getattr(self, name)
            if len(value) > 2 or list(value) != sorted(value):
                raise UserError(f"--{name}={','.join(map(str, value))}: expected the fewest and the most, such as 3,6")
        if not self.generate and (self.hops or self.nodes or self.chains):
            raise UserError("--hops, --nodes and --chains belong to --generate=N")
        if self.chains and self.nodes:
            raise UserError("--chains and --nodes: expected one of them; two chains have 2 * hops + 2 nodes")
        self.hops = self.hops or ((3, 4) if self.chains else (3, 6))
        if 0 < self.names < self.most_nodes and self.generate and self.symbols:
            raise UserError(f"--names={self.names}: a problem may have {self.most_nodes} nodes")
        if self.symbols and self.out_dir == "data/prosqa":
            self.out_dir = "data/prosqa_symbols"

    @property
    def most_nodes(self):
        return 2 * self.hops[-1] + 2 if self.chains else self.nodes[-1] if self.nodes else DRAWN


def make_chains(rng, hops):
    """The graph fields of a problem with two disjoint chains, 0 2 4 ... and 1 3 5 ..."""
    edges, root = [[v, v + 2] for v in range(2 * hops)], rng.randrange(2)
    return {"edges": edges, "root": root, "target": 2 * hops + root, "neg_target": 2 * hops + 1 - root}


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
    """Make and write the splits, and read them back."""
    pool = max(cfg.most_nodes, cfg.names or (0 if cfg.nodes or cfg.chains else POOL))

    def draw():
        problem = in_words(rng, make_graph(rng, cfg))
        problem = in_symbols(rng, problem, pool) if cfg.symbols else problem
        return problem, identity(problem)

    write_splits(cfg, draw)
    return {split: load_json(os.path.join(cfg.out_dir, f"{split}.json")) for split in SPLITS}


def convert(cfg, rng):
    """Read the official splits and write them, as they are or in symbols."""
    splits = read_official(cfg.from_)
    pool = max(cfg.names or POOL, *(len(p["idx_to_symbol"]) for problems in splits.values() for p in problems))
    if cfg.symbols:
        splits = {split: [in_symbols(rng, p, pool) for p in problems] for split, problems in splits.items()}
    write_files(cfg.out_dir, splits)
    return splits


def main(argv):
    cfg = parse(ProsQAConfig, argv, __doc__)
    print_table((generate if cfg.generate else convert)(cfg, random.Random(cfg.seed)))
