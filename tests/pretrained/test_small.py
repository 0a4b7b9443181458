"""Small checkpoints, as in assets/: what their command makes, and of use before anything has been trained."""

import dataclasses
import json
import os
import random

import pytest
import torch
from helpers import HERE, fails, hops_flags, only_with, run_to_the_end

import data
import prepare_hops
import sample
from checkpoint import load_checkpoint
from config import Command, parse
from curriculum import config_class
from evaluate import evaluate
from pretrained import export
from pretrained.weights import from_run

HOPS = os.path.join(HERE, "assets", "hops.pt")


def settings(cfg):
    """What makes a model what it is, of the settings."""
    commands = {f.name for f in dataclasses.fields(Command)}
    return {name: value for name, value in dataclasses.asdict(cfg).items() if name not in commands}


def test_the_asset_is_the_quick_starts_model():
    """Catches a model of other settings than configs/hops.py's, or one that has not learned its task."""
    model, cfg, tok, saved = load_checkpoint(HOPS)
    assert settings(cfg) == settings(parse(config_class, [os.path.join(HERE, "configs", "hops.py")], "", True))
    assert saved["stage"] == 4 and os.path.getsize(HOPS) < 1_000_000
    rng = random.Random(20)  # not prepare_hops.py's
    problems = [prepare_hops.make_problem(rng, 10, (4,))[0] for _ in range(200)]
    found = evaluate(model, data.encode(problems, cfg, tok), 4, cfg, tok)
    assert found["accuracy"] >= 0.99 and found["thoughts"] == 4


def test_its_questions_are_the_test_files_first(tmp_path, monkeypatch):
    """Catches questions that the model may have been trained on: prepare_hops.py draws the test file first."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=1", "--valid=1", f"--test={export.QUESTIONS}"])
    assert data.load_json("data/hops/test.json") == data.load_json(HOPS.replace(".pt", ".json"))


@only_with("lab/explore.py")
def test_it_can_be_looked_into_without_data(tmp_path, monkeypatch, capsys):
    """Catches "data/hops/test.json: no such file" before anything has been made."""
    from lab import explore

    monkeypatch.chdir(tmp_path)
    sample.main([HOPS, "--count=2"])
    explore.main([HOPS, "--count=2", "--out=page.html"])
    said = capsys.readouterr().out
    assert "2 of 2 right" in said and "page.html" in said and os.listdir() == ["page.html"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a few steps, in the current folder."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=40 --out_dir=data".split())
    flags = [*hops_flags(), "--steps=2", "--out_dir=out/run"]
    run_to_the_end(flags)
    return flags


@pytest.mark.parametrize("path", ["assets/new.pt", "new.pt"])
def test_a_small_checkpoint_is_the_run_in_half_precision(path, run):
    """Catches weights that stay in half precision, others than the run's, and what only training needs."""
    export.main(["out/run", path])
    large, cfg, _, _ = load_checkpoint("out/run/best.pt")
    small, small_cfg, _, saved = load_checkpoint(path)
    assert {t.dtype for t in saved["model"].values()} == {torch.float16}
    assert settings(cfg) == settings(small_cfg)
    assert not {"progress", "optimizer", "rng", "data"} & saved.keys()
    for name, t in large.state_dict().items():
        assert torch.equal(small.state_dict()[name], t.half().float())
    with open(path.replace(".pt", ".json")) as beside, open("data/test.json") as test:
        assert json.load(beside) == json.load(test)[:30]
    begun, _ = from_run(path, cfg, load_checkpoint(path)[2])
    assert {p.dtype for p in begun.parameters()} == {torch.float32}


def test_a_small_checkpoint_is_not_resumed(run, capsys, monkeypatch):
    """Catches a KeyError's word: it has nothing to go on with."""
    import train

    export.main(["out/run", "new.pt"])
    os.replace("new.pt", "out/run/ckpt.pt")
    assert "ckpt.pt cannot be resumed" in fails(train.main, [*run, "--resume"], capsys, monkeypatch)
