"""
Several processes equal one (parallel.py).

Each test names the mistake that it would catch.
"""

import os
import shlex

import pytest
import torch
import warm
from helpers import HERE, command, hops_flags, is_there

import checkpoint
import prepare_hops
import prepare_prosqa
from test_latent import assert_close

LONG = os.environ.get("TRUST") == "long"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]  # after python
SEVERAL = """
import os, shlex, sys
sys.path.insert(0, sys.argv[1])
import train
from checkpoint import team
from config import parse
from curriculum import config_class
team()
for line in open(sys.argv[2]):
    print(line, flush=True)
    argv = shlex.split(line)
    train.train(parse(config_class, argv, ""))
team().stop()
"""


def torchrun(cwd, *argv):
    """train.py in two processes."""
    return warm.run([*TORCHRUN, os.path.join(HERE, "train.py"), *argv], cwd, timeout=300)


def run_several(start, lines):
    """Several runs of train.py after one another, in one process or in two, which start only once."""
    with open("several.py", "w") as script, open("lines.txt", "w") as f:
        script.write(SEVERAL)
        f.write("\n".join(lines))
    done = warm.run([*start, "several.py", HERE, "lines.txt"], timeout=500)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[:5000]
    assert done.stdout.count("test accuracy") == len(lines)  # only one of them talks


def read_log(path):
    return [line.split() for line in open(os.path.join(path, "log.txt"))]


# 50 problems, and batches of 7: an epoch's last one is a single row, with which one of two processes has nothing to do
UNEVEN = "--dropout=0 --batch_size=7 --micro_batch_size=3 --uniform_prob=0.3 --log_every=1 --steps=3,3,8".split()
GRAPHS = r"""--data_dir=graphs --task=graphs '--names= \d+' --markers=eot --thought_targets=walks --losses=members:1
             --block_size=99 --teacher_forcing=0.5 --rounds=2 --pad_latent_to_max""".replace("\n", " ")
CASES = {
    "coconut": "--steps=5,5,8 --eval_every=3",
    "coconut_shard": "--steps=5,5,8 --eval_every=3 --speed=shard",
    "codi": "--method=codi",
    "codi_shard": "--method=codi --speed=shard",
    "pccot": "--method=pccot",
    "lotus": "--method=lotus",
    "simcot": "--method=simcot",
    "stop": "--method=coconut+stop",
    "ponder": "--method=coconut+ponder",
    "sets": f"--method=no_curriculum+sets {GRAPHS} --questions=3",
    "sets_shard": f"--method=no_curriculum+sets {GRAPHS} --speed=shard",
    "sets_shard_shared": f"--method=no_curriculum+sets {GRAPHS} --speed=shard --questions=3",
}
# what another case stands for, unless TRUST=long: a loss that depends on who has which rows, weights apart or not
ALIKE = {"coconut", "codi_shard", "pccot", "lotus", "stop", "sets", "sets_shard"}


def test_two_processes_equal_one(tmp_path, monkeypatch):
    """Catches gradients or losses averaged the wrong way, examples done twice, an evaluation that loses its order; a
    teacher, a distance, a set or a decoder whose loss depends on who has which rows, and one that waits for ever for
    the gradient of a decoder that had nothing to do."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    sizes = ["--nodes=7,8", "--hops=2,3", "--valid=9", "--test=9", "--symbols"]
    prepare_prosqa.main(["--generate=30", *sizes, "--out_dir=graphs"])
    names = CASES if LONG else [name for name in CASES if name not in ALIKE]
    cases = {name: CASES[name] for name in names if is_there(CASES[name])}
    general = shlex.join([*hops_flags(), *UNEVEN])
    for folder, start in (("one", []), ("two", TORCHRUN)):
        run_several(start, [f"{general} {flags} --out_dir={folder}/{name}" for name, flags in cases.items()])
    for name in cases:
        one, two = read_log(f"one/{name}"), read_log(f"two/{name}")
        assert len(one) == len(two) > 20 and all(a[:2] == b[:2] for a, b in zip(one, two)), name
        for a, b in zip(one, two):
            assert float(b[2]) == pytest.approx(float(a[2]), rel=2e-4, abs=1e-5), (name, a, b)
        saved = [torch.load(f"{folder}/{name}/ckpt.pt") for folder in ("one", "two")]
        assert bool(saved[0]["objective"]) == (name == "simcot")
        for part in "model", "objective":  # AdamW divides by small numbers, and so makes small differences large
            for own, other in zip(saved[0][part].values(), saved[1][part].values(), strict=True):
                assert_close(own, other, 1e-2)


def test_two_processes_go_on_as_if_never_stopped(tmp_path, monkeypatch):
    """Catches moments that are put together wrongly, and random numbers of one process that all go on with."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    general = "--data_dir=data --n_layer=1 --n_head=2 --n_embd=16 --device=cpu --dropout=0.1 --batch_size=7"
    lines = []
    for name, speed in (("together", ""), ("shard", "--speed=shard")):
        flags = f"{general} --max_latent_stage=1 {speed}"
        lines += [
            f"{flags} --steps=5,5,8 --out_dir={name}/whole",
            f"{flags} --steps=5,5,4 --out_dir={name}/parts",
            f"{flags} --steps=5,5,8 --out_dir={name}/parts --resume",
        ]
    run_several(TORCHRUN, lines)
    for name in "together", "shard":
        whole, parts = (torch.load(f"{name}/{folder}/ckpt.pt") for folder in ("whole", "parts"))
        assert whole["progress"]["total"] == parts["progress"]["total"] == 18
        assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])


def test_two_processes_talk_as_one(tmp_path, monkeypatch):
    """Catches headers and notes that come once per process, an error that is lost, a share that is shown as the whole,
    and an end in an abort (exit code 1) after the result: one process leaves while the other still needs it."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=1 --out_dir=data".split())
    assert command(tmp_path, "train.py", *hops_flags(), "--steps=1", "--out_dir=out").returncode == 0
    for file, n in (("data/test.json", 1), ("data/valid.json", 9)):
        done = torchrun(tmp_path, "--eval_only=out", f"--eval_file={file}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"out/best.pt: coconut, stage 2; {file}") == 1
        assert done.stdout.count("test accuracy") == 1 and f"answered {n} of {n} questions" in done.stdout
        assert not any(f"answered {n} of {m}" in done.stdout for m in range(n))
    mistakes = (
        (["--batchsize=3"], "error: --batchsize: there is no setting 'batchsize'"),
        ([*hops_flags(), "--out_dir=out"], "error: out/ckpt.pt is there from an earlier run"),
        ([*hops_flags(), "--method=simcot", "--speed=shard", "--out_dir=new"], "error: this method trains something"),
    )
    for argv, error in mistakes if LONG and is_there("--method=simcot") else mistakes[:1]:
        done = torchrun(tmp_path, *argv)
        assert done.returncode != 0 and 1 <= done.stderr.count(error) <= 2, done.stderr  # torchrun ends the second


def test_an_error_of_one_process_ends_both(tmp_path, monkeypatch):
    """Catches a process that waits for ever for the first one, which alone writes files."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    os.mkdir("out")
    with checkpoint.lock("out"):
        done = torchrun(tmp_path, *hops_flags(), "--out_dir=out")
    assert done.returncode != 0 and done.stderr.count("error: out: another run is writing here") == 1, done.stderr
    assert not os.path.exists("out/ckpt.pt")
