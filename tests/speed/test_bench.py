"""
The benchmark measures what it says (bench.py).

Each test names the mistake that it would catch.
"""

import numpy as np
import pytest
from helpers import command, only_with

import data
from config import TrainConfig
from speed import bench


def test_the_benchmark_measures_feedbacks(monkeypatch, capsys):
    """Catches a feedback that cannot be trained at GPT-2's vocabulary."""
    monkeypatch.setattr(bench, "FEEDBACKS", ("gate",))
    bench.main(["--parts=feedbacks", "--thoughts=2", "--batch_size=1", "--rounds=1"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[-2:]] == ["last", "gate"] and float(lines[-2][2]) == 1


@pytest.mark.parametrize("flags, names", [((), ("",)), (("--fast",), ("", "_with_fast"))])
def test_the_benchmark_measures(flags, names, tmp_path):
    """Catches a benchmark that does not run, and one that takes time for what nobody has asked for."""
    few = ["--thoughts=0,2", "--batch_size=2", "--rounds=1"]
    done = command(tmp_path, "speed.bench", "--parts=step,memory", *few, *flags)
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines() if line.startswith("step_over_plain"))
    assert values.keys() == {f"step_over_plain{which}_n{n}" for which in names for n in (0, 2)}
    assert min(map(float, values.values())) > 0 and "memory that a step adds" in done.stdout


@only_with(*(f"methods/{name}.py" for name in ("simcot", "codi", "pccot", "lotus")))
def test_the_benchmark_measures_methods(capsys):
    """Catches a method that it knows by an old name."""
    bench.main(["--parts=methods", "--thoughts=6", "--batch_size=2", "--rounds=1"])
    said = capsys.readouterr().out
    values = dict(line.split() for line in said.splitlines() if "_over_cot_n" in line)
    kinds = set(bench.KINDS) - {"cot"}
    assert values.keys() == {f"{kind}_over_cot_n6" for kind in kinds} and len(kinds) == 8
    assert "takes less than coconut" in said and min(map(float, values.values())) > 0


def test_padding_is_counted():
    """Catches padding that is counted where there is none."""
    cfg = TrainConfig(batch_size=2, sort_window=1)
    bounds, first = np.array([0, 4, 7, 11, 12]), np.array([0, 2, 4])  # two problems: 4 + 3 and 4 + 1 tokens
    two = data.Problems(np.arange(12), bounds, first)
    share = bench.padding_share(two, 0, cfg)  # prefixes of 5, suffixes of 4 and 2 with their markers
    assert share == pytest.approx(2 / 18)
