"""LOTUS: all thoughts at once, each made again in its own place; each should name one token of its step."""

import pytest
import torch
from helpers import live, words
from naive import naive_parallel
from torch.nn import functional as F

import curriculum
import data
from checkpoint import new_base
from methods import lotus
from test_latent import (
    assert_close,
    assert_same_gradients,
    batch,
    embeddings,
    naive_gpt,
    some_rows,
    think_without_numbers,
)


@pytest.mark.parametrize("feedback", ["last", "soft"])
def test_thoughts_in_place(feedback, tiny):
    """Catches states added to the wrong thought, pads that get lost after a pass, or get no gradient, and a step's
    tokens that are asked for from the states of an earlier pass."""
    objective, tokens_asked = tiny("lotus", passes=2, feedback=feedback), 0
    model, rows, expected = objective.model, some_rows(size=8), {"ce": 0, "step_tokens": 0}
    rows = [row._replace(extra={"tokens": [5 + i if i % 3 != 1 else -1 for i in range(row.n)]}) for row in rows]
    written = []
    for row in rows:
        logits, thoughts = naive_parallel(model, *row[:3], in_place=True)
        written.append(thoughts)
        expected["ce"] += F.cross_entropy(logits[:-1], torch.tensor(row.labels), reduction="sum")
        E = embeddings(model)
        h = naive_gpt(model, torch.cat((E[row.prefix], thoughts)))[len(row.prefix) :]
        for state, token in zip(h, row.extra["tokens"]):
            if token >= 0:
                tokens_asked += 1
                expected["step_tokens"] += F.cross_entropy(state @ E.T, torch.tensor(token))
    found, counts = objective(data.collate(rows)), objective.counts(data.collate(rows))
    assert counts["step_tokens"] == tokens_asked > 3
    for name, total in found.items():
        assert_close(total, expected[name], 1e-10)
        assert_same_gradients(model, total, expected[name])
    gradient = torch.autograd.grad(found["ce"], model.own.weight)[0]
    assert gradient[: max(row.n for row in rows)].abs().sum(1).min() > 0
    _, thoughts = model.generate(*batch(rows)[:3], max_new_tokens=1, return_thoughts=True)
    for own, its, row in zip(thoughts, written, rows):
        assert not row.n or (own - its).abs().max() < 1e-10 * its.abs().max()
        fed_back = its - torch.stack([*model.start(row.n)[0]]) if row.n else its
        assert not row.n or (model.bare(own) - fed_back).abs().max() < 1e-10 * its.abs().max()


def test_thinking_never_waits_for_a_gpu(tiny):
    """Catches what asks for a number between two passes."""
    think_without_numbers(tiny("lotus", passes=2).model)


@pytest.mark.parametrize("c, tokens", [(1, "cd"), (2, "c-de"), (3, "c--de-")])
def test_which_tokens_thoughts_should_name(c, tokens):
    """Catches a token at the thought before its own, a step that runs into the next one's thoughts."""
    cfg, tok, problem = words(method="lotus", c_thought=c)
    row = curriculum.row_for(problem, 3, cfg, tok)
    assert "".join("-" if t < 0 else tok.decode([t]).strip() for t in row.extra["tokens"]) == tokens
    assert row.n == 2 * c and row.labels[1:] == problem.answer


def test_hits_are_those_of_the_states_at_the_thoughts():
    """Catches a state that is off by one, and thoughts counted without those that name nothing."""
    cfg, tok, problem = words(method="lotus", c_thought=3, n_embd=24, n_head=3)
    torch.manual_seed(0)
    model = curriculum.make_model(new_base(cfg, tok), cfg, tok)
    found = lotus.measure(model, [problem], 3, cfg, tok)
    batch = data.collate([curriculum.row_for(problem, 3, cfg, tok)])
    with torch.no_grad():
        top = model.head(model.think(*batch[:4]).states)[0].argmax(-1).tolist()
    tokens = batch.extra["tokens"][0].tolist()
    expected = {f"thought_{i + 1}": float(top[i + 1] == t) for i, t in enumerate(tokens) if t >= 0}
    assert found == expected and [*expected] == ["thought_1", "thought_4", "thought_5"]


@pytest.mark.parametrize("method", ["lotus", "coconut+lotus"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    run, said = live(method, tmp_path, monkeypatch, capsys, "--passes=2", "--c_thought=2")
    assert "thought 6" in said and run.objective.weights == {"ce": 1.0, "step_tokens": 0.05}
    assert " valid/thought_1 " in open(f"{tmp_path}/out/whole/log.txt").read()
