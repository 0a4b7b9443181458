"""
A run that somebody stops, in whatever way, saves and says how to go on; one that is killed leaves a whole checkpoint.

Each test names the mistake that it would catch.
"""

import errno
import io
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from helpers import HERE, command, hops_flags, only_with, run_to_the_end
from warm import Fork

import prepare_hops
import train
from checkpoint import load_checkpoint
from config import UserError

LONG = os.environ.get("TRUST") == "long"
TRAIN = [os.path.join(HERE, "train.py")]  # after python
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", *TRAIN]
# train.py where an evaluation takes for ever, after the first n
SLOW = f"""
import sys, time
sys.path.insert(0, {HERE!r})
import train
evaluate, n = train.evaluate, []
def slow(*args):
    n.append(1)
    if len(n) > int(sys.argv[1]):
        print("evaluating", flush=True)
        time.sleep(500)
    return evaluate(*args)
train.evaluate = slow
train.cli(lambda argv: train.main(argv[1:]))
"""


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Of a run that would take long, in a folder with data."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    return [*hops_flags(), "--steps=100000", "--eval_every=50", "--log_every=5", "--out_dir=out"]


def start(argv, **more):
    """A new process in a group of its own, which can be sent ^C as a terminal does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, text=True, start_new_session=True, **pipes, **more)


def wait_for(text, stream):
    """Read lines until one has the text; returns them."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} has not come: {lines[-5:]}")


def can_be_resumed(said, flags):
    """What was said names a command that goes on with a whole checkpoint."""
    assert load_checkpoint("out/ckpt.pt").state["progress"]["total"] > 0
    again = shlex.split(said[said.index("to go on: ") :].splitlines()[0])[3:]
    assert again[-2:] == ["--resume", "--out_dir=out"] and again[1].endswith("train.py")
    done = command(".", "train.py", "--resume", "--out_dir=out", "--n_layer=2")
    assert done.returncode == 2 and "--n_layer was 1, now 2" in done.stderr


@pytest.mark.parametrize("program", [TRAIN, pytest.param(TORCHRUN, marks=only_with("speed/parallel.py"))])
@pytest.mark.parametrize("how", ["^C", "SIGTERM", "SIGHUP", "head"])
def test_a_run_that_is_stopped_saves(program, how, flags):
    """Catches a run that is lost with its terminal, or with who has read what it says."""
    if program is TORCHRUN and how != "^C" and not LONG:
        pytest.skip("torchrun passes these on as it does ^C: with TRUST=long")
    p = Fork([*program, *flags])
    wait_for("loss", p.stdout)
    if how == "^C":
        os.killpg(p.pid, signal.SIGINT)  # to all of the group, and torchrun passes it on once more
    elif how == "head":
        p.stdout.close()
    else:
        p.send_signal(getattr(signal, how))
    rest = "" if how == "head" else p.stdout.read()
    error = p.stderr.read()
    assert p.wait(100) == (130 if program is TRAIN else 1), error
    can_be_resumed(rest + error, flags)


def test_a_reader_that_leaves_at_tee(flags):
    """Catches ^C in a pipe: tee is gone before the run has said that it stops."""
    p = start(["bash", "-c", f"{shlex.join([sys.executable, *TRAIN, *flags])} | tee log"])
    wait_for("loss", p.stdout)
    os.killpg(p.pid, signal.SIGINT)
    said = p.stdout.read() + p.stderr.read()  # the pipe may have taken what nobody reads
    p.wait(100)
    assert "error" not in said and load_checkpoint("out/ckpt.pt").state["progress"]["total"] > 0


class Full(io.StringIO):
    """A file on a disk that is full after the first progress line."""

    def write(self, text):
        if "ms/step" in self.getvalue():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_what_is_said_finds_no_room(flags, monkeypatch, capsys):
    """Catches a run that is lost since its output goes to a disk that is full."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert train.main(flags) == 130
    can_be_resumed(capsys.readouterr().err, flags)
    full = subprocess.run(
        [sys.executable, *TRAIN, *flags, "--overwrite"], stdout=open("/dev/full", "w"), stderr=subprocess.PIPE
    )
    assert full.returncode == 2 and full.stderr.count(b"\n") == 1  # before it has begun to train: nothing is lost


def test_nohup_is_heeded(flags):
    """Catches a run in the background that ends with the terminal, against its user's word."""
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with start([sys.executable, *TRAIN, *flags], **ignoring) as p:
        wait_for("loss", p.stdout)
        p.send_signal(signal.SIGHUP)
        wait_for("loss", p.stdout)
        assert p.poll() is None
        p.send_signal(signal.SIGTERM)
        p.stdout.read(), p.stderr.read()
    assert p.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("first", [0, 2])
def test_an_evaluation_is_left_at_once(first, number, flags):
    """Catches an hour of validation that has to end before anything is saved, and a step that is trained twice."""
    if (number, first) not in ((signal.SIGINT, 2), (signal.SIGTERM, 0)) and not LONG:
        pytest.skip("the same path for other signals and evaluations: with TRUST=long")
    with open("slow.py", "w") as script:
        script.write(SLOW)
    with Fork(["slow.py", str(first), *flags]) as p:
        wait_for("evaluating", p.stdout)
        began = time.monotonic()
        p.send_signal(number)
        rest = p.stdout.read()
        assert p.wait(60) == 130 and time.monotonic() - began < 30
    can_be_resumed(rest, flags)
    assert load_checkpoint("out/ckpt.pt").state["progress"]["total"] == 50 * (first + 1)


def test_a_run_that_stopped_in_an_evaluation_ends_as_if_it_had_not(flags, monkeypatch):
    """Catches an evaluation that is forgotten, or a stage that goes on after its end."""
    flags = [*flags, "--steps=7,4", "--eval_every=3", "--log_every=2"]
    whole = run_to_the_end([*flags, "--out_dir=whole"])
    evaluate, asked = train.evaluate, []

    def impatient(*args):
        asked.append(1)
        if len(asked) % 2:  # each evaluation is stopped once
            raise train.Stopped
        return evaluate(*args)

    monkeypatch.setattr(train, "evaluate", impatient)
    n = 1
    code = train.main([*flags, "--out_dir=parts"])
    while code == 130:
        code, n = train.main(["--resume", "--out_dir=parts"]), n + 1
    assert code is None and n == 3 + 3 * 3 + 1 + 1  # three a stage, one before each later one
    parts = load_checkpoint("parts/ckpt.pt").state
    assert all(torch.equal(t, parts["model"][name]) for name, t in whole.model.state_dict().items())
    there = open("parts/log.txt").read()
    assert [line for line in there.splitlines(True) if " test/" not in line] == open("whole/log.txt").readlines()


def test_in_a_thread_and_in_a_notebook(flags, monkeypatch):
    """Catches signals that only the main thread may ask for, and handlers and a stdout that stay when it is over."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)], sys.stdout
    found = []
    small = [*flags, "--steps=2", "--overwrite"]
    thread = threading.Thread(target=lambda: found.append(train.main(small)))
    thread.start()
    thread.join()
    assert found == [None]
    train.main(small)
    with pytest.raises(UserError, match="n_head"):
        train.main([*small, "--n_head=3"])
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(train, "train_step", lambda *args: 1 / 0)
        train.main(small)
    assert before == ([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)], sys.stdout)


def test_a_run_is_resumed_without_its_config(flags, monkeypatch, capsys):
    """Catches a list of differences, and a cache of tokens in another format, for who does not give all once more."""
    run_to_the_end([*flags, "--steps=4"])
    kept = {name: os.stat(f"data/{name}").st_mtime_ns for name in os.listdir("data")}
    train.main(["--resume", "--out_dir=out", "--log_every=1"])
    assert "this run has been trained to its end already" in capsys.readouterr().out
    assert kept == {name: os.stat(f"data/{name}").st_mtime_ns for name in os.listdir("data")}
    assert load_checkpoint("out/ckpt.pt").cfg.log_every == 5  # what was given now has not been saved: nothing was done
    with open("same.py", "w") as f:
        f.write("n_layer = 1\nlr = 1e-3\n")
    train.main(["same.py", "--resume", "--out_dir=out"])
    with pytest.raises(UserError, match=r"n_layer in other.py, line 1 was 1, now 3, --lr was \(0.001,\), now \(2.0,\)"):
        open("other.py", "w").write("n_layer = 3\n")
        train.main(["other.py", "--resume", "--out_dir=out", "--lr=2"])


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return map(int, found.split())


@pytest.mark.parametrize(
    "program, kills",
    [(TRAIN, 20 if LONG else 3), pytest.param(TORCHRUN, 10 if LONG else 1, marks=only_with("speed/parallel.py"))],
)
def test_killed_at_any_instant(program, kills, flags):
    """Catches half a checkpoint: whenever it is killed, there is a whole one, or none."""
    if program is TORCHRUN and not LONG:
        pytest.skip("a minute: TRUST=long")
    rng, n_none, totals = random.Random(3), 0, []
    flags = [*flags, "--eval_every=1"]  # it hardly does anything but save and evaluate
    for i in range(kills):
        with Fork([*program, *flags, "--resume" if os.path.exists("out/ckpt.pt") else "--overwrite"]) as p:
            if i % 4:
                wait_for("stage 0", p.stdout)
            time.sleep(rng.random() * (2 if i % 4 else 8))
            for pid in (*children(p.pid), p.pid):  # torchrun's are in groups of their own
                os.kill(pid, signal.SIGKILL)
        n_none += not os.path.exists("out/ckpt.pt")
        for path in ("out/ckpt.pt", "out/best.pt"):
            if os.path.exists(path):
                totals.append(load_checkpoint(path).state["progress"]["total"])
    print(f"\n{kills} kills: {n_none} left no checkpoint, the others whole ones, at steps {totals}")
    if os.path.exists("out/ckpt.pt"):
        assert command(".", "train.py", "--resume", "--out_dir=out", "--help").returncode == 0
