"""PonderNet: a model that learns when to stop thinking from what its answers are worth."""

import numpy as np
import pytest
import torch
from helpers import live, needs, words
from naive import naive_stops
from torch.nn import functional as F

import curriculum
import data
import sample
from config import UserError
from curriculum import Row, change
from tasks.graphs import without
from test_latent import assert_close, assert_same_gradients, naive_row

ROWS = [Row([1, 2], 2, [3, 4], [-100, 4]), Row([5], 0, [3, 6, 7], [3, -100, 7]), Row([2, 9, 4], 4, [8], [8])]


def test_what_answers_are_worth(tiny):
    """Catches a state off by one, an answer after the wrong thought, a prior not cut off, a missing gradient."""
    objective, expected = tiny("coconut+ponder"), 0
    for row in ROWS:
        chances, rest = naive_stops(objective.model, row.prefix, row.n), 1
        priors = torch.tensor([0.2 * 0.8**k for k in range(row.n + 1)], dtype=torch.float64)
        for k, chance in enumerate(chances):
            p = rest * chance if k < row.n else rest
            rest = rest * (1 - chance)
            logits = naive_row(objective.model, row.prefix, k, row.suffix)[0][:-1]
            expected = expected + p * F.cross_entropy(logits, torch.tensor(row.labels))
            expected = expected + 0.01 * p * (p / (priors[k] / priors.sum())).log()
    batch = data.collate(ROWS)
    found = objective(batch)
    assert found.keys() == {"ponder"}, "cross-entropy is a part of it"
    assert objective.counts(batch)["ponder"] == 3
    assert_close(found["ponder"], expected, 1e-10)
    assert_same_gradients(objective.model, found["ponder"], expected)


def test_its_loss_in_bfloat16(tiny):
    """Catches a sum of logarithms in bfloat16, whose last digit is a 128th."""
    objective, batch = tiny("coconut+ponder", dtype=torch.float32), data.collate(ROWS)
    exact = objective(batch)["ponder"]
    with torch.autocast("cpu", torch.bfloat16):
        total = objective(batch)["ponder"]
    assert total.dtype == torch.float32 and total.item() == pytest.approx(exact.item(), rel=0.02)


def test_rows_that_share_a_graph(tiny):
    """Catches an answer that is read again without what its question has been read with."""
    objective = tiny("coconut+ponder", task="graphs", names=r"\d")
    graphs = [[8, 9, 10, 11], [8, 9, 10, 11], [12, 13]]
    alone = [row._replace(prefix=graph + row.prefix) for row, graph in zip(ROWS, graphs)]
    shared = [
        without(row, len(graph))._replace(extra={"shared": graph, "graph": len(graph)})
        for row, graph in zip(alone, graphs)
    ]
    expected, total = (objective(data.collate(rows))["ponder"] for rows in (alone, shared))
    assert_close(total, expected, 1e-10)
    assert_same_gradients(objective.model, total, expected)


def test_pondering_may_end_wherever_an_evaluation_lets_it_end():
    """Catches a short problem that is cut off at its own steps in training, and so never learns to stop there."""
    cfg, tok, problem = words(method="coconut+ponder", max_latent_stage=5)
    short = problem._replace(steps=problem.steps[:1])
    for stage in range(7):
        row = curriculum.row_for(short, stage, cfg, tok, np.random.default_rng(0))
        assert row.n == row.prompt.n == min(stage, 5)


def test_its_place_among_other_names():
    """Catches steps, or sets, for the thoughts that there were before it gave a row more of them."""
    for other in "simcot", "sets", "codi":
        needs(other)
        cfg, tok, problem = words(method=f"coconut+ponder+{other}", max_latent_stage=5)
        assert curriculum.row_for(problem._replace(steps=problem.steps[:1]), 4, cfg, tok).n == 4
        with pytest.raises(UserError, match="expected ponder before what looks at thoughts"):
            curriculum.row_for(problem, 4, change(cfg, method=f"{other}+ponder"), tok)


@pytest.mark.parametrize(
    "method", ["coconut+ponder", "no_curriculum+ponder", "ponder+seq_vcr", "coconut+ponder+simcot", "ponder+sets"]
)
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    live(method, tmp_path, monkeypatch, capsys, "--uniform_prob=0.3")
    sample.main(["out/parts", "--latent=auto"])
    assert "writes" in capsys.readouterr().out
