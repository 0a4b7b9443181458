"""
The benchmark measures what it says (bench.py).

Each test names the mistake that it would catch.
"""

import numpy as np
import pytest
from helpers import command

import data
from settings import TrainConfig
from speed import bench


def test_the_benchmark_measures_feedbacks(monkeypatch, capsys):
    """Catches a feedback that cannot be trained at GPT-2's vocabulary."""
    monkeypatch.setattr(bench, "FEEDBACKS", ("gate",))
    bench.main(["--parts=feedbacks", "--thoughts=2", "--batch_size=1", "--rounds=1"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[-2:]] == ["last", "gate"] and float(lines[-2][2]) == 1


def test_the_benchmark_measures(tmp_path):
    """Catches a benchmark that does not run, or that counts padding where there is none."""
    done = command(tmp_path, "speed.bench", "--parts=step,memory", "--thoughts=0,2", "--batch_size=2", "--rounds=1")
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines() if line.startswith("step_over_plain"))
    names = {f"step_over_plain{which}_n{n}" for which in ("", "_with_fast") for n in (0, 2)}
    assert values.keys() == names and min(map(float, values.values())) > 0
    done = command(tmp_path, "speed.bench", "--parts=methods", "--thoughts=6", "--batch_size=2", "--rounds=1")
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines() if "_over_cot_n" in line)
    kinds = set(bench.KINDS) - {"cot"}
    assert values.keys() == {f"{kind}_over_cot_n6" for kind in kinds} and len(kinds) == 8
    assert "takes less than coconut" in done.stdout and min(map(float, values.values())) > 0
    cfg = TrainConfig(batch_size=2, sort_window=1)
    bounds, first = np.array([0, 4, 7, 11, 12]), np.array([0, 2, 4])  # two problems: 4 + 3 and 4 + 1 tokens
    two = data.Problems(np.arange(12), bounds, first)
    assert bench.padding_share(two, 0, cfg) == pytest.approx(
        2 / 18
    )  # prefixes of 5, suffixes of 4 and 2 with their markers
