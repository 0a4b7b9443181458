"""
The tasks' data: is what a question says true, and its answer the only one?   python -m pytest test_prosqa.py

Questions are checked from their text alone, by a search written anew here; each test names the mistake it would catch.
"""

import functools
import http.server
import json
import os
import random
import re
import threading
from collections import Counter

import pytest

import prepare_prosqa
from config import UserError, parse
from prepare_prosqa import OFFICIAL, ProsQAConfig, identity, make_graph, read, shortest_path, statistics

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "../shared/data/prosqa")
needs_official = pytest.mark.skipif(
    not os.path.exists(f"{FOLDER}/prosqa_valid.json"), reason="the official file is not in ../shared/data/prosqa"
)
SPLITS = ("train", "valid", "test")


def make(folder, *args):
    """The splits that a command writes into a folder, as one dict."""
    prepare_prosqa.main([*args, f"--out_dir={folder}"])
    splits = {}
    for split in SPLITS:
        if os.path.exists(f"{folder}/{split}.json"):
            with open(f"{folder}/{split}.json", encoding="utf-8") as f:
                splits[split] = json.load(f)
    return splits


def everything(splits):
    return [problem for problems in splits.values() for problem in problems]


# ---------------------------------------------------------------- the text of a problem, without its graph fields


def parse_words(problem):
    """(edges, root, candidates, edges of the steps, what the answer says) from the official wording."""
    sentence = r"(?:Every )?(\w+) is a (\w+)\."
    text, _, query = problem["question"].rpartition(" Is ")
    edges = re.findall(sentence, text)
    assert len(re.sub(sentence, "", text).strip()) == 0
    root, *candidates = re.fullmatch(r"(\w+) a (\w+) or (\w+)\?", query).groups()
    said, answer = re.fullmatch(r"(\w+) is a (\w+)\.", problem["answer"]).groups()
    assert said == root
    steps = [re.fullmatch(sentence, step).groups() for step in problem["steps"]]
    people = {a for a, _ in edges} - {b for _, b in edges}
    for sentence in text.removesuffix(".").split(". ") + [step.removesuffix(".") for step in problem["steps"]]:
        first, *_, is_, _, _ = words = sentence.split()
        assert is_ == "is" and (first in people) == (first != "Every") == (len(words) == 4) and first[0].isupper()
    assert all(person[0].isupper() for person in people)
    return edges, root, candidates, steps, answer


def parse_symbols(problem):
    """The same from the compact wording."""
    listed, query = problem["question"].split(" to ")
    edges = [tuple(edge.split()) for edge in listed.split("|")[:-1]]
    assert listed.endswith("|")
    *candidates, root = re.fullmatch(r"(\d+) or (\d+) from (\d+)", query).groups()
    path = [root, *problem["steps"]]
    return edges, root, candidates, list(zip(path, path[1:])), problem["answer"]


def distances(edges, root):
    """Round after round, whatever can be reached in one step more."""
    found, frontier = {}, {root}
    while frontier:
        found.update(dict.fromkeys(frontier, max(found.values(), default=-1) + 1))
        frontier = {b for a, b in edges if a in frontier} - set(found)
    return found


def check(problem, parse_text):
    """Is the answer right, the other candidate wrong, and are the steps a shortest path? Returns its length."""
    edges, root, candidates, steps, answer = parse_text(problem)
    reached = distances(edges, root)
    (target,) = set(candidates) & set(reached)
    (neg_target,) = set(candidates) - {target}
    assert answer == target
    assert set(steps) <= set(edges) and steps[0][0] == root and steps[-1][1] == target
    assert all(a[1] == b[0] for a, b in zip(steps, steps[1:])) and len(steps) == reached[target]
    assert len(set(edges)) == len(edges)
    assert not {target, neg_target} & {a for a, _ in edges} and neg_target in {b for _, b in edges}
    symbols = problem["idx_to_symbol"]
    assert len(set(symbols)) == len(symbols) == len({v for edge in edges for v in edge})
    assert {(symbols[a], symbols[b]) for a, b in problem["edges"]} == set(edges)
    assert [symbols[problem[key]] for key in ("root", "target", "neg_target")] == [root, target, neg_target]
    return len(steps)


# ---------------------------------------------------------------- generating


@pytest.mark.parametrize("wording, parse_text", [((), parse_words), (("--symbols",), parse_symbols)])
def test_a_thousand_questions_have_one_answer(tmp_path, wording, parse_text):
    """Catches a wrong or ambiguous answer, detours and gaps in the steps, candidates that go on, wrong graph fields."""
    splits = make(tmp_path, "--generate=800", "--valid=100", "--test=100", "--seed=5", *wording)
    lengths = Counter(check(problem, parse_text) for problem in everything(splits))
    assert {split: len(problems) for split, problems in splits.items()} == {"train": 800, "valid": 100, "test": 100}
    assert set(lengths) == {3, 4, 5, 6} and lengths.total() == 1_000


def test_the_order_of_words_gives_nothing_away(tmp_path):
    """Catches candidates, edges or names in a telling order: the target first, parents before children."""
    for args, parse_text in (((), parse_words), (("--symbols",), parse_symbols)):
        problems = everything(make(tmp_path, "--generate=400", "--valid=50", "--test=50", *args))
        first, upwards, smaller, names = [], [], [], set()
        for p in problems:
            edges, root, candidates, steps, answer = parse_text(p)
            names.update(p["idx_to_symbol"])
            first.append(candidates[0] == answer)
            upwards += [edges.index(a) < edges.index(b) for a, b in zip(steps, steps[1:])]
            smaller += [int(a) < int(b) for a, b in edges] if args else []
        assert 0.42 < sum(first) / len(first) < 0.58
        assert 0.45 < sum(upwards) / len(upwards) < 0.55
        assert not args or 0.48 < sum(smaller) / len(smaller) < 0.52
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


def test_each_shortest_path_is_equally_likely():
    """Catches steps that always take the first path, or that decide at each fork without counting what lies behind."""
    edges = [[0, 1], [0, 2], [1, 3], [1, 4], [2, 4], [3, 5], [4, 5], [0, 6], [6, 7], [7, 8], [8, 5], [5, 9]]
    rng = random.Random(0)
    drawn = Counter(tuple(shortest_path(rng, edges, 0, 5)) for _ in range(3_000))
    assert set(drawn) == {(0, 1, 3, 5), (0, 1, 4, 5), (0, 2, 4, 5)}
    assert all(900 < n < 1_100 for n in drawn.values())


def test_no_problem_is_in_two_splits(tmp_path):
    """Catches test questions that were trained on, with their sentences in another order; all 24 there are get used."""
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
    a, b, c = (
        make(tmp_path, "--generate=5", "--valid=2", "--test=2", "--symbols", f"--seed={seed}") for seed in (1, 1, 2)
    )
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
def test_official_and_generated_files_are_interchangeable(tmp_path, official, capsys):
    """Catches fields, keys or types that differ, and a --from that drops or changes problems."""
    made = make(tmp_path / "made", "--generate=30", "--valid=20", "--test=10")
    shape = {key: type(value) for key, value in official[0].items()}
    assert all(list({key: type(v) for key, v in p.items()}.items()) == list(shape.items()) for p in everything(made))
    for split in SPLITS:
        os.rename(tmp_path / f"made/{split}.json", tmp_path / f"made/prosqa_{split}.json")
    assert make(tmp_path / "again", f"--from={tmp_path}/made") == made
    assert make(tmp_path / "official", f"--from={FOLDER}")["valid"] == official


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


# ---------------------------------------------------------------- files and mistakes


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with three files as the official ones are called, made by us."""
    folder = tmp_path_factory.mktemp("small")
    made = make(folder, "--generate=3", "--valid=2", "--test=2")
    for split in SPLITS:
        os.rename(folder / f"{split}.json", folder / f"prosqa_{split}.json")
    return folder, made


def test_without_from_the_files_are_downloaded(tmp_path, small, monkeypatch):
    """Catches wrong addresses and names; the server is real, if not GitHub's."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=small[0])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NANOCOCONUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare_prosqa, "OFFICIAL_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        assert make(tmp_path / "out") == small[1]
    finally:
        server.shutdown()
        server.server_close()


def test_a_missing_split_is_left_out_with_a_warning(tmp_path, small, capsys):
    """Catches a missing file that stops everything, or that nobody notices."""
    (tmp_path / "prosqa_test.json").write_text((small[0] / "prosqa_test.json").read_text())
    made = make(tmp_path / "out", f"--from={tmp_path}")
    assert made == {"test": small[1]["test"]}
    assert re.findall(r"WARNING: .*prosqa_(\w+)\.json: no such file", capsys.readouterr().out) == ["train", "valid"]


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
    "change, words",
    [
        ({"question": 3}, "'question'"),
        ({"steps": [1]}, "'steps'"),
        ({"answer": None}, "'answer'"),
        ({"idx_to_symbol": "Tom"}, "'idx_to_symbol'"),
        ({"idx_to_symbol": ["Tom", 3]}, "'idx_to_symbol'"),
        ({"edges": None}, "'edges'"),
        ({"edges": [[0, 2], [2]]}, r"'edges' .* found \[2\]"),
        ({"edges": [[0, 99]]}, r"'edges' .* 0 to \d+, found \[0, 99\]"),
        ({"edges": [[-1, 0]]}, r"'edges' .* found \[-1, 0\]"),
        ({"root": 99}, "'root' .* found 99"),
        ({"root": True}, "'root' .* found True"),
        ({"target": "lempus"}, "'target' .* found 'lempus'"),
        ({"neg_target": -1}, "'neg_target' .* found -1"),
        ({"edges": []}, "'target' cannot be reached"),
    ],
)
def test_a_broken_file_is_named_with_example_and_key(tmp_path, small, change, words):
    """Catches fields that nobody looks at until training fails, and indices that count from the end unnoticed."""
    problems = json.loads((small[0] / "prosqa_train.json").read_text())
    problems[1].update(change)
    (tmp_path / "prosqa_train.json").write_text(json.dumps(problems))
    with pytest.raises(UserError, match=rf"prosqa_train.json: example 1: .*{words}") as e:
        make(tmp_path / "out", f"--from={tmp_path}")
    assert "\n" not in str(e.value)
    key = next(iter(change))
    del problems[1][key]
    (tmp_path / "prosqa_train.json").write_text(json.dumps(problems))
    with pytest.raises(UserError, match=rf"prosqa_train.json: example 1: .*{key}"):
        make(tmp_path / "out", f"--from={tmp_path}")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--generate=5", "--hops=4,3"], "--hops=4,3: expected the fewest and the most"),
        (["--generate=5", "--nodes=5,6,7"], "--nodes=5,6,7: expected the fewest and the most"),
        (["--generate=5", "--hops=7", "--nodes=4,6"], "--hops=7 --nodes=4,6: none of .* random graphs"),
        (["--generate=5", "--chains", "--nodes=9"], "--chains and --nodes"),
        (["--generate=5", "--from=x"], "--from and --generate"),
        (["--generate=-5"], "generate = -5, expected at least 0"),
        (["--hops=3,4"], "belong to --generate"),
        (["--chains"], "belong to --generate"),
        (["--from=nowhere"], "nowhere: none of prosqa_train.json"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, flags, words):
    """Catches settings that are ignored in silence, an endless search for an impossible graph, and tracebacks."""
    with pytest.raises(UserError, match=words) as e:
        make(tmp_path / "out", *flags)
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()


def test_identity_ignores_order_alone():
    """Catches an identity that two different questions share, or one that depends on the order of sentences."""
    p = {"idx_to_symbol": list("abcd"), "edges": [[0, 2], [1, 3]], "root": 0, "target": 2, "neg_target": 3}
    assert identity(p) == identity({**p, "edges": [[1, 3], [0, 2]]})
    same = {"idx_to_symbol": list("badc"), "edges": [[0, 2], [1, 3]], "root": 1, "target": 3, "neg_target": 2}
    assert identity(p) == identity(same)  # numbered otherwise
    assert identity(p) != identity({**p, "root": 1, "target": 3, "neg_target": 2})
    assert identity(p) != identity({**p, "edges": [[0, 2], [3, 1]]})
