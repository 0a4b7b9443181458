"""What later papers feed back: each against the plain formula, one thought at a time."""

import pytest
import torch
from naive import maker_of_objectives

from config import UserError
from feedback import make_feedback
from test_latent import check_feedback, embeddings, naive_soft, think_without_numbers


def naive_gate(h, model, i):
    gate, E = model.feedback.parts[0], embeddings(model)
    p = (h[-1] @ E.T).softmax(-1)
    e, mean = E[p.argmax()], p @ E / (p**2).sum() ** 0.5
    r, share = (1 / (1 + (-(w.weight @ e + w.bias)).exp()) for w in (gate.r, gate.i))
    a = (-8 * (1 + (-gate.L).exp()).log() * r).exp()
    return a * e + (1 - a**2) ** 0.5 * share * mean


def naive_projection(h, model, i):
    _, first, _, second, norm = model.feedback.parts[0].layers
    x = first.weight @ h[-1] + first.bias
    x = second.weight @ (x * (1 + torch.erf(x / 2**0.5)) / 2) + second.bias
    return (x - x.mean()) / (x.var(correction=0) + norm.eps) ** 0.5 * norm.weight + norm.bias


def naive_members(h, model, sharpness):
    E = embeddings(model)
    return (1 / (1 + (sharpness * (4 - h[-1] @ E.T)).exp())) @ E


def naive_suppressed(h, first):
    pairs = list(zip(h, h[1:]))[first:]
    return sum(after * (after - before < -0.1) for before, after in pairs)


NAIVE = {  # as NAIVE_FEEDBACKS in test_latent.py
    "suppressed:0.5": lambda h, m, i: naive_suppressed(h, 2),
    "suppressed:0": lambda h, m, i: naive_suppressed(h, 0),
    "suppressed:0.9": lambda h, m, i: 0 * h[3],
    "fusion:0.6": lambda h, m, i: 0.6 * h[3] + 0.4 * naive_soft(h, m, i, 1, 0.9),
    "members": lambda h, m, i: naive_members(h, m, 1),
    "members:3": lambda h, m, i: naive_members(h, m, 3),
    "layer:-2+suppressed:0.5": lambda h, m, i: h[2] + naive_suppressed(h, 2),
    "projection": naive_projection,
    "gate": naive_gate,
}


def model(name):
    return maker_of_objectives("gpt2")("coconut", n_layer=3, feedback=name).model


@pytest.mark.parametrize("name", NAIVE)
def test_what_is_fed_back(name):
    """Catches a layer that is off by one, a mask with a gradient, and weights that get none."""
    check_feedback(model(name), NAIVE[name])


@pytest.mark.parametrize("name", NAIVE)
def test_thinking_never_waits_for_a_gpu(name):
    """Catches what asks for a number between two thoughts, and most of what is made on the wrong device."""
    think_without_numbers(model(name))


@pytest.mark.parametrize(
    "name, said",
    [
        ("suppressed:3", "start = 3, expected a number from 0 to 1"),
        ("last+fusion:x", "share = x, expected a number from 0 to 1"),
        ("members:0", "sharpness = 0, expected a number from 0.001 to 1000"),
        ("projection:2", "dropout = 2, expected a number from 0 to 1"),
        ("gate:1", "gate takes no numbers"),
    ],
)
def test_a_number_that_cannot_be(name, said):
    """Catches a number that is taken, and makes thoughts of nothing; a message that does not say what would do."""
    with pytest.raises(UserError) as e:
        make_feedback(name, 8, 2)
    assert str(e.value) == f"feedback = {name!r}: {said}"
