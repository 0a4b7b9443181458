"""
The benchmark measures what it says (bench.py).

Each test names the mistake that it would catch.
"""

import os

import numpy as np
import pytest
from helpers import command, only_with

import data
from config import TrainConfig
from speed import bench


def values(said):
    """{name: (value, ratio)} of the lines that the benchmark has printed."""
    lines = [line.split() for line in said.splitlines()]
    return {line[0]: tuple(map(float, line[1:])) for line in lines if len(line) == 3 and "_n" in line[0]}


def test_the_benchmark_measures_feedbacks(monkeypatch, capsys):
    """Catches a feedback that cannot be trained at GPT-2's vocabulary."""
    monkeypatch.setitem(bench.TRAINING, "feedbacks", {name: {"feedback": name} for name in ("last", "gate")})
    bench.main(["--parts=feedbacks", "--thoughts=2", "--batch_size=1", "--rounds=1"])
    found = values(capsys.readouterr().out)
    assert [*found] == ["last_n2", "gate_n2"] and found["last_n2"][1] == 1


@pytest.mark.parametrize(
    "flags, names",
    [
        (["--parts=step,memory"], ("tokens", "thoughts", "memory")),
        (["--parts=step", "--fast"], ("tokens", "thoughts", "thoughts_with_fast")),
    ],
)
def test_the_benchmark_measures(flags, names, tmp_path):
    """Catches a benchmark that does not run, and one that takes time for what nobody has asked for."""
    if "--fast" in flags and os.environ.get("TRUST") != "long":
        pytest.skip("ten seconds more: TRUST=long")
    done = command(tmp_path, "speed.bench", "--thoughts=0,2", "--batch_size=2", "--rounds=1", *flags)
    assert done.returncode == 0, done.stderr
    found = values(done.stdout)
    assert found.keys() == {f"{name}_n{n}" for name in names for n in (0, 2)}
    assert min(map(min, found.values())) > 0 and found["tokens_n2"][1] == 1


@only_with(*(f"methods/{name}.py" for name in ("simcot", "codi", "pccot", "lotus")))
def test_the_benchmark_measures_methods(capsys):
    """Catches a method that it knows by an old name."""
    bench.main(["--parts=methods", "--thoughts=0,6", "--batch_size=2", "--rounds=1"])
    found = values(capsys.readouterr().out)
    assert [*found] == [f"{name}_n6" for name in bench.TRAINING["methods"]] and len(found) == 8
    assert min(map(min, found.values())) > 0 and found["cot_n6"][1] == 1


def test_the_benchmark_measures_bfloat16(capsys, monkeypatch):
    """Catches a setting that does not reach the step: both would take the same time, and nobody would know."""
    asked, train_step = [], bench.train_step
    monkeypatch.setattr(bench, "train_step", lambda *args: asked.append(args[-1].dtype) or train_step(*args))
    bench.main(["--parts=dtype", "--thoughts=0,3", "--batch_size=1", "--rounds=1"])
    assert [*values(capsys.readouterr().out)] == ["float32_n0", "float32_n3", "bfloat16_n0", "bfloat16_n3"]
    assert asked.count("float32") == asked.count("bfloat16") == 4  # two rounds of two


def test_padding_is_counted():
    """Catches padding that is counted where there is none."""
    cfg = TrainConfig(batch_size=2, sort_window=1, max_latent_stage=3)
    bounds, first = np.array([0, 4, 7, 11, 12]), np.array([0, 2, 4])  # two problems: 4 + 3 and 4 + 1 tokens
    two = data.Problems(np.arange(12), bounds, first)
    share = bench.padding_share(two, 0, cfg)  # prefixes of 5, suffixes of 4 and 2 with their markers
    assert share == pytest.approx(2 / 18)
