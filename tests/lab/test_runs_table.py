"""
Several runs by one command, and their table (runs.py).

Each test names the mistake that it would catch.
"""

import csv
import os
import re
import signal
import time

import pytest
from helpers import command, fails, hops_flags
from warm import Fork

from evaluate import percent
from lab import runs
from lab.plot import read_log

FLAGS = [flag for flag in hops_flags() if not flag.startswith("--dropout")]
PREPARE = "--nodes=6 --hops=2 --train=50 --valid=9 --test=20 --out_dir=data".split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a folder in which two methods have been run with two seeds each, of which one run failed; what was said)."""
    folder = tmp_path_factory.mktemp("runs")
    assert command(folder, "prepare_hops.py", *PREPARE).returncode == 0
    (folder / "out/x-coconut-2").mkdir(parents=True)
    (folder / "out/x-coconut-2/ckpt.pt").write_text("no checkpoint")
    return folder, run(folder)


def run(folder, *more, methods="cot,coconut"):
    flags = [*FLAGS, "--steps=2", "--out_dir=out/x", "--jobs=2", "--relative_to=cot"]
    return command(folder, "lab.runs", f"method={methods}", "seed=1,2", *flags, *more)


def table(text):
    """{first cell: the other cells} of the Markdown table in a text."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len({len(row) for row in rows}) == 1 and set(rows[1]) == {"---"}
    return {row[0]: row[1:] for row in rows[:1] + rows[2:]}


def test_the_table_is_what_the_logs_have(made):
    """Catches seeds in the wrong row, numbers of another stage, and a run that fails and takes others with it."""
    folder, done = made
    rows = table(done.stdout)
    assert done.returncode == 1 and [*rows] == ["method", "cot", "coconut"]
    with open(folder / "out/x.csv") as file:
        lines = {line["out_dir"]: line for line in csv.DictReader(file)}
    assert [*lines] == [f"out/x-{method}-{seed}" for method in ("cot", "coconut") for seed in (1, 2)]
    failed = lines.pop("out/x-coconut-2")
    assert failed["status"].startswith("failed: out/x-coconut-2/ckpt.pt: not a checkpoint") and not failed["accuracy"]
    assert failed["status"] in done.stdout and "Traceback" not in done.stdout + done.stderr
    logs = {path: read_log(folder / path / "log.txt") for path in lines}
    for path, line in lines.items():
        assert line["status"] == "finished" and float(line["seconds"]) > 0.5 < float(line["cpu_seconds"])
        for name in ("accuracy", "tokens", "thoughts", "thought_norm", "loss"):
            assert float(line[name]) == logs[path][f"test/{name}"][-1][1]
    low, high = sorted(100 * logs[f"out/x-cot-{seed}"]["test/accuracy"][-1][1] for seed in (1, 2))
    tokens = [
        sum(log["test/tokens"][-1][1] for log in of) / len(of) for of in ([*logs.values()][:2], [*logs.values()][2:])
    ]
    one = 100 * logs["out/x-coconut-1"]["test/accuracy"][-1][1]
    assert rows["cot"][:4] == [f"{(low + high) / 2:.1f} ({low:.1f}-{high:.1f})", f"{tokens[0]:.1f}", "0.0", "6"]
    failed = f"{one:.1f} ({one:.1f}-{one:.1f}), out/x-coconut-2 failed"
    assert rows["coconut"][:4] == [failed, f"{tokens[1]:.1f}", "2.0", "6"]  # 3 stages of 2 steps
    assert rows["cot"][-1] == "1.00" and 0.2 < float(rows["coconut"][-1]) < 5


def test_what_is_finished_is_not_made_again(made):
    """Catches runs that are made twice, a figure that changes, one that is kept though its settings are others."""
    folder, first = made
    paths = [folder / f"out/x-{name}/ckpt.pt" for name in ("cot-1", "cot-2", "coconut-1")]
    before = [os.stat(path).st_mtime_ns for path in paths]
    done = run(folder)
    assert "4 runs, 3 of them finished before" in done.stdout
    assert [os.stat(path).st_mtime_ns for path in paths] == before and table(done.stdout) == table(first.stdout)
    done = run(folder, "--lr=0.5", methods="cot")
    assert [os.stat(path).st_mtime_ns for path in paths] == before
    assert done.stdout.count("lr was (0.001,), now (0.5,)") == 2
    assert table(done.stdout)["cot"] == ["out/x-cot-1 failed, out/x-cot-2 failed", *["-"] * 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stopped_runs_are_resumed(number, tmp_path):
    """Catches work that is lost, a closed terminal in which runs go on unseen, ^C that reaches a run twice or not at
    all, and a resumed run that ends elsewhere."""
    if number == signal.SIGHUP and os.environ.get("TRUST") != "long":
        pytest.skip("the same path as ^C: TRUST=long")
    assert command(tmp_path, "prepare_hops.py", *PREPARE).returncode == 0
    flags = [*FLAGS, "--steps=100", "--eval_every=50"]
    argv = ["method=cot", "seed=1,2", *flags]
    log = tmp_path / "out/stopped-cot-1/log.txt"
    stopped = Fork(["-m", "lab.runs", *argv, "--out_dir=out/stopped"], tmp_path)
    while not (log.exists() and " train/loss " in log.read_text()):
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.send_signal(number)
    said = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 130 and said.count(" interrupted") == 2 and "to go on: python -m lab.runs " in said
    assert not (tmp_path / "out/stopped-cot-2").exists() and "stopped-cot-2 not begun" in said
    at = max(step for step, _ in read_log(log)["train/loss"])
    assert 0 < at < 300 and "test/accuracy" not in read_log(log)

    done = command(tmp_path, "lab.runs", *argv, "--out_dir=out/stopped")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(going on after step" in (tmp_path / "out/stopped-cot-1/run.txt").read_text()
    assert len(read_log(tmp_path / "out/stopped-cot-1/took.txt")["seconds"]) == 2  # and both are counted
    whole = command(tmp_path, "train.py", "--method=cot", "--seed=1", *flags, "--out_dir=out/whole")
    assert whole.returncode == 0 and log.read_text() == (tmp_path / "out/whole/log.txt").read_text()


def test_old_results_do_not_pass_for_new_ones(tmp_path):
    """Catches a table of runs that were to be overwritten, and of runs on data that are no longer there."""
    assert command(tmp_path, "prepare_hops.py", *PREPARE).returncode == 0
    argv = ["method=cot", "seed=1,2", *FLAGS, "--steps=1", "--out_dir=out/x/", "--jobs", "2"]
    first = command(tmp_path, "lab.runs", *argv)
    single = command(tmp_path, "lab.runs", *argv, "seed=2")  # which is there: one run has an interval, not a range
    share = read_log(tmp_path / "out/x-cot-2/log.txt")["test/accuracy"][-1][1]
    assert table(single.stdout)["cot"][0] == percent(share, 20).replace("%", "") and "(Wilson)" in single.stdout
    assert first.returncode == 0 and "2 of them finished" in command(tmp_path, "lab.runs", *argv).stdout
    assert sorted(os.listdir(tmp_path / "out")) == ["x-cot-1", "x-cot-2", "x.csv"]
    os.utime(tmp_path / "data/valid.json")  # written again, but with the same content
    again = command(tmp_path, "lab.runs", *argv).stdout
    assert "2 runs, 0 of them finished" in again and table(again)["cot"][0] == table(first.stdout)["cot"][0]
    assert command(tmp_path, "prepare_hops.py", *PREPARE, "--seed=2").returncode == 0
    other = command(tmp_path, "lab.runs", *argv)
    assert other.returncode == 1 and other.stdout.count("failed: out/x-cot-") == 2
    os.rename(tmp_path / "data", tmp_path / "moved")
    failed = command(tmp_path, "lab.runs", *argv, "--overwrite")
    assert failed.stdout.count("failed: data/train.json: no such file") == 2
    assert not list(tmp_path.glob("out/*/*.pt"))


@pytest.mark.parametrize(
    "argv, folders, values",
    [
        (["seed=1,2"], ["x-1", "x-2"], ["1", "2"]),
        (["losses=ce:1;ce:1,stop:2", "--method=coconut+stop"], ["x-ce_1", "x-ce_1,stop_2"], ["ce:1", "ce:1,stop:2"]),
        (["method=coconut+stop,coconut+ponder"], ["x-coconut+stop", "x-coconut+ponder"],
         ["coconut+stop", "coconut+ponder"]),
        (["steps=3,4"], ["x-3", "x-4"], ["3", "4"]),
        (["method=lotus", "--losses=step_tokens:1"], ["x-lotus"], ["lotus"]),  # which coconut could not have
        ([], ["x"], []),
    ],
)  # fmt: skip
def test_values_may_have_commas(argv, folders, values):
    """Catches a list that is cut where it should not be, and folders in which values make another folder."""
    for name in re.findall("lotus|stop|ponder", " ".join(argv)):
        pytest.importorskip(f"methods.{name}")
    _, jobs = runs.plan([*argv, "--out_dir=out/x", "--jobs=2"])
    assert [job.cfg.out_dir for job in jobs] == [f"out/{folder}" for folder in folders]
    assert [value for job in jobs for value in job.values.values()] == values


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["methd=cot"], ["no setting 'methd'; did you mean method?"]),
        (["method=cot,none"], ["'none' would be methods/none.py, which is not there; expected it, or one of coconut"]),
        (["losses=ce:2;stop:2"], ["losses = 'stop:2', expected NAME:WEIGHT with a name of ce"]),
        (["feedback=last;lst"], ["feedback = 'lst': 'lst' is none of last", "did you mean last?"]),
        (["seed=1,1"], ["different values"]),
        (["out_dir=a,b"], ["different values", "out_dir"]),
        (["seed=1,2", "--resume"], ["resume has no place here"]),
        (["seed=1,2", "--out=/"], ["--out=/: a folder"]),
        (["seed=1,2", "--jobs=0"], ["jobs = 0, expected at least 1"]),
        (["method=cot,no_cot", "--relative_to=no_cto"], ["--relative_to=no_cto", "did you mean no_cot?"]),
    ],
)
def test_mistakes_are_found_before_anything_is_run(argv, parts, tmp_path, capsys, monkeypatch):
    """Catches the tenth of twelve runs that fails after a night."""
    monkeypatch.chdir(tmp_path)
    error = fails(runs.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error
    assert not os.listdir(tmp_path)
