"""lab/depth.py: when a run ends, and a run from its beginning to its line of the table."""

import csv
import os
import types

import pytest
from helpers import command

from config import UserError
from lab.depth import DepthRun

ARGS = types.SimpleNamespace(minutes=60.0, out="out/depth", stage_steps=2500, lr=5e-4)


def points(*accuracies, stage=2):
    """An evaluation every 100 steps: [core-seconds, steps, stage, steps of the stage, accuracy]."""
    return [[float(i), 100 * i, stage, 100 * i, value] for i, value in enumerate(accuracies, 1)]


@pytest.mark.parametrize(
    "seen, seconds, expected",
    [
        ([], 9999, ""),  # nothing to test yet
        (points(0.1, 0.5), 10, ""),
        (points(0.1, 0.5), 3601, "time"),
        (points(0.1, 0.999), 10, "mastered"),
        (points(0.1, 0.999, stage=1), 10, ""),  # the stage before the last
        (points(*[0.1] * 30, stage=3), 10, "stands still"),  # no_cot: its one stage comes after all of thoughts
        (points(*[0.1] * 29), 10, ""),  # too early to say
        (points(*[0.1] * 30), 10, "stands still"),
        (points(*(0.1 + i / 100 for i in range(30))), 10, ""),  # ten points in the last third
        (points(*(0.1 + 0.3 * (i % 2) for i in range(72))), 10, "stands still"),  # noise
    ],
)
def test_when_a_run_ends(seen, seconds, expected, tmp_path, monkeypatch):
    """Catches a run that is cut off while it learns, and one that never ends."""
    monkeypatch.chdir(tmp_path)
    run = DepthRun(ARGS, "2x4", "pause_as_thought", 1)
    run.state.update(points=seen, cpu=seconds)
    assert run.ended() == expected


def test_its_table_is_drawn(tmp_path, capsys):
    """Catches a column by another name, seeds that are joined by a line, and somebody else's file."""
    plot = pytest.importorskip("lab.plot")
    pytest.importorskip("matplotlib")
    runs = [
        {"arrows": a, "layers": n, "method": method, "seed": seed, "test": 0.1 * n + 0.01 * seed}
        for a in (2, 4) for n in (1, 4) for method in ("coconut", "pause_as_thought") for seed in (1, 2)
        if (a, method) != (4, "pause_as_thought")
    ]  # fmt: skip
    left, right = plot.draw_depth(runs).axes
    assert [line.get_label() for line in left.lines if line.get_label()[0] != "_"] == [
        "thoughts",
        "pauses in their place",
    ]
    assert [*left.lines[0].get_xdata()] == [1, 4] and [*left.lines[0].get_ydata()] == pytest.approx([0.115, 0.415])
    assert [*left.lines[1].get_ydata()] == pytest.approx([0.11, 0.12, 0.41, 0.42]) and right.get_title() == "4 arrows"
    assert len(right.lines) == 3  # thoughts, their seeds, chance
    with open(tmp_path / "x.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, runs[0])
        writer.writeheader()
        writer.writerows(runs)
    plot.main([str(tmp_path / "x.csv")])
    assert (tmp_path / "x.png").exists()
    (tmp_path / "y.csv").write_text("a,test\n1,2\n")
    with pytest.raises(UserError, match="not what lab.depth has written"):
        plot.main([str(tmp_path / "y.csv")])


@pytest.mark.skipif(os.environ.get("TRUST") != "long", reason="half a minute: TRUST=long")
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="seconds of a core are read in /proc, on Linux")
def test_a_run_has_a_line_and_is_not_run_again(tmp_path):
    """Catches a command that another version of train.py does not take, and a table without what was measured."""
    sizes = "--nodes=6 --hops=2 --train=200 --valid=20 --test=20 --out_dir=data/hops2".split()
    command(tmp_path, "prepare_hops.py", *sizes).check_returncode()
    flags = "--cells=2x1 --methods=coconut --minutes=0".split()  # until its first evaluation
    done = command(tmp_path, "lab.depth", *flags)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out/depth.csv") as file:
        (line,) = csv.DictReader(file)
    assert (line["arrows"], line["layers"], line["method"], line["end"]) == ("2", "1", "coconut", "time")
    assert 0 <= float(line["test"]) <= 1 and int(line["steps"]) >= 100
    again = command(tmp_path, "lab.depth", *flags)
    assert again.returncode == 0 and again.stdout == ""  # nothing was run
