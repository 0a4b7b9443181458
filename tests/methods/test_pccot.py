"""PCCoT: CODI's losses, but all thoughts at once, some times over, each from the state at the one before."""

import pytest
import torch
from helpers import live, needs, words
from naive import naive_parallel
from torch.nn import functional as F

import curriculum
import data
from coconut import Coconut
from curriculum import Row
from test_latent import (
    assert_close,
    assert_same_gradients,
    batch,
    embeddings,
    naive_row,
    naive_states,
    some_rows,
    think_without_numbers,
)

PLAIN = {"losses": ("teacher:0", "distance:0")}


@pytest.mark.parametrize("feedback", ["last", "last+vector", "soft+layer:-2"])
def test_thoughts_at_once(feedback, tiny):
    """Catches a thought from its neighbour's state or an earlier pass's, a pass too few, a prefix that is read anew.

    With as many passes as thoughts it is Coconut: loss, gradients, thoughts and what is written.
    """
    objective, rows = tiny("pccot", feedback=feedback, **PLAIN), some_rows()
    model, inputs, most = objective.model, batch(rows), max(row.n for row in rows)
    sequential = Coconut(model.base)
    sequential.feedback, different = model.feedback, set()
    for model.passes in (1, 2, most, most + 2):
        total = objective(data.collate(rows))["ce"]
        logits, theirs = zip(*(naive_parallel(model, *row[:3]) for row in rows))
        labels = torch.tensor(sum((row.labels for row in rows), []))
        expected = F.cross_entropy(torch.cat([each[:-1] for each in logits]), labels, reduction="sum")
        assert_close(total, expected, 1e-10)
        assert_same_gradients(model, total, expected)
        tokens, thoughts = model.generate(*inputs[:4], max_new_tokens=9, return_thoughts=True)
        for own, its, row in zip(thoughts, theirs, rows):
            assert not row.n or (own - its).abs().max() < 1e-10 * its.abs().max()
        if model.passes >= most:
            expected = sequential(*inputs)[1] * (labels != -100).sum()
            assert_close(total, expected, 1e-10)
            assert_same_gradients(model, total, expected)
            assert torch.equal(tokens, sequential.generate(*inputs[:4], max_new_tokens=9))
        else:
            different.add(total.item())
    assert len({*different, total.item()}) == 3


def test_thoughts_go_on_from_a_past(tiny):
    """Catches a graph that questions share, but thoughts do not see."""
    objective, first = tiny("pccot", task="graphs", names=r"\d", **PLAIN), [8, 9, 10, 11]
    rows = some_rows(8)
    shared = [row._replace(extra={"shared": first, "graph": 1}) for row in rows]
    alone = [row._replace(prefix=first + row.prefix) for row in rows]
    total, expected = (objective(data.collate(some))["ce"] for some in (shared, alone))
    assert_close(total, expected, 1e-10)
    assert_same_gradients(objective.model, total, expected)


def test_the_distance_leaves_the_input_out(tiny):
    """Catches CODI's distance, which compares the input, too."""
    objective = tiny("pccot", n_layer=3, passes=2)
    model, expected = objective.model, 0
    teacher = Row([1, 2], 0, [6, 7, 4, 5], [6, 7, 4, 5], extra={"answer": 3})
    row = Row([1, 2], 2, [3, 4, 5], [-100, 4, 5], extra={"answer": 2, "teacher": teacher})
    E, (_, thoughts) = embeddings(model), naive_parallel(model, *row[:3])
    states = naive_states(model, torch.cat((E[row.prefix], thoughts, E[row.suffix])))
    for own, its in [*zip(states, naive_states(model, E[teacher.prefix + teacher.suffix]))][1:]:
        far, std = (own[2 + 2 + 2 - 1] - its[2 + 3 - 1].detach()).abs(), its[2 + 3 - 1].detach().var().sqrt()
        expected = expected + torch.where(far < 1, far**2 / 2, far - 0.5).mean() / std / 3
    found = objective(data.collate([row]))
    assert_close(found["distance"], expected, 1e-10)
    assert_same_gradients(model, found["distance"], expected)
    logits = naive_row(model, teacher.prefix, 0, teacher.suffix)[0][:-1]
    assert_close(found["teacher"], F.cross_entropy(logits, torch.tensor(teacher.labels), reduction="sum"), 1e-10)


def test_thinking_never_waits_for_a_gpu(tiny):
    """Catches what asks for a number between two passes."""
    think_without_numbers(tiny("pccot", passes=2).model)


def test_its_row():
    cfg, tok, problem = words(method="pccot")
    row = curriculum.row_for(problem, 3, cfg, tok)
    assert row.n == 2 and row.extra["teacher"].n == 0 and curriculum.stages(cfg, 3)[0] == [3] and cfg.passes == 3


@pytest.mark.parametrize("method", ["pccot", "coconut+pccot", "simcot+pccot"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    run, said = live(method, tmp_path, monkeypatch, capsys, "--passes=2")
    assert "thought 3" in said and run.model.passes == 2
    assert run.model.state_dict().keys() == {f"base.{name}" for name in run.model.base.state_dict()}


@pytest.mark.parametrize("other", ["lotus", "stop", "ponder", "cut"])
def test_it_does_not_think_in_two_ways(other):
    """Catches a combination of which one half would have no effect."""
    needs(other)
    cfg, tok, _ = words(method=f"pccot+{other}")
    with pytest.raises(
        curriculum.UserError, match=rf"'pccot\+{other}': 2 of these think, each in its own way: expected one"
    ):
        curriculum.make_model(None, cfg, tok)
