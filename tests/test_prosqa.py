"""
ProsQA: is what a question says true, and its answer the only one?   python -m pytest tests/test_prosqa.py

In symbols, smaller or larger, as chains: tests/tasks/test_prosqa_symbols.py. Questions are checked from their text
alone, by a search written anew here; each test names the mistake it would catch.
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
from config import UserError
from data import load_json
from prepare_prosqa import check_graph, identity, shortest_path

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


def test_a_thousand_questions_have_one_answer(tmp_path):
    """Catches a wrong or ambiguous answer, detours and gaps in the steps, candidates that go on, wrong graph fields."""
    splits = make(tmp_path, "--generate=800", "--valid=100", "--test=100", "--seed=5")
    lengths = Counter(check(problem, parse_words) for problem in everything(splits))
    assert {split: len(problems) for split, problems in splits.items()} == {"train": 800, "valid": 100, "test": 100}
    assert set(lengths) == {3, 4, 5, 6} and lengths.total() == 1_000


def test_the_order_of_words_gives_nothing_away(tmp_path):
    """Catches candidates or edges in a telling order: the target first, parents before children."""
    first, upwards = [], []
    for p in everything(make(tmp_path, "--generate=400", "--valid=50", "--test=50")):
        edges, root, candidates, steps, answer = parse_words(p)
        first.append(candidates[0] == answer)
        upwards += [edges.index(a) < edges.index(b) for a, b in zip(steps, steps[1:])]
    assert 0.42 < sum(first) / len(first) < 0.58
    assert 0.45 < sum(upwards) / len(upwards) < 0.55


def test_each_shortest_path_is_equally_likely():
    """Catches steps that always take the first path, or that decide at each fork without counting what lies behind."""
    edges = [[0, 1], [0, 2], [1, 3], [1, 4], [2, 4], [3, 5], [4, 5], [0, 6], [6, 7], [7, 8], [8, 5], [5, 9]]
    rng = random.Random(0)
    drawn = Counter(tuple(shortest_path(rng, edges, 0, 5)) for _ in range(3_000))
    assert set(drawn) == {(0, 1, 3, 5), (0, 1, 4, 5), (0, 2, 4, 5)}
    assert all(900 < n < 1_100 for n in drawn.values())


def test_no_problem_is_in_two_splits(tmp_path):
    """Catches test questions that were trained on, with their sentences in another order."""
    problems = everything(make(tmp_path, "--generate=300", "--valid=50", "--test=50"))
    asked = {(frozenset(edges), root, frozenset(pair)) for edges, root, pair, *_ in map(parse_words, problems)}
    assert len(asked) == len(problems) == 400


def test_the_seed_decides(tmp_path):
    """Catches hidden randomness, and a seed that is not used."""
    a, b, c = (make(tmp_path, "--generate=5", "--valid=2", "--test=2", f"--seed={seed}") for seed in (1, 1, 2))
    assert a == b != c


# ---------------------------------------------------------------- official and ours


@pytest.fixture(scope="module")
def official():
    problems = load_json(f"{FOLDER}/prosqa_valid.json")
    assert [*map(check_graph, problems)] == problems
    return problems


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


BROKEN = [
    ({"idx_to_symbol": "Tom"}, "are no graph"),
    ({"edges": None}, "are no graph"),
    ({"edges": [[0, 2], [2]]}, "are no graph"),
    ({"root": 99}, "are no graph"),
    ({"target": "lempus"}, "are no graph"),
    ({"neg_target": 99}, "are no graph"),
    ({"edges": [[0, 2], [98, 99]], "root": 0, "target": 2}, "are no graph"),
    ({"edges": []}, "its 'target' cannot be reached from its 'root'"),
]


@pytest.mark.parametrize("change, words", BROKEN)
def test_broken_graphs_are_left_out_counted_and_named(tmp_path, small, change, words, capsys):
    """Catches graphs that nobody looks at until training fails, and a whole file that is refused for one of them."""
    problems = json.loads((small[0] / "prosqa_train.json").read_text())
    whole = [problems[0], problems[2]]
    problems[1].update(change)
    (tmp_path / "prosqa_train.json").write_text(json.dumps(problems))
    assert make(tmp_path / "out", f"--from={tmp_path}") == {"train": whole}
    warning = "WARNING: .*prosqa_train.json: 1 of 3 examples cannot be used: example 1: "
    assert re.search(f"{warning}.*{words}.*; they are left out", capsys.readouterr().out)
    key = next(iter(change))
    del problems[1][key]
    (tmp_path / "prosqa_train.json").write_text(json.dumps(problems))
    assert make(tmp_path / "out", f"--from={tmp_path}") == {"train": whole}
    assert re.search(f"{warning}.*{key}", capsys.readouterr().out)


def test_how_many_of_a_test_file_are_broken_is_said(tmp_path, small, capsys):
    """Catches "example 0" of a file of which nobody learns how much of it can be used; here the root's edge is gone."""
    problems = json.loads((small[0] / "prosqa_train.json").read_text())
    for p in problems[:2]:
        p["edges"] = [edge for edge in p["edges"] if edge[0] != p["root"]]
    (tmp_path / "prosqa_test.json").write_text(json.dumps(problems))
    assert make(tmp_path / "out", f"--from={tmp_path}") == {"test": problems[2:]}
    assert "prosqa_test.json: 2 of 3 examples cannot be used: example 0: its 'target'" in capsys.readouterr().out
    (tmp_path / "prosqa_test.json").write_text(json.dumps(problems[:2]))
    with pytest.raises(UserError, match="prosqa_test.json: 2 of 2 examples cannot be used: example 0"):
        make(tmp_path / "none", f"--from={tmp_path}")


@pytest.mark.parametrize("change", [{"question": 3}, {"steps": [1]}, {"answer": None}])
def test_what_is_no_problem_is_named_with_example_and_key(tmp_path, small, change):
    problems = json.loads((small[0] / "prosqa_train.json").read_text())
    problems[1].update(change)
    (tmp_path / "prosqa_train.json").write_text(json.dumps(problems))
    with pytest.raises(UserError, match=rf"prosqa_train.json: example 1: .*{next(iter(change))}"):
        make(tmp_path / "out", f"--from={tmp_path}")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--generate=5", "--from=x"], "--from and --generate"),
        (["--generate=-5"], "generate = -5, expected at least 0"),
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
