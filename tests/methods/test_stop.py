"""A model that says itself when it has thought enough, taught by how many thoughts its stage gave it."""

import json
import math

import pytest
import torch
from helpers import live, words
from naive import naive_stops

import curriculum
import data
import sample
from config import UserError
from curriculum import Row, change
from lab import analyze
from test_latent import assert_close, assert_same_gradients, batch, some_rows

ROWS = [Row([1, 2], 2, [3, 4], [-100, 4]), Row([5], 0, [3, 6, 7], [3, -100, 7]), Row([2, 9, 4], 4, [8], [8])]


def test_when_to_stop(tiny):
    """Catches a state off by one, a chance of what comes after the stop, a missing gradient."""
    objective, expected = tiny("coconut+stop"), 0
    for row in ROWS:
        *before, at_the_end = naive_stops(objective.model, row.prefix, row.n)
        expected = expected - (math.prod(1 - chance for chance in before) * at_the_end).log()
    inputs = data.collate(ROWS)
    total = objective(inputs)["stop"]
    assert objective.counts(inputs)["stop"] == 3
    assert_close(total, expected, 1e-10)
    assert_same_gradients(objective.model, total, expected)


def test_its_loss_in_bfloat16(tiny):
    """Catches a sum of logarithms in bfloat16, whose last digit is a 128th."""
    objective, inputs = tiny("coconut+stop", dtype=torch.float32), data.collate(ROWS)
    exact = objective(inputs)["stop"]
    with torch.autocast("cpu", torch.bfloat16):
        total = objective(inputs)["stop"]
    assert total.dtype == torch.float32 and total.item() == pytest.approx(exact.item(), rel=0.02)


def test_rows_stop_one_by_one(tiny):
    """Catches a row that thinks on because its neighbours do, or stops with them; also where all stop at once."""
    model = tiny("coconut+stop").model
    prefix, prefix_len, _, suffix, _ = batch(some_rows(seed=3, size=8))
    found = set()
    for bias in (-9.0, -2.0, -1.0, -0.5, 9.0):
        model.stop_head.bias.data.fill_(bias)
        n = []
        for p, length in zip(prefix.tolist(), prefix_len):
            chances = naive_stops(model, p[:length], 5)
            rest = [math.prod(1 - c for c in chances[: k + 1]) for k in range(6)]
            n.append(next((k for k in range(5) if rest[k] <= 0.5), 5))
        settings = {"max_new_tokens": 3, "return_thoughts": True}
        model.may_stop = True
        together = model.generate(prefix, prefix_len, 5, suffix, **settings)
        model.may_stop = False
        alone = model.generate(prefix, prefix_len, torch.tensor(n), suffix, **settings)
        assert torch.equal(together[0], alone[0]) and [len(t) for t in together[1]] == n
        for a, b in zip(together[1], alone[1]):
            assert torch.equal(a, b) or len(a) and (a - b).abs().max() < 1e-12
        found |= {*n}
    assert len(found) > 3


def test_training_has_the_thoughts_that_it_is_given(tiny):
    """Catches a model that ends its thinking where a loss is computed."""
    model = tiny("coconut+stop").model
    model.stop_head.bias.data.fill_(9.0)
    inputs = batch(some_rows())
    assert model.may_stop and torch.equal(model.think(*inputs[:4]).n, inputs[2])


def test_a_model_that_may_stop_needs_room_for_all_thoughts(tmp_path):
    """Catches a check of lengths that counts the thoughts of training, where an evaluation gives more."""
    cfg, tok, _ = words(max_latent_stage=6)
    with open(tmp_path / "train.json", "w") as f:
        json.dump([{"question": "a b", "steps": ["c"], "answer": "f"}], f)
    for method, fits in ("coconut", 8), ("coconut+stop", 13):  # a b bot, thoughts, eot = f eos
        for block_size in (fits - 1, fits):
            cfg = change(cfg, method=method, block_size=block_size)
            try:
                data.load(str(tmp_path / "train.json"), cfg, tok, [" a", " b", " c", " d", " e", " f", " g", " ="])
                assert block_size == fits
            except UserError as e:
                assert block_size == fits - 1 and "too long" in str(e)


def test_a_row_says_how_much_a_model_may_think():
    """Catches a short problem that may not think longer than in training, and one that trains on the limit."""
    cfg, tok, problem = words(method="coconut+stop", max_latent_stage=5)
    short = problem._replace(steps=problem.steps[:1])
    for stage in range(7):
        row = curriculum.row_for(short, stage, cfg, tok)
        assert (row.n, row.prompt.n) == (min(stage, 1), min(stage, 5))


@pytest.mark.parametrize("method", ["coconut+stop", "stop", "simcot+stop", "no_curriculum+stop"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    live(method, tmp_path, monkeypatch, capsys)
    sample.main(["out/parts", "--count=1", "--latent=3"])
    assert "thought 3" in capsys.readouterr().out
    sample.main(["out/parts", "--latent=auto"])
    assert "writes" in capsys.readouterr().out


def test_an_analysis_says_what_becomes_of_it(tmp_path, monkeypatch, capsys):
    live("coconut+stop", tmp_path, monkeypatch, capsys)
    analyze.main(["out/parts/best.pt", "--count=8"])
    assert "when it stops by itself" in capsys.readouterr().out
