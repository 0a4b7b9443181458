"""Seq-VCR: each dimension of the states should vary over the batch, by itself."""

import pytest
import torch
from helpers import live

import data
from test_latent import assert_close, assert_same_gradients, naive_row, some_rows


def test_it_equals_its_formula(tiny):
    """Catches a thought that a row does not have, a variance of the wrong N, a diagonal among the covariances."""
    objective, rows, l_1, l_2 = tiny("coconut+seq_vcr"), some_rows(size=6), 1, 0.004
    project, expected, most = objective.project, 0, max(row.n for row in rows)
    assert objective.own_state().keys() == {"project.weight", "project.bias"}
    for k in range(most + 1):
        states = []
        for row in rows:
            if row.n >= k:
                thoughts = naive_row(objective.model, row.prefix, k + 1, [])[1]
                states.append(thoughts[k] @ project.weight.T + project.bias)
        C = torch.stack(states).T.cov() if len(states) > 1 else torch.zeros(2048, 2048, dtype=torch.float64)
        variance = (C.diagonal() + 0.001).sqrt()
        others = C.square().sum(1) - C.diagonal().square()
        expected = expected + (l_1 * (1 - variance).clamp(min=0) + l_2 * others).mean() / (most + 1)
    batch = data.collate(rows)
    total = objective(batch)["seq_vcr"]
    assert objective.counts(batch)["seq_vcr"] == 1
    assert_close(total, expected, 1e-9)
    assert_same_gradients(objective.model, total, expected, 1e-9)
    ours, theirs = (torch.autograd.grad(loss, project.weight)[0] for loss in (total, expected))
    assert_close(ours, theirs, 1e-9)  # the bias has none: it moves all rows alike


def test_it_is_exact_in_bfloat16(tiny):
    """Catches a difference of large sums in bfloat16, whose last digit is a 128th."""
    objective, batch = tiny("coconut+seq_vcr", dtype=torch.float32), data.collate(some_rows())
    exact = objective(batch)["seq_vcr"]
    with torch.autocast("cpu", torch.bfloat16):
        total = objective(batch)["seq_vcr"]
    assert total.dtype == torch.float32 and total.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("method", ["coconut+seq_vcr", "simcot+seq_vcr", "seq_vcr"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    run, said = live(method, tmp_path, monkeypatch, capsys, "--losses=seq_vcr:0.1")
    assert "thought 3" in said and run.objective.weights["seq_vcr"] == 0.1
    assert "project.weight" in torch.load(run.last)["objective"] and "objective" not in torch.load(run.best)
