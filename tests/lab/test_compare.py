"""
What an accuracy is worth: intervals, and two checkpoints on the same questions (evaluate.percent, lab/compare.py).
"""

import math
import re
from fractions import Fraction

import pytest
from helpers import fails, hops_flags, run_to_the_end

import data
import prepare_hops
from checkpoint import load_checkpoint
from curriculum import make_task
from evaluate import percent, right_answer, solve
from lab import compare
from lab.questions import Questions


@pytest.mark.parametrize(
    "right, n, text",
    [
        (995, 1000, "99.5% (98.8-99.8)"),  # as in statsmodels' proportion_confint(..., method="wilson"), and below
        (0, 10, "0.0% (0.0-27.8)"),
        (10, 10, "100.0% (72.2-100.0)"),
        (1, 2, "50.0% (9.5-90.5)"),
        (300, 300, "100.0% (98.7-100.0)"),
    ],
)
def test_an_accuracy_has_its_interval(right, n, text):
    """Catches an interval that ends beyond 100 %, or has no width where all are right."""
    assert percent(right / n, n) == text


def test_the_interval_solves_wilsons_equation():
    """Catches a formula that is off by a term: at its ends the share is 1.96 standard deviations away."""
    low, high = map(float, re.search(r"\((.*)-(.*)\)", percent(0.3, 10**4)).groups())
    for end in low / 100, high / 100:
        assert abs(0.3 - end) / math.sqrt(end * (1 - end) / 10**4) == pytest.approx(1.96, abs=0.1)


@pytest.mark.parametrize("first, second", [(0, 0), (5, 5), (0, 1), (0, 10), (10, 0), (3, 9), (12, 2), (40, 71)])
def test_mcnemar_is_the_binomial_test(first, second):
    """Catches a one-sided p, one above 1, and a sum that ends too early: against all outcomes that are as unlikely."""
    n = first + second
    chances = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
    expected = sum(p for p in chances if p <= chances[first])
    assert compare.mcnemar(first, second) == pytest.approx(float(expected))


def test_known_values_of_mcnemar():
    assert compare.mcnemar(0, 10) == pytest.approx(0.001953125) and compare.mcnemar(5, 5) == 1
    assert compare.mcnemar(1, 8) == pytest.approx(0.0390625)


def test_two_checkpoints_are_held_against_each_other(tmp_path, monkeypatch, capsys):
    """Catches counts of other questions, and answers that an evaluation would not give."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=4 --hops=2 --train=20 --valid=2 --test=2 --out_dir=data".split())
    raw, right = data.load_json("data/train.json"), {}
    for method in ("coconut", "cot"):
        run_to_the_end([*hops_flags(), f"--method={method}", f"--out_dir=out/{method}"])
        model, cfg, tok, saved = load_checkpoint(f"out/{method}/best.pt")
        task = make_task(cfg, tok)
        problems = data.encode(raw, cfg, tok)
        prompts = [row.prompt for row in (task.rows(p, saved["stage"], None)[0] for p in problems)]
        texts = [text for text, *_ in solve(model, prompts, cfg, tok, 9)]
        right[method] = [task.read_answer(t) == right_answer(p, task) for t, p in zip(texts, problems)]
        asked = Questions(model, task, raw, "train.json", saved["stage"])
        assert [answer.right for answer in asked.answer(asked.in_evaluation)] == right[method]
    capsys.readouterr()
    compare.main(["out/coconut", "out/cot", "data/train.json", "--device=cpu"])
    said = capsys.readouterr().out
    pairs = [*zip(*right.values())]
    only = pairs.count((True, False)), pairs.count((False, True))
    assert f"only out/coconut/best.pt: {only[0]}, only out/cot/best.pt: {only[1]}; exact McNemar p = " in said
    assert f"both right: {pairs.count((True, True))}, neither: {pairs.count((False, False))}" in said
    assert f"out/cot/best.pt: {percent(sum(right['cot']) / 20, 20)} right" in said and "not about two methods" in said
    assert "expected two checkpoints" in fails(compare.main, ["out/cot"], capsys, monkeypatch)
    assert "no setting 'max_thoughts'" in fails(compare.main, ["a", "b", "--max_thoughts=2"], capsys, monkeypatch)
