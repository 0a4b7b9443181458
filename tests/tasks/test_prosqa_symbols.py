"""
ProsQA in symbols, smaller or larger, or as two chains (tasks/prosqa.py): is what a question says true?

Questions are checked from their text alone, as in tests/test_prosqa.py; each test names the mistake it would catch.
"""

import random
import re
from collections import Counter

import pytest
from test_prosqa import FOLDER, SPLITS, check, distances, everything, make, needs_official, parse_words

from config import UserError, parse
from data import load_json as read
from tasks.prosqa import OFFICIAL, ProsQAConfig, make_graph, statistics


def parse_symbols(problem):
    """The same from the compact wording."""
    listed, query = problem["question"].split(" to ")
    edges = [tuple(edge.split()) for edge in listed.split("|")[:-1]]
    assert listed.endswith("|")
    *candidates, root = re.fullmatch(r"(\d+) or (\d+) from (\d+)", query).groups()
    path = [root, *problem["steps"]]
    return edges, root, candidates, list(zip(path, path[1:])), problem["answer"]


# ---------------------------------------------------------------- generating


def test_a_thousand_questions_have_one_answer(tmp_path):
    """Catches a wrong or ambiguous answer, detours and gaps in the steps, candidates that go on, wrong graph fields."""
    splits = make(tmp_path, "--generate=800", "--valid=100", "--test=100", "--seed=5", "--symbols")
    lengths = Counter(check(problem, parse_symbols) for problem in everything(splits))
    assert {split: len(problems) for split, problems in splits.items()} == {"train": 800, "valid": 100, "test": 100}
    assert set(lengths) == {3, 4, 5, 6} and lengths.total() == 1_000


def test_the_order_of_symbols_gives_nothing_away(tmp_path):
    """Catches candidates, edges or names in a telling order: the target first, parents before children."""
    first, upwards, smaller, names = [], [], [], set()
    for p in everything(make(tmp_path, "--generate=400", "--valid=50", "--test=50", "--symbols")):
        edges, root, candidates, steps, answer = parse_symbols(p)
        names.update(p["idx_to_symbol"])
        first.append(candidates[0] == answer)
        upwards += [edges.index(a) < edges.index(b) for a, b in zip(steps, steps[1:])]
        smaller += [int(a) < int(b) for a, b in edges]
    assert 0.42 < sum(first) / len(first) < 0.58
    assert 0.45 < sum(upwards) / len(upwards) < 0.55
    assert 0.48 < sum(smaller) / len(smaller) < 0.52
    assert names == {str(i) for i in range(40)}


@pytest.mark.parametrize(
    "hops, nodes", [((2, 3), (8, 11)), ((5, 8), (40, 44)), ((4,), (20,)), ((1, 2), (4, 6)), ((), (12, 14))]
)
def test_hops_and_nodes_are_respected(tmp_path, hops, nodes):
    """Catches a bound that is ignored or off by one, and a range of which only a part occurs."""
    flags = [f"--{k}={','.join(map(str, v))}" for k, v in (("hops", hops), ("nodes", nodes)) if v]
    problems = everything(make(tmp_path, "--generate=300", "--valid=10", "--test=10", "--symbols", *flags))
    hops = hops or (3, 6)
    sizes, names = [len(p["idx_to_symbol"]) for p in problems], {name for p in problems for name in p["idx_to_symbol"]}
    lengths = [check(p, parse_symbols) for p in problems]
    assert (min(sizes), max(sizes)) == (nodes[0], nodes[-1])
    assert min(lengths) == hops[0] and max(lengths) <= hops[-1] and (hops == (3, 6) or max(lengths) == hops[-1])
    assert names == {str(i) for i in range(nodes[-1])}


def test_chains_are_two_and_equally_long(tmp_path):
    """Catches chains that touch or differ in length, and a root that stands in the middle of one."""
    problems = everything(make(tmp_path, "--generate=200", "--valid=10", "--test=10", "--chains"))
    lengths, roots = Counter(), Counter()
    for p in problems:
        edges, root, candidates, steps, _ = parse_words(p)
        lengths[check(p, parse_words)] += 1
        roots[p["root"]] += 1
        assert len(edges) == 2 * len(steps) and len(p["idx_to_symbol"]) == 2 * len(steps) + 2
        assert max(Counter(a for a, _ in edges).values()) == max(Counter(b for _, b in edges).values()) == 1
        (other,) = {a for a, _ in edges} - {b for _, b in edges} - {root}
        (neg_target,) = set(candidates) - {steps[-1][1]}
        assert distances(edges, other)[neg_target] == len(steps)
    assert set(lengths) == {3, 4} and set(roots) == {0, 1} and min(*lengths.values(), *roots.values()) > 70


def test_no_problem_is_in_two_splits(tmp_path):
    """Catches test questions that were trained on, with their edges in another order; all 24 there are get used."""
    flags = ["--chains", "--hops=1", "--symbols", "--valid=5", "--test=5"]  # 4 nodes: 4 * 3 * 2 questions
    problems = everything(make(tmp_path, "--generate=2", *flags))
    keys = set()
    for p in problems:
        edges, root, candidates, *_ = parse_symbols(p)
        keys.add((frozenset(edges), root, frozenset(candidates)))
    assert len(keys) == len(problems) == 12
    with pytest.raises(UserError, match="some 24 different problems"):
        make(tmp_path, "--generate=50", *flags)


def test_the_seed_decides(tmp_path):
    """Catches hidden randomness, and a seed that is not used."""
    flags = "--generate=5", "--valid=2", "--test=2", "--symbols"
    a, b, c = (make(tmp_path, *flags, f"--seed={seed}") for seed in (1, 1, 2))
    assert a == b != c


# ---------------------------------------------------------------- official and ours


@pytest.fixture(scope="module")
def official():
    return read(f"{FOLDER}/prosqa_valid.json")


def count_paths(children, a, target, length):
    """The number of paths of this length, by trying all."""
    if not length:
        return a == target
    return sum(count_paths(children, b, target, length - 1) for b in children.get(a, ()))


@needs_official
def test_the_official_values_are_those_of_the_file(official):
    """Catches constants that were mistyped, and a wrong count of shortest paths: this one tries all paths."""
    found, n_paths = statistics(official), 0
    assert found == {key: pytest.approx(value, abs=6e-4) for key, value in OFFICIAL.items()}
    for p in official:
        edges, root, _, steps, answer = parse_words(p)
        check(p, parse_words)
        children = {a: [b for c, b in edges if c == a] for a, _ in edges}
        n_paths += count_paths(children, root, answer, len(steps))
    assert found["paths"] == pytest.approx(n_paths / len(official))


@needs_official
def test_generated_problems_are_like_the_official_ones(official):
    """Catches whatever makes graphs larger, denser, flatter or less ambiguous than the paper's."""
    rng, cfg = random.Random(0), parse(ProsQAConfig, ["--generate=1"], "")
    graphs = [make_graph(rng, cfg) for _ in range(4_000)]
    ours = statistics([{**g, "idx_to_symbol": sorted({v for e in g["edges"] for v in e})} for g in graphs])
    theirs = statistics(official)
    for key in ("nodes", "edges", "steps", "paths"):
        assert ours[key] == pytest.approx(theirs[key], rel=0.05), key
    for key in (3, 4, 5, 6):
        assert ours[key] == pytest.approx(theirs[key], abs=0.06), key
    second = [sum(p["root"] == 1 for p in problems) / len(problems) for problems in (graphs, official)]
    assert second[0] == pytest.approx(second[1], abs=0.06)  # 65 %: side 2 grows larger, and so deeper


@needs_official
def test_the_official_file_in_symbols(tmp_path, official):
    """Catches symbols that ask another question than the words did."""
    problems = make(tmp_path, f"--from={FOLDER}", "--symbols")["valid"]
    assert len(problems) == len(official) == 300
    for ours, theirs in zip(problems, official):
        assert check(ours, parse_symbols) == len(theirs["steps"])
        assert [ours[key] for key in ("edges", "root", "target", "neg_target")] == [
            theirs[key] for key in ("edges", "root", "target", "neg_target")
        ]
        assert {int(name) for name in ours["idx_to_symbol"]} <= set(range(40))


def test_the_table_shows_what_is_in_the_files(tmp_path, capsys):
    """Catches columns or rows that are swapped."""
    made = make(tmp_path, "--generate=50", "--valid=5", "--test=7", "--hops=2,4", "--nodes=9,15")
    rows = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    n_edges = [sum(len(parse_words(p)[0]) for p in made[split]) / len(made[split]) for split in SPLITS]
    assert rows["mean of"] == ["train", "valid", "test", "official", "valid"]
    assert rows["edges"] == [f"{n:.3f}" for n in (*n_edges, 36.26)]
    n_two = [sum(len(p["steps"]) == 2 for p in made[split]) / len(made[split]) for split in SPLITS]
    assert rows["2 steps"] == [f"{n:.1%}" for n in (*n_two, 0)]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--generate=5", "--hops=4,3"], "--hops=4,3: expected the fewest and the most"),
        (["--generate=5", "--nodes=5,6,7"], "--nodes=5,6,7: expected the fewest and the most"),
        (["--generate=5", "--hops=7", "--nodes=4,6"], "--hops=7 --nodes=4,6: none of .* random graphs"),
        (["--generate=5", "--chains", "--nodes=9"], "--chains and --nodes"),
        (["--generate=5", "--symbols", "--names=20"], "--names=20: a problem may have 28 nodes"),
        (["--symbols", "--generate=5", "--from=x"], "--from and --generate"),
        (["--hops=3,4"], "belong to --generate"),
        (["--chains"], "belong to --generate"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, flags, words):
    """Catches settings that are ignored in silence, an endless search for an impossible graph, and tracebacks."""
    with pytest.raises(UserError, match=words) as e:
        make(tmp_path / "out", *flags)
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()
