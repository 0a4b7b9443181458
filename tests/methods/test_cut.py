"""Partial backpropagation: no gradient goes into a row's thoughts but the last so many."""

import pytest
import torch
from helpers import live
from torch.nn import functional as F

from curriculum import Row
from test_latent import assert_close, assert_same_gradients, batch, naive_row, some_rows, think_without_numbers


@pytest.mark.parametrize("feedback", ["last", "last+vector"])
@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_gradients_of_cut_thoughts(keep, feedback, tiny):
    """Catches a cut thought that lets gradient through, or one that depends on the thoughts of its neighbours."""
    model, rows = tiny("coconut+cut", feedback=feedback, backprop_thoughts=keep).model, some_rows(size=4)
    logits = [naive_row(model, *row[:3], cut=max(0, row.n - keep))[0][:-1] for row in rows]
    labels = torch.tensor(sum((row.labels for row in rows), []))
    expected, loss = F.cross_entropy(torch.cat(logits), labels), model(*batch(rows))[1]
    assert_close(loss, expected, 1e-10)
    assert_same_gradients(model, loss, expected)


def test_cutting_thoughts_off_frees_their_memory(tiny):
    """Catches graphs of cut thoughts that are kept alive by something that goes on."""

    def graph_size(keep):
        model = tiny("coconut+cut", backprop_thoughts=keep).model
        nodes, left = set(), [model(*batch([Row([1, 2, 3], 8, [4], [4])]))[1].grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                left += [before for before, _ in node.next_functions]
        return len(nodes)

    assert graph_size(1) < 0.3 * graph_size(9)


def test_thinking_never_waits_for_a_gpu(tiny):
    """Catches what asks for a number between two thoughts."""
    think_without_numbers(tiny("coconut+cut", backprop_thoughts=2).model)


@pytest.mark.parametrize("method", ["coconut+cut", "simcot+cut", "cut+seq_vcr", "codi+cut"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    run, said = live(method, tmp_path, monkeypatch, capsys, "--backprop_thoughts=1")
    assert "thought 3" in said and run.model.keep == 1
