"""
speed/fast.py gives the same numbers: all tests of test_latent.py once more, and what only it could get wrong.
"""

import copy
import gc
import weakref

import naive
import pytest
import torch
from torch import nn

from speed import fast
from test_latent import *  # noqa: F403
from test_latent import assert_close, batch, gradients, naive_loss, some_rows


@pytest.fixture
def tiny():
    return naive.maker_of_models("gpt2 fast")


both = pytest.mark.parametrize("kind", ["gpt2", "gpt2 fast"])


@both
def test_several_backward_passes_through_one_graph(kind):
    """Catches products that are added twice: by a second pass, or one that did not ask for a weight's gradient."""
    model, rows = naive.maker_of_models(kind)(), some_rows(size=4)
    expected = gradients(model, naive_loss(model, rows))
    loss = model(*batch(rows))[1]
    torch.autograd.grad(loss, model.base.wte.weight, retain_graph=True)
    loss.backward(retain_graph=True)
    for name, p in model.named_parameters():
        assert_close(p.grad, expected[name], 1e-10)
        p.grad = None
    for name, gradient in gradients(model, loss).items():
        assert_close(gradient, expected[name], 1e-10)


@both
def test_second_derivatives_are_right_or_an_error(kind):
    """Catches a wrong number where speed/fast.py cannot differentiate twice."""
    model, rows = naive.maker_of_models(kind)(), some_rows(size=3)

    def twice(loss):
        weights = [model.base.wpe.weight, model.base.h[0].mlp.c_fc.weight]
        first = torch.autograd.grad(loss, weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the only one that can do it
        if kind == "gpt2 fast":
            with pytest.raises(RuntimeError, match="second derivatives"):
                twice(model(*batch(rows))[1])
        else:
            for ours, theirs in zip(twice(model(*batch(rows))[1]), twice(naive_loss(model, rows))):
                assert_close(ours, theirs, 1e-9)


class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.a, self.b = (nn.Parameter(torch.randn(*shape).double()) for shape in ((3, 24), (96, 3)))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


@both
def test_layers_can_be_watched_wrapped_and_without_bias(kind):
    """Catches layers that are read around: hooks that do not fire in training, LoRA that only evaluation has."""
    model, rows = naive.maker_of_models(kind)(), some_rows(size=4)
    mlp = model.base.h[0].mlp
    plain, fired = mlp.c_fc, []
    plain.register_forward_hook(lambda *_: fired.append(1))
    model(*batch(rows))[1].backward()
    model.zero_grad()
    assert len(fired) == 1 + max(row.n for row in rows)
    mlp.c_fc = lora = LoRA(plain)
    plain.bias = None
    loss = model(*batch(rows))[1]
    loss.backward()
    merged = nn.Linear(24, 96).double()
    with torch.no_grad():
        merged.weight.copy_(plain.weight + lora.b @ lora.a)
        merged.bias.zero_()
    mlp.c_fc = merged
    expected = naive_loss(model, rows)
    gradient = torch.autograd.grad(expected, merged.weight)[0]
    assert_close(loss, expected, 1e-10)
    assert_close(plain.weight.grad, gradient, 1e-10)
    assert_close(lora.a.grad, lora.b.T @ gradient, 1e-10)
    assert_close(lora.b.grad, gradient @ lora.a.T, 1e-10)


@both
def test_a_step_is_freed(kind):
    """Catches graphs that refer to themselves, and so are never freed."""
    model, inputs = naive.maker_of_models(kind)(), batch(some_rows(size=4))[:4]
    thinking = model.think(*inputs)
    loss = model.head(thinking.predicting).square().mean()
    alive = [weakref.ref(k) for passes in thinking.past.layers for k, _ in passes]
    torch.autograd.grad(loss, model.base.h[0].mlp.c_fc.weight, retain_graph=True)
    del loss, thinking
    gc.collect()
    assert all(ref() is None for ref in alive) and fast.STEP is None
    copy.deepcopy(model)
