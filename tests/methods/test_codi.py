"""CODI: what the teacher writes, and how far a thinking model's states before the answer are from its."""

import numpy as np
import pytest
import torch
from helpers import FORMATS, PROBLEM, live, words
from torch.nn import functional as F

import curriculum
import data
from curriculum import Row, config_class
from methods import _teacher
from tasks.graphs import without
from test_latent import assert_close, assert_same_gradients, batch, embeddings, naive_row, naive_states, some_rows
from tokenizer import make_tokenizer

ROWS = [
    Row([1, 2], 2, [3, 4, 5], [-100, 4, 5],
        extra={"answer": 2, "teacher": Row([1, 2], 0, [6, 7, 4, 5], [6, 7, 4, 5], extra={"answer": 3})}),
    Row([9], 0, [4, 8], [4, 8], extra={"answer": 1, "teacher": Row([9], 0, [4, 8], [4, 8], extra={"answer": 1})}),
    Row([3, 1, 2], 4, [5], [5],  # nothing marks the answer
        extra={"answer": 0, "teacher": Row([3, 1], 0, [5], [5], extra={"answer": 0})}),
]  # fmt: skip


def naive_distance(states, example, row):
    """The distance of a row's states (T, C) of each layer and the teacher's before the answer, for each layer."""
    teacher, found = row.extra["teacher"], []
    for h, h_t in zip(states, example):
        own = h[len(row.prefix) + row.n + row.extra["answer"] - 1]
        its = h_t[len(teacher.prefix) + teacher.extra["answer"] - 1].detach()
        far = (own - its).abs()
        found.append(torch.where(far < 1, far**2 / 2, far - 0.5).mean() / its.var().sqrt())
    return found


def test_states_before_a_place_of_the_suffix(tiny):
    """Catches a place that is off by one, or counted from the longest row's last thought."""
    model, rows = tiny("codi").model, some_rows(seed=5, size=6)
    places = [i % len(row.suffix) for i, row in enumerate(rows)]
    found = _teacher.before(model.think(*batch(rows)[:4]), torch.tensor(places))
    assert len(found) == 3
    for i, (row, place) in enumerate(zip(rows, places)):
        x = torch.cat((embeddings(model)[row.prefix], naive_row(model, *row[:3])[1], embeddings(model)[row.suffix]))
        for layer, states in zip(found, naive_states(model, x)):
            assert_close(layer[i], states[len(row.prefix) + row.n + place - 1], 1e-10)


def test_the_teacher_and_the_distance_to_it(tiny):
    """Catches a state off by one, a layer too few, a gradient into the teacher, a deviation that rows share."""
    objective = tiny("codi", n_layer=3)
    model, expected = objective.model, dict.fromkeys(("ce", "teacher", "distance"), 0)
    for row in ROWS:
        logits, thoughts = naive_row(model, *row[:3])
        expected["ce"] += F.cross_entropy(logits[:-1], torch.tensor(row.labels), reduction="sum")
        teacher, E = row.extra["teacher"], embeddings(model)
        logits, _ = naive_row(model, teacher.prefix, 0, teacher.suffix)
        expected["teacher"] += F.cross_entropy(logits[:-1], torch.tensor(teacher.labels), reduction="sum")
        states = naive_states(model, torch.cat((E[row.prefix], thoughts, E[row.suffix])))
        example = naive_states(model, E[teacher.prefix + teacher.suffix])
        expected["distance"] += sum(naive_distance(states, example, row)) / 4
    batch = data.collate(ROWS)
    assert {name: int(n) for name, n in objective.counts(batch).items()} == {"ce": 5, "teacher": 7, "distance": 3}
    found = objective(batch)
    assert found.keys() == expected.keys()
    for name, total in found.items():
        assert_close(total, expected[name], 1e-10)
        assert_same_gradients(model, total, expected[name])


def test_its_losses_in_bfloat16(tiny):
    """Catches a sum, a logarithm or a difference of large numbers in bfloat16, whose last digit is a 128th."""
    objective, batch = tiny("codi", dtype=torch.float32), data.collate(ROWS)
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch)
    for name, total in found.items():
        assert total.dtype == torch.float32 and total.item() == pytest.approx(exact[name].item(), rel=0.02), name


def test_a_loss_that_weighs_nothing_is_not_computed(tiny):
    """Catches a teacher that is made to write, or rows that have to have one, where nobody asks for it."""
    objective = tiny("codi", losses=("teacher:0", "distance:0"))
    plain = [row._replace(extra={}) for row in ROWS]
    assert objective.weights == {"ce": 1.0} and objective(data.collate(plain)).keys() == {"ce"}
    assert objective.counts(data.collate(plain)).keys() == {"ce"}


def test_a_shared_graph_is_like_one_of_its_own(tiny):
    """Catches positions or masks that begin anew after what several rows read together, with their teachers."""
    objective = tiny("codi", task="graphs", names=r"\d", losses=("distance:2",))
    graphs = [[8, 9, 10, 11], [8, 9, 10, 11], [12, 13]]
    alone = [
        row._replace(
            prefix=graph + row.prefix,
            extra=row.extra | {"teacher": row.extra["teacher"]._replace(prefix=graph + row.extra["teacher"].prefix)},
        )
        for row, graph in zip(ROWS, graphs)
    ]
    shared = [
        without(row, len(graph))._replace(extra=without(row, len(graph)).extra | {"shared": graph, "graph": number})
        for row, graph, number in zip(alone, graphs, (5, 5, 6))
    ]
    expected = sum(objective(data.collate(alone)).values())
    for order in ([0, 1, 2], [0, 2, 1], [2, 0, 1]):  # in other orders they do not share it, and are right, too
        total = sum(objective(data.collate([shared[i] for i in order])).values())
        assert_close(total, expected, 1e-10)
        assert_same_gradients(objective.model, total, expected)


@pytest.mark.parametrize("kind", ["words", "chars"])
def test_the_teacher_writes_all_but_the_last_step(kind):
    """Catches a last step that says the answer, a teacher without question, states that are not at the same token."""
    for answer_format, mark, more, teacher in (
        (" = {}", "=", {}, "a b c d e = g"),
        (" the answer is: {}", ":", {}, "a b c d e the answer is: g"),
        (" = {}", "=", {"teacher_writes": "all"}, "a b c d e f = g"),
        (" = {}", "=", {"method": "coconut+codi"}, "a b c d e = g"),
    ):
        settings = {"tokenizer": kind, "method": "codi", "max_latent_stage": 2, **FORMATS,
                    "answer_format": answer_format, **more}  # fmt: skip
        cfg = config_class(settings)(**settings)
        tok = make_tokenizer(kind, data.find_pieces([PROBLEM], cfg))
        row = curriculum.row_for(data.encode([PROBLEM], cfg, tok)[0], 3, cfg, tok)
        its = row.extra["teacher"]
        assert tok.decode(its.prefix + its.suffix[:-1]).strip() == teacher
        for of in row, its:
            answer = of.extra["answer"]
            assert tok.decode(of.suffix[:answer]).rstrip().endswith(mark) and answer > 0
            assert tok.decode(of.suffix[answer:-1]).strip() == "g"
        assert its.n == 0 and its.labels == its.suffix and row.suffix[-1] == its.suffix[-1]


def test_its_stage_is_the_last_one():
    cfg, tok, problem = words(method="codi")
    row = curriculum.row_for(problem, 3, cfg, tok)
    assert curriculum.stages(cfg, 3) == ([3], 4) and row.n == 2 and row.replaced == problem.steps


def test_micro_batches_count_what_the_teacher_reads():
    """Catches a second sequence that does not fit beside the first."""
    g = np.random.default_rng(0)
    rows = [Row([0] * g.integers(1, 50), int(g.integers(0, 6)), [i] * g.integers(1, 20), [0]) for i in range(200)]
    rows = [row._replace(extra={"teacher": row._replace(n=0, suffix=[0] * g.integers(20, 40))}) for row in rows]
    cfg = curriculum.TrainConfig(micro_batch_tokens=500)
    parts = list(data.micro_batches(rows, cfg))
    assert sorted(row.suffix[0] for part in parts for row in part) == list(range(200)) and len(parts) < 80
    for part in parts:
        batch = data.collate(part)
        read = batch, batch.extra["teacher"]
        assert len(part) * sum(x.prefix.size(1) + int(x.n.max()) + x.suffix.size(1) for x in read) <= 500


@pytest.mark.parametrize("method, more", [("codi", ["--feedback=projection"]), ("coconut+codi", []), ("codi+stop", [])])
def test_it_is_trained_resumed_evaluated_and_sampled(method, more, tmp_path, monkeypatch, capsys):
    run, said = live(method, tmp_path, monkeypatch, capsys, *more)
    assert "thought 3" in said and {"ce", "teacher", "distance"} <= run.objective.weights.keys()
    saved = torch.load(run.best)
    assert saved["model"].keys() == run.model.state_dict().keys() and "objective" not in saved
