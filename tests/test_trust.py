"""
Faults injected and nonsense typed in: nothing is lost, and every mistake is one line.   python -m pytest test_trust.py

The short form runs with all tests. The long one (20 kills, 2,000 files, 300 command lines or config files):
    TRUST=long python -m pytest test_trust.py -s
"""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import warm

import prepare_hops
import train
from checkpoint import load_checkpoint
from config import TrainConfig, cli

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
LONG = os.environ.get("TRUST") == "long"
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = """--data_dir=data --n_layer=1 --n_head=2 --n_embd=16 --dropout=0.1 --device=cpu --max_latent_stage=2
           --batch_size=8 --uniform_prob=0.2 --eval_every=2 --log_every=3""".split()


def start(flags):
    return warm.Fork([os.path.join(HERE, "train.py"), *flags])


def finish(flags):
    """(exit code, what it said on stderr)."""
    with start(flags) as p:
        _, err = p.communicate(timeout=120)
    return p.returncode, err


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--hops=2", "--out_dir=data"])


# ---------------------------------------------------------------- faults


def test_killed_at_random_moments_and_resumed_equals_never_stopped(data_dir):
    """Catches a checkpoint that is half written or incomplete, and a log with gaps or doubled steps."""
    rng, kills, steps = random.Random(6), 20 if LONG else 3, 700 if LONG else 80
    flags = [*FLAGS, f"--steps={steps}"]
    assert finish([*flags, "--out_dir=whole"]) == (0, "")
    n_resumed, began = 0, time.monotonic()
    for _ in range(kills):
        resume = ["--resume"] if os.path.exists("parts/ckpt.pt") else ["--overwrite"]
        with start([*flags, "--out_dir=parts", *resume]) as p:
            while not os.path.exists("parts/ckpt.pt"):  # the first time: until there is something to lose
                time.sleep(0.01)
            before = os.stat("parts/ckpt.pt").st_mtime_ns
            while p.poll() is None and os.stat("parts/ckpt.pt").st_mtime_ns == before:
                time.sleep(0.001)
            time.sleep(rng.random() * 0.5)
            p.send_signal(signal.SIGKILL)
            p.communicate()
        n_resumed += bool(resume == ["--resume"])
    total = torch.load("parts/ckpt.pt")["progress"]["total"]
    assert finish([*flags, "--out_dir=parts", "--resume"]) == (0, "")
    for name in ("ckpt.pt", "best.pt"):
        whole, parts = torch.load(f"whole/{name}")["model"], torch.load(f"parts/{name}")["model"]
        assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert open("whole/log.txt").read() == open("parts/log.txt").read()
    print(f"\n{kills} kills, the last at step {total} of {3 * steps}; {time.monotonic() - began:.0f} s")


def test_disk_full_while_saving(data_dir):
    """Catches a full disk that destroys the checkpoint there is, or ends in a traceback."""
    flags = [*FLAGS, "--out_dir=out", "--steps=5"]
    code, err = finish([*flags, "--steps=5"])
    assert (code, err) == (0, "")
    good = open("out/ckpt.pt", "rb").read()
    limit = len(good) // 2  # the checkpoint does not fit on this "disk", the log does
    shutil.copytree("out", "full")
    os.remove("full/best.pt")
    at = torch.load("full/ckpt.pt")
    at["progress"] |= {"index": 1, "step": 0, "total": 5, "results": at["progress"]["results"][:1]}
    torch.save(at, "full/ckpt.pt")
    before = open("full/ckpt.pt", "rb").read()
    limited = subprocess.run(
        [sys.executable, os.path.join(HERE, "train.py"), *flags, "--out_dir=full", "--resume"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), capture_output=True, text=True,
    )  # fmt: skip
    code, err = limited.returncode, limited.stderr
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "ckpt.pt: cannot be written" in err, err
    assert open("full/ckpt.pt", "rb").read() == before and not os.path.exists("full/ckpt.pt.tmp")
    assert finish([*flags, "--out_dir=full", "--resume"]) == (0, "")


def test_folder_that_cannot_be_written(data_dir):
    code, err = finish([*FLAGS, "--steps=5", "--out_dir=/proc/run"])
    assert code == 2 and err.startswith("error: /proc/run") and err.count("\n") == 1, err


def test_folder_deleted_underneath(data_dir):
    """Catches a long run that is lost because somebody tidied up."""
    with start([*FLAGS, "--steps=150", "--out_dir=out"]) as p:
        while not os.path.exists("out/ckpt.pt"):
            time.sleep(0.01)
        os.rename("out", "gone")  # all at once, whatever is being written
        _, err = p.communicate(timeout=60)
    assert (p.returncode, err) == (0, "")
    assert load_checkpoint("out/ckpt.pt")[3]["progress"]["index"] == 3 and "test/accuracy" in open("out/log.txt").read()


# ---------------------------------------------------------------- nonsense


def outcome(argv, capsys, monkeypatch):
    """(exit code, stderr) of train.py with these arguments, in this process; at most 20 seconds."""
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"it hangs: {argv}"))
    signal.alarm(20)
    try:
        with pytest.raises(SystemExit) as e:
            cli(train.main)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return e.value.code or 0, capsys.readouterr().err


def check(code, err, what):
    assert (code, err) == (0, "") or (code == 2 and err.startswith("error: ") and err.count("\n") == 1), (
        code,
        err,
        what,
    )


STRINGS = [
    "",
    " ",
    "\n",
    "###",
    "<|endoftext|>",
    "<|latent|>",
    "é猫🙂\u0301",
    "\ud83d",
    "a" * 100_000,
    "\x00",
    "{}",
    "٣",
    "2.5",
]
VALUES = [*STRINGS, None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**40, [], {}, [[]], ["a"], {"a": 1}]


def mutated_file(rng, problems):
    """The text (bytes) of a data file with one to three things wrong with it."""
    problems = json.loads(json.dumps(problems))
    for _ in range(rng.randrange(1, 4)):
        p = rng.choice(problems) if problems else {}
        key = rng.choice(["question", "steps", "answer"])
        kind = rng.randrange(7)
        if not isinstance(p, dict):
            continue
        if kind == 0:
            p[key] = rng.choice(VALUES)
        elif kind == 1:
            p.pop(key, None)
        elif kind == 2 and isinstance(p.get("steps"), list):
            p["steps"] = [rng.choice(VALUES if rng.random() < 0.3 else STRINGS) for _ in range(rng.randrange(6))]
        elif kind == 3:
            p[key] = rng.choice(STRINGS)
        elif kind == 4:
            problems[problems.index(p)] = rng.choice(VALUES)
        elif kind == 5:
            p[rng.choice(STRINGS)] = rng.choice(VALUES)
        elif kind == 6 and rng.random() < 0.2:
            problems = rng.choice([[], {}, problems[:1], problems * 2, {"data": problems}, None])
            break
    text = json.dumps(problems, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    kind = rng.randrange(10)
    if kind == 0:
        text = text[: rng.randrange(len(text))]
    elif kind == 1:
        text = bytearray(text)
        for _ in range(rng.randrange(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif kind == 2:
        text = b"\xef\xbb\xbf" + text
    elif kind == 3:
        text = text.replace(b", ", b",\r\n")
    elif kind == 4:
        text = text.replace(b'"answer"', b'"question"', 1)  # the same key twice
    return bytes(text)


def test_broken_data_files(data_dir, capsys, monkeypatch):
    """Catches tracebacks, endless loops, and files written elsewhere."""
    rng, n, outcomes = random.Random(0), 2000 if LONG else 60, {0: 0, 2: 0}
    problems = json.load(open("data/train.json"))[:4]
    for name in ("train", "valid", "test"):
        json.dump(problems, open(f"data/{name}.json", "w"))
    assert finish([*FLAGS, "--steps=1", "--out_dir=run"])[0] == 0
    for _ in range(n):
        name = rng.choice(["train", "valid", "test"])
        text = mutated_file(rng, problems)
        open(f"data/{name}.json", "wb").write(text)
        tokenizer = rng.choice(["words", "chars"])
        flags = [*FLAGS, "--steps=1", "--out_dir=out", "--overwrite", f"--tokenizer={tokenizer}", "--block_size=200"]
        flags = ["--eval_only=run", f"--eval_file=data/{name}.json"] if rng.random() < 0.2 else flags
        code, err = outcome(flags, capsys, monkeypatch)
        check(code, err, text[:500])
        outcomes[code] += 1
        json.dump(problems, open(f"data/{name}.json", "w"))
    assert {*os.listdir(".")} == {"data", "out", "run"}
    assert {*os.listdir("data")} <= {f"{s}.json{end}" for s in ("train", "valid", "test") for end in ("", ".npz")}
    assert min(outcomes.values()) > n / 10, "the mutations are all fatal, or all harmless"
    print(f"\n{n} data files: {outcomes[0]} normal runs, {outcomes[2]} errors in one line")


def test_broken_command_lines_and_config_files(data_dir, capsys, monkeypatch):
    """Catches tracebacks and settings that are taken for something else."""
    rng, n, outcomes = random.Random(1), 300 if LONG else 60, {0: 0, 2: 0}
    assert finish([*FLAGS, "--steps=1", "--out_dir=run"])[0] == 0
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("out_dir", "data_dir", "init_from")]
    values = (
        """ 0 1 -1 2 3.5 1e400 nan inf true True () (1, 1,2 1,,2 [1] {} 'x' None coconut cot chars bot {[]:1} é
                --seed 0x10 1_0""".split()
        + ["", "a b", "\x00", "1" * 5000, "(" * 300]
    )
    fitting = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    fitting = {k: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for k, v in fitting.items()}
    for _ in range(n):
        settings = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(1, 4))]
        settings = [(k, fitting[k] if rng.random() < 0.6 else v) for k, v in settings]
        if rng.random() < 0.3:
            settings = [(name[:-1] if rng.random() < 0.5 else name + "s", value) for name, value in settings]
        last = ["--steps=1", "--out_dir=out", "--overwrite", "--resume=false"]
        if rng.random() < 0.4:
            lines = [f"{name} = {value}\n" for name, value in settings] + [
                rng.choice(["", "", "", "x", "import os\n", "del lr\n", "\x00"])
            ]
            open("config.py", "w").write("".join(lines))
            argv = [*FLAGS[:6], "config.py", *last]
        else:
            argv = [
                *FLAGS,
                *(rng.choice([f"--{k}={v}"] * 5 + [f"--{k}", f"-{k}={v}", f"{k}={v}"]) for k, v in settings),
                *last,
            ]
        if rng.random() < 0.2:  # the same settings of an evaluation, or of a run that is resumed
            how = rng.choice([["--eval_only=run"], ["--out_dir=run", "--resume", "--overwrite=false"]])
            argv = [arg for arg in argv if arg not in last] + how
        code, err = outcome(argv, capsys, monkeypatch)
        check(code, err, (argv, settings))
        outcomes[code] += 1
    assert {*os.listdir(".")} <= {"data", "out", "run", "config.py"}
    assert outcomes[2] > n / 3 and outcomes[0] > n / 30
    print(f"\n{n} command lines and config files: {outcomes[0]} normal runs, {outcomes[2]} errors in one line")


PARTS = {  # of a checkpoint that somebody has changed: (into what, the exit code of --resume)
    "base": [({"dropout": "{}"}, 0), ({"n_head": -1}, 0), ({"vocab_size": 1.5}, 2)],  # the settings have the first two
    "progress": [({"step": (1, 2)}, 2), ({"results": 3}, 2), ({"log_size": "x"}, 2), ({"index": -1}, 2)],
    "optimizer": [({"param_groups": []}, 2), ({"state": 3}, 2)],
    "rng": [(1.5, 2), ([], 2)],
}


@pytest.mark.parametrize("part, values", PARTS.items())
def test_a_changed_part_of_a_checkpoint(part, values, data_dir, capsys, monkeypatch):
    """Catches torch's own words, from deep inside, where a run is resumed."""
    flags = [*FLAGS, "--steps=1", "--out_dir=run"]
    assert train.main(flags) is None
    for value, expected in values:
        saved = torch.load("run/ckpt.pt")
        saved[part] = saved[part] | value if isinstance(value, dict) else value
        torch.save(saved, "run/changed.pt")
        os.replace("run/changed.pt", "run/ckpt.pt")
        code, err = outcome(["--resume", "--out_dir=run"], capsys, monkeypatch)
        check(code, err, (part, value))
        assert code == expected, (part, value)
        assert train.main([*flags, "--overwrite"]) is None


def test_broken_checkpoints(data_dir, capsys, monkeypatch):
    """Catches torch's own words, and a checkpoint that is believed although it is none, or half of one."""
    rng, n, outcomes = random.Random(2), 300 if LONG else 30, {0: 0, 2: 0}
    assert finish([*FLAGS, "--steps=1", "--out_dir=run"])[0] == 0
    whole, saved = open("run/best.pt", "rb").read(), torch.load("run/best.pt")
    for _ in range(n):
        kind, content = rng.randrange(5), bytearray(whole)
        if kind == 0:
            content = content[: rng.randrange(len(content))]
        elif kind == 1:
            for _ in range(rng.choice([1, 3, 1000])):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif kind == 2:
            content = rng.choice([b"", b"hello\n", b"PK\x03\x04", open("data/test.json", "rb").read(), b"\x80\x02."])
        with open("run/best.pt", "wb") as f:
            f.write(content)
        if kind > 2:
            part = rng.choice([saved, saved["config"], saved["base"], saved["model"]])
            key = rng.choice([*part])
            old = part.pop(key)
            if kind == 4:
                part[key] = rng.choice([*VALUES, torch.zeros(2, 3)])
            torch.save(saved, "run/best.pt")
            part[key] = old
        code, err = outcome([f"--eval_only={rng.choice(['run', 'run/best.pt'])}", "--device=cpu"], capsys, monkeypatch)
        check(code, err, (kind, content[:40]))
        outcomes[code] += 1
    print(f"\n{n} checkpoints: {outcomes[0]} evaluated, {outcomes[2]} errors in one line")
