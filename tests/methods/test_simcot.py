"""SIM-CoT: a second model has to write each step, from the thoughts that stand for it alone."""

import pytest
import torch
from helpers import live, needs, words
from torch.nn import functional as F

import curriculum
import data
from config import UserError
from curriculum import Row
from test_latent import assert_close, assert_same_gradients, embeddings, naive_gpt, naive_row

ROWS = [  # two thoughts a group; steps that were merged, groups that stand for nothing
    Row([1, 2], 4, [3, 4], [-100, 4], extra={"steps": [[5], [6, 7, 8, 9]]}),
    Row([9], 0, [4, 8], [4, 8], extra={"steps": []}),
    Row([3, 1, 2], 6, [5], [5], extra={"steps": [[10, 11], [], []]}),
]


class Around:
    """A base model as naive_gpt wants it."""

    def __init__(self, base):
        self.base, self.config, self.embed = base, base.config, base.embed


def as_if_trained(objective):
    """The decoder, with other weights than those of the model, with which it begins."""
    with torch.no_grad():
        for name, p in objective.decoder.named_parameters():
            assert torch.equal(p, objective.model.base.get_parameter(name))
            p.add_(torch.randn_like(p) * 0.1)
    return objective.decoder


def test_the_decoder_writes_steps_from_thoughts(tiny):
    """Catches a group of the wrong thoughts, a mean over the wrong tokens, weights that the model and it share."""
    objective, expected, n = tiny("simcot", feedback="last+vector"), 0, 0
    decoder = Around(as_if_trained(objective))
    for row in ROWS:
        thoughts, E = naive_row(objective.model, *row[:3])[1], embeddings(decoder)
        for k, step in enumerate(row.extra["steps"]):
            if step:
                h = naive_gpt(decoder, torch.cat((thoughts[2 * k : 2 * k + 2], E[step])))[1:-1]
                n, expected = n + 1, expected + F.cross_entropy(h @ E.T, torch.tensor(step))
    batch = data.collate(ROWS)
    total = objective(batch)["decoder"]
    assert objective.counts(batch)["decoder"] == n == 3
    assert_close(total, expected, 1e-10)
    assert_same_gradients(objective, total, expected)
    through = torch.autograd.grad(total, list(objective.model.parameters()), materialize_grads=True)
    assert any(gradient.any() for gradient in through), "thoughts are what it is for"


def test_nothing_to_write_is_a_zero_with_a_gradient(tiny):
    """Catches a batch whose only loss cannot be differentiated: no thoughts at all, or such as stand for nothing."""
    for nothing in [], [[], [], []]:
        objective = tiny("simcot", losses=("ce:0",))
        batch = data.collate([row._replace(extra={"steps": nothing}) for row in ROWS])
        (total,) = objective(batch).values()
        assert total == 0 and objective.counts(batch)["decoder"] == 0
        total.backward()


def test_its_losses_in_bfloat16(tiny):
    """Catches a sum, a logarithm or a difference of large numbers in bfloat16, whose last digit is a 128th."""
    objective, batch = tiny("simcot", dtype=torch.float32), data.collate(ROWS)
    exact = objective(batch)["decoder"]
    with torch.autocast("cpu", torch.bfloat16):
        total = objective(batch)["decoder"]
    assert total.dtype == torch.float32 and total.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize(
    "settings, stage, expected",
    [
        ({}, 0, []),
        ({}, 1, ["c"]),
        ({}, 2, ["c", "d e"]),
        ({}, 3, ["c", "d e f"]),
        ({"max_latent_stage": 5}, 5, ["c", "d e", "f"]),
        ({"max_latent_stage": 5, "pad_latent_to_max": True}, 5, ["c", "d e", "f", "", ""]),
        ({"c_thought": 0}, 2, []),
        ({"method": "coconut+back+simcot"}, 2, ["d e", "f"]),
    ],
)
def test_what_groups_of_thoughts_stand_for(settings, stage, expected):
    """Catches steps that nobody decodes, thoughts of a short problem that stand for another's steps."""
    settings = {"method": "simcot", "c_thought": 2, **settings}
    needs(settings["method"])
    cfg, tok, problem = words(**settings)
    row = curriculum.row_for(problem, stage, cfg, tok)
    assert [tok.decode(text).strip() for text in row.extra["steps"]] == expected
    assert row.n == 2 * len(expected)


def test_a_step_too_long_for_its_decoder_is_one_line():
    """Catches positions that run out in the middle of training: a merged step and its thoughts are read alone."""
    cfg, tok, problem = words(method="simcot", block_size=5, max_latent_stage=1, c_thought=2)
    problem = problem._replace(question=[1])
    with pytest.raises(UserError, match="to write a step from its thoughts takes 6 positions, but block_size is 5"):
        curriculum.row_for(problem, 2, cfg, tok)


@pytest.mark.parametrize("more", [[], ["--c_thought=2"], ["--losses=decoder:0.5,ce:2"]])
def test_it_is_trained_resumed_evaluated_and_sampled(more, tmp_path, monkeypatch, capsys):
    run, said = live("simcot", tmp_path, monkeypatch, capsys, *more)
    assert "thought 3" in said
    best, last = torch.load(run.best), torch.load(run.last)
    assert best["model"].keys() == last["model"].keys() == run.model.state_dict().keys()
    assert "objective" not in best, "the decoder is not used any more"
    decoder = {name.removeprefix("decoder."): value for name, value in last["objective"].items()}
    assert len(decoder) == len(list(run.model.base.parameters()))
    assert not any(torch.equal(value, last["model"][f"base.{name}"]) for name, value in decoder.items())
