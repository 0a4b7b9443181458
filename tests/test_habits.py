"""
Habits of users: what they give a script, where they run it, and what they change their minds about.

Each test names the mistake that it would catch.
"""

import dataclasses
import math

import pytest
from helpers import PROBLEM, words

import data
import evaluate
import prepare_addition
import prepare_hops
from config import UserError, parse
from settings import TrainConfig

# ---------------------------------------------------------------- extremes


@pytest.mark.parametrize("cls", [TrainConfig, prepare_hops.HopsConfig, prepare_addition.AdditionConfig])
def test_every_integer_has_a_bound(cls):
    """Catches a loop that would take a year in silence, and numbers that numpy and torch cannot hold."""
    for field in dataclasses.fields(cls):
        if type(field.default) is int:
            with pytest.raises(UserError, match=f"{field.name} = 1{'0' * 20}, expected at most"):
                parse(cls, [f"--{field.name}=1{'0' * 20}"], "")
            assert math.isfinite(field.metadata["range"][0])


def test_many_stages_are_looked_through_at_once(monkeypatch):
    """Catches a check that makes a row for each stage, however many there are, and one that misses a long stage."""
    cfg, tok, _ = words(max_latent_stage=1000, block_size=14)
    problems, asked = data.encode([PROBLEM] * 20_000, cfg, tok), []
    data.check_lengths(problems, cfg, tok, "x.json")  # nothing can be too long, so there is nothing to be looked at
    monkeypatch.setattr(data, "make_row", lambda *args, make_row=data.make_row: asked.append(1) or make_row(*args))
    cfg.block_size = 10
    with pytest.raises(UserError, match=r"example 0 is too long: 3 \+ 0 \+ 8 positions .* at stage 0"):
        data.check_lengths(problems, cfg, tok, "x.json")
    cfg.block_size, cfg.pad_latent_to_max = 600, True
    with pytest.raises(UserError, match=r"example 0 is too long: 3 \+ 1000 \+ 4 positions"):
        data.check_lengths(problems, cfg, tok, "x.json")
    assert len(asked) < 10


@pytest.mark.parametrize(
    "settings, stage, n_steps, text",
    [
        ({"pad_latent_to_max": True}, 2, 0, "no problem has steps: 2 continuous thoughts, and then nothing is written"),
        ({"method": "pause", "pad_latent_to_max": True}, 3, 0, "no problem has steps: 2 <pause> tokens, and then"),
        ({}, 2, 0, "no problem has steps: nothing is written but the answer"),
        ({}, 0, 3, "every step is written"),
        ({}, 1, 3, "1 continuous thought in place of the first step, the others are written"),
    ],
)
def test_a_stage_is_described_as_it_is(settings, stage, n_steps, text):
    """Catches "every step is written" where there are none, and thoughts that are not mentioned."""
    assert evaluate.describe(TrainConfig(max_latent_stage=2, **settings), stage, n_steps).startswith(text)
