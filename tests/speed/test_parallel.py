"""
Several processes equal one (parallel.py).

Each test names the mistake that it would catch.
"""

import os
import subprocess
import sys

import pytest
import torch
from helpers import HERE, command, hops_flags

from checkpoint import load_checkpoint
from test_latent import assert_close


def test_two_processes_equal_one(tmp_path):
    """Catches gradients or losses averaged the wrong way, examples done twice, an evaluation that loses its order."""
    assert command(tmp_path, "prepare_hops.py", "--train=50", "--valid=9", "--test=9", "--out_dir=data").returncode == 0
    script = os.path.join(HERE, "train.py")
    flags = [
        *hops_flags(),
        "--dropout=0",
        "--batch_size=7",
        "--micro_batch_size=3",
        "--uniform_prob=0.3",
        "--log_every=1",
    ]
    flags += ["--steps=30,20", "--eval_every=10", "--device=cpu"]  # 50 problems: an epoch's last batch is a single row
    assert command(tmp_path, "train.py", *flags, "--out_dir=one").returncode == 0

    def torchrun(*more):
        argv = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", script, *flags, *more]
        done = subprocess.run(argv, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test accuracy") == 1  # only one of them talks

    torchrun("--out_dir=two")
    torchrun("--out_dir=parts", "--shard")
    one = [line.split() for line in open(tmp_path / "one" / "log.txt")]
    for name in ("two", "parts"):
        log = [line.split() for line in open(tmp_path / name / "log.txt")]
        assert len(log) == len(one) > 110 and all(a[:2] == b[:2] for a, b in zip(log, one))
        assert all(abs(float(a[2]) - float(b[2])) <= 1e-5 * max(1, abs(float(a[2]))) for a, b in zip(log, one))
        weights = [load_checkpoint(tmp_path / run / "ckpt.pt")[0].wte.weight for run in ("one", name)]
        assert_close(*weights, 1e-3)  # AdamW divides by small numbers, and so makes small differences large


EACH_METHOD = """
import sys
sys.path.insert(0, sys.argv[1])
import train
from speed import parallel
from config import parse
from settings import TrainConfig
parallel.quiet()
for method in "codi", "pccot", "lotus", "simcot":
    argv = [*sys.argv[3:], f"--method={method}", f"--out_dir={sys.argv[2]}/{method}"]
    train.train(parse(TrainConfig, argv, ""), argv)
parallel.stop()
"""


def test_two_processes_equal_one_for_each_later_method(tmp_path):
    """Catches a teacher, a distance or a decoder whose loss depends on who has which rows, and one that waits for ever
    for the gradient of a decoder that had nothing to do."""
    assert command(tmp_path, "prepare_hops.py", "--train=50", "--valid=9", "--test=9", "--out_dir=data").returncode == 0
    (tmp_path / "each.py").write_text(EACH_METHOD)
    flags = [*hops_flags(), "--dropout=0", "--batch_size=7", "--micro_batch_size=3", "--log_every=1", "--steps=8"]
    for name, start in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node=2"])):
        argv = [sys.executable, *start, "each.py", HERE, name, *flags]
        done = subprocess.run(argv, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0 and done.stdout.count("test accuracy") == 4, done.stderr
    for method in "codi", "pccot", "lotus", "simcot":
        one, two = ([line.split() for line in open(tmp_path / name / method / "log.txt")] for name in ("one", "two"))
        assert len(one) == len(two) > 100 and all(a[:2] == b[:2] for a, b in zip(one, two))
        for a, b in zip(one, two):
            assert float(b[2]) == pytest.approx(float(a[2]), rel=2e-4, abs=1e-5), (method, a, b)
        own = [torch.load(tmp_path / name / method / "ckpt.pt")["objective"] for name in ("one", "two")]
        assert bool(own[0]) == (method == "simcot") and all((own[0][k] - own[1][k]).abs().max() < 1e-3 for k in own[0])


def torchrun(cwd, *argv):
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", os.path.join(HERE, "train.py"), *argv]
    return subprocess.run(run, cwd=cwd, text=True, capture_output=True)


def test_two_processes_talk_as_one(tmp_path):
    """Catches headers and notes that come once per process, an error that is lost, a share that is shown as the whole,
    and an end in an abort (exit code 1) after the result: one process leaves while the other still needs it."""
    sizes = "--nodes=6 --hops=2 --train=50 --valid=9 --test=1 --out_dir=data".split()
    assert command(tmp_path, "prepare_hops.py", *sizes).returncode == 0
    assert command(tmp_path, "train.py", *hops_flags(), "--steps=1", "--out_dir=out").returncode == 0
    for file, n in (("data/test.json", 1), ("data/valid.json", 9)):
        done = torchrun(tmp_path, "--eval_only=out", f"--eval_file={file}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"out/best.pt: coconut, stage 2; {file}") == 1
        assert done.stdout.count("test accuracy") == 1 and f"answered {n} of {n} questions" in done.stdout
        assert not any(f"answered {n} of {m}" in done.stdout for m in range(n))
    for argv, error in (
        (["--batchsize=3"], "error: command line: there is no setting 'batchsize'"),
        ([*hops_flags(), "--out_dir=out"], "error: out/ckpt.pt is there from an earlier run"),
    ):
        done = torchrun(tmp_path, *argv)
        assert done.returncode != 0 and 1 <= done.stderr.count(error) <= 2, done.stderr  # torchrun ends the second
