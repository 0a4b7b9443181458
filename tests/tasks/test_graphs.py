"""
Graphs as tokens, drawn anew for training: renamed nodes, further questions about the same graph (tasks/graphs.py).
"""

import re

import numpy as np
import pytest
import torch
from helpers import FORMATS, words

import curriculum
import data
from checkpoint import new_base
from config import UserError
from curriculum import Row
from tasks import graphs
from tokenizer import make_tokenizer

GRAPH = {"question": "1 2 1 3 2 4 3 5 4 6 to 6 or 5 from 1", "steps": ["2", "4", "6"], "answer": "6"}
SEPARATED = {
    "question": "1 2 | 1 3 | 2 4 | 3 5 | 4 6 | 7 8 | to 6 or 8 from 1",
    "steps": ["2", "4", "6"],
    "answer": "6",
}


def encoded(raw, **settings):
    """(Problems, cfg, tokenizer) of one problem as a dict."""
    settings = {"task": "graphs", "names": r" \d+", "tokenizer": "words", "max_latent_stage": 3, **FORMATS, **settings}
    cfg = curriculum.config_class(settings)(**settings)
    tok = make_tokenizer("words", data.find_pieces([raw], cfg))
    return data.encode([raw], cfg, tok), cfg, tok


def test_augmenting_keeps_the_graph():
    """Catches a renaming that is not one-to-one, edges torn apart, and an order or names that never change."""
    (problem,), cfg, tok = encoded(GRAPH)
    texts, rng = set(), np.random.default_rng(0)
    for _ in range(50):
        question, steps, answer = graphs.augment(problem, cfg, tok, rng)
        edges, _, asked = graphs.read_graph(question, cfg, tok)
        end, other, start = (tok.decode([t]) for t in asked[[1, 3, 5]])
        (two,), (four,), (six,) = steps
        one = int(asked[5])
        (three,) = {b for a, b in edges.tolist() if a == one} - {two}
        five = int(asked[3])
        assert {(one, two), (one, three), (two, four), (three, five), (four, six)} == set(map(tuple, edges.tolist()))
        assert len({one, two, three, four, five, six}) == 6
        assert tok.decode(asked.tolist()) == f" to{end} or{other} from{start}"
        assert tok.decode(answer[:-1]) == " =" + end and answer[-1] == problem.answer[-1]
        texts.add(tok.decode(question))
    assert len(texts) == 50


def test_questions_about_the_same_graph_are_true():
    """Catches an end that is not below its root, another that is, and a way that is not one."""
    (problem,), cfg, tok = encoded(SEPARATED)
    edges, separator, asked = graphs.read_graph(problem.question, cfg, tok)
    assert len(edges) == 6 and tok.decode(separator) == " |" and tok.decode(asked.tolist()) == " to 6 or 8 from 1"
    below, seen = {1: {2, 3, 4, 5, 6}, 2: {4, 6}, 3: {5}, 4: {6}, 7: {8}}, set()
    for question, steps, answer in graphs.more_questions(problem, 50, cfg, tok, np.random.default_rng(0)):
        text = tok.decode(question)
        assert text.startswith(tok.decode(problem.question[:18]))
        *_, first, _, second, _, root = text.split()
        end = tok.decode(answer[:-1]).removeprefix(" = ")
        (other,) = {first, second} - {end}
        assert int(end) in below[int(root)] and int(other) not in below[int(root)] and answer[-1] == problem.answer[-1]
        path = [int(root), *(int(tok.decode(step)) for step in steps)]
        assert path[-1] == int(end) and all(b in below[a] for a, b in zip(path, path[1:]))
        seen.add(root)
    assert seen == {"1", "2", "3", "4", "7"}
    assert graphs.walks(problem.question, 4, cfg, tok) == [
        [tok.encode_ordinary(f" {node}")[0] for node in level] for level in ((2, 3), (4, 5), (6,), ())
    ]


@pytest.mark.parametrize(
    "raw, settings, words",
    [
        ({}, {"step_format": "{}\n"}, "' 2' and '2' are two tokens for one node"),
        ({}, {"names": r" ?\d+", "question_format": "{}\n"}, "are two tokens for one node"),
        ({}, {"answer_format": "### ({})"}, "' 6' and '6' are two tokens for one node"),
        ({"question": "1 2 , 1 3 , 2 4 to 4 or 3 from 1"}, {}, "same after each edge, found ' ,' and ' to'"),
        ({"question": "1 2 a 1 3 b 2 4 a to 4 or 3 from 1"}, {}, "same after each edge, found ' a' and ' b'"),
        ({"question": "1 2 | 1 3 | 2 4 | from 1 to 3 or 4"}, {}, "root as the last name, but no edge leaves ' 4'"),
        ({"question": "1 2 | 1 3 | 2 4 | which ?"}, {}, "expected the root at the end"),
    ],
)
def test_graphs_that_could_not_be_renamed_are_refused(raw, settings, words):
    """Catches steps that keep their old names, words that are taken for separators, and roots that are none."""
    problems, cfg, tok = encoded({**SEPARATED, **raw}, **settings)
    with pytest.raises(UserError, match=re.escape(words)) as e:
        graphs.Task(cfg, tok).check(problems, "train.json")
    assert str(e.value).startswith("train.json: example 0: ") and "\n" not in str(e.value)


def test_questions_about_the_same_graph_write_steps_as_the_file_does():
    """Catches drawn questions in another format than those that are evaluated, and ones with two right answers."""
    problems, cfg, tok = encoded(SEPARATED, step_format=" {} ;")
    graphs.Task(cfg, tok).check(problems, "train.json")
    for made in graphs.more_questions(problems[0], 20, cfg, tok, np.random.default_rng(0)):
        assert made.steps and all(re.fullmatch(r" \d ;", tok.decode(step)) for step in made.steps)
    problems, cfg, tok = encoded({**SEPARATED, "steps": ["1 2", "2 4", "4 6"]})
    with pytest.raises(UserError, match="expected steps with one name each, found ' 1 2'"):
        graphs.more_questions(problems[0], 1, cfg, tok, np.random.default_rng(0))
    one_source = {**SEPARATED, "question": "1 2 | 1 3 | 2 4 | 3 5 | 4 6 | to 6 or 5 from 2"}
    problems, cfg, tok = encoded(one_source)
    for question, *_ in graphs.more_questions(problems[0], 50, cfg, tok, np.random.default_rng(0)):
        assert tok.decode(question[-1:]) != " 1"  # below which there is everything
    problems, cfg, tok = encoded({**SEPARATED, "question": "1 2 | 1 6 | to 6 or 2 from 1"})
    with pytest.raises(UserError, match="all nodes are below each root"):
        graphs.more_questions(problems[0], 1, cfg, tok, np.random.default_rng(0))


def test_a_drawn_question_that_does_not_fit_is_one_line():
    """Catches a traceback in the middle of training: the file's own questions are shorter."""
    short = {
        **SEPARATED,
        "question": "1 2 | 2 3 | 3 4 | 4 5 | 5 6 | 7 8 | to 2 or 8 from 1",
        "steps": ["2"],
        "answer": "2",
    }
    problems, cfg, tok = encoded(short, questions=9, block_size=31, method="cot")
    task = graphs.Task(cfg, tok)
    with pytest.raises(UserError, match="a question drawn about .* takes 3[2-9] positions: raise block_size"):
        for _ in range(20):
            data.training_rows(problems, [(0, 0)], 0, cfg, task, np.random.default_rng(0))


def test_rows_about_one_graph_share_its_edges():
    """Catches edges that are read twice, or a question that is cut in the wrong place."""
    problems, cfg, tok = encoded(SEPARATED, questions=4, max_latent_stage=2, markers="eot", pad_latent_to_max=True)
    task = graphs.Task(cfg, tok)
    rows = data.training_rows(problems, [(0, 3), (0, 3)], 0, cfg, task, np.random.default_rng(0))
    assert len(rows) == 8 and all(row.extra["shared"] == rows[0].extra["shared"] for row in rows[:4])
    assert all(len(row.extra["shared"]) == 18 and len(row.prefix) == 6 for row in rows)
    assert len({row.extra["graph"] for row in rows[:4]}) == 1 and len({row.extra["graph"] for row in rows}) == 2
    assert "shared" not in curriculum.row_for(problems[0], 3, cfg, tok).extra, "an evaluation asks what the file asks"


def test_what_is_cut_off_is_cut_off_from_rows_in_rows():
    inner = Row([1, 2, 3], 0, [4], [4])
    row = graphs.without(Row([1, 2, 3, 5], 0, [4], [4], extra={"second": inner, "x": [1]}), 2)
    assert row.prefix == [3, 5] and row.extra["second"].prefix == [3] and row.extra["x"] == [1]


@pytest.mark.parametrize("sizes", [(8, 4), (8, 8, 4), (4, 8), (8, 8), (1, 3)])
def test_each_question_reads_its_own_graph(sizes):
    """Catches a micro-batch that ends among the questions about a graph: others would be asked about it."""
    problems, cfg, tok = encoded(SEPARATED, questions=2, n_embd=24, n_head=3)
    torch.manual_seed(0)
    model = curriculum.make_model(new_base(cfg, tok), cfg, tok)
    shared = [[10 + i] * (i + 2) for i in range(len(sizes))]
    rows = [
        Row([i], 0, [1], [1], extra={"shared": shared[i], "graph": i})
        for i, size in enumerate(sizes)
        for _ in range(size)
    ]
    past = graphs.Task(cfg, tok).read_shared(model, data.collate(rows))
    assert past.real.sum(1).tolist() == [len(row.extra["shared"]) for row in rows]
    for b, row in enumerate(rows):
        _, alone = model.read(model.embed(torch.tensor([row.extra["shared"]])))
        found, expected = (side.layers[-1][0][0] for side in (past.select(torch.tensor([b])), alone))
        assert (found[:, :, : expected.size(2)] - expected).abs().max() < 1e-5


def test_other_tasks_share_nothing():
    cfg, tok, problem = words()
    batch = data.collate([curriculum.row_for(problem, 1, cfg, tok)])
    assert curriculum.Task(cfg, tok).read_shared(None, batch) is None
    problems, cfg, tok = encoded(SEPARATED)
    task = graphs.Task(cfg, tok)
    (row,) = data.training_rows(problems, [(0, 1)], 0, cfg, task, np.random.default_rng(0))
    assert task.read_shared(None, data.collate([row])) is None, "one question has its graph for itself"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"idx_to_symbol": "Tom"}, "'idx_to_symbol'"),
        ({"idx_to_symbol": ["Tom", 3]}, "'idx_to_symbol'"),
        ({"edges": None}, "'edges'"),
        ({"edges": [[0, 2], [2]]}, r"'edges' .* found \[2\]"),
        ({"edges": [[0, 99]]}, r"'edges' .* 0 to 2, found \[0, 99\]"),
        ({"edges": [[-1, 0]]}, r"'edges' .* found \[-1, 0\]"),
        ({"root": 99}, "'root' .* found 99"),
        ({"root": True}, "'root' .* found True"),
        ({"target": "lempus"}, "'target' .* found 'lempus'"),
        ({"neg_target": -1}, "'neg_target' .* found -1"),
        ({"edges": []}, "'target' cannot be reached"),
    ],
)
def test_graph_fields_that_are_none_are_named(change, words):
    """Catches fields that nobody looks at until the analysis fails, and indices that count from the end unnoticed."""
    graph = {"idx_to_symbol": ["Tom", "lempus", "rempus"], "edges": [[0, 1], [0, 2]], "root": 0, "target": 1}
    problem = {"question": "?", "steps": ["Tom is a lempus."], "answer": "Tom is a lempus.", **graph, "neg_target": 2}
    assert graphs.graph_of(problem).target == "lempus"
    with pytest.raises(UserError, match=f"file.json: example 1: .*{words}"):
        graphs.read_graphs([problem, problem | change], "file.json")
