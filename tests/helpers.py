"""What several test files use: problems in words, scripts run as a user would, and runs stopped at will."""

import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
import warm

import curriculum
import data
import prepare_hops
import sample
import train
from config import cli, parse
from curriculum import TABLE_1, config_class
from pretrained import hub
from tokenizer import BOT, EOS, EOT, PAUSE, make_tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the project
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # also in the commands that tests run

PROBLEM = {"question": "a b", "steps": ["c", "d e", "f"], "answer": "g"}
FORMATS = dict(question_format=" {}", step_format=" {}", answer_format=" = {}")


def words(**settings):
    """(cfg, tokenizer, the problem in tokens) for the problem above."""
    settings = {"tokenizer": "words", **FORMATS, "max_latent_stage": 2, **settings}
    cfg = config_class(settings)(**settings)
    tok = make_tokenizer("words", data.find_pieces([PROBLEM], cfg))
    return cfg, tok, data.encode([PROBLEM], cfg, tok)[0]


def spell(row, tok):
    """A row as text: prefix | number of thoughts | suffix; tokens that are not scored stand in []."""
    prefix, n, suffix, labels, *_ = row
    assert all(label in (token, -100) for token, label in zip(suffix, labels))
    scored = "".join(
        tok.decode([t]) if t == label else f" [{tok.decode([t]).strip()}]" for t, label in zip(suffix, labels)
    )
    text = f"{tok.decode(prefix)} | {n} |{scored}"
    for token, name in ((BOT, "<bot>"), (EOT, "<eot>"), (PAUSE, "<pause>"), (EOS, "<eos>")):
        text = text.replace(token, " " + name).replace("[ ", "[")
    return text


TINY = (
    "--data_dir=data --n_layer=1 --n_head=2 --n_embd=16 --device=cpu --eval_every=5 --log_every=5 --dropout=0.1".split()
)


def command(cwd, script, *args, env=None, project=HERE):
    """Run one of the project's scripts, train.py or lab.explore, in cwd as a user would.

    With env (what only a new interpreter takes note of) it is a new one, otherwise the fork of one (warm.py).
    """
    argv = [os.path.join(project, script) if script.endswith(".py") else script, *args]
    if not script.endswith(".py"):
        argv = ["-m", *argv]
    if env is None:
        return warm.run(argv, cwd, project)
    env = {**env, "PYTHONPATH": str(project)}
    return subprocess.run([sys.executable, *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=100)


def copy_of_project(folder):
    """A copy of the project's code in a folder, to which files of one's own can be added."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "data", "out", "assets", "tests")
    shutil.copytree(HERE, folder, ignore=left_out)
    return folder


@contextmanager
def local_hub(folder, monkeypatch):
    """A server on this machine in place of Hugging Face: owner/name/resolve/revision/file of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(hub, "HUB", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NANOCOCONUT_CACHE", os.path.join(folder, "cache"))
        yield
        server.shutdown()


def hops_flags():
    formats = [f"--{name}={value}" for name, value in FORMATS.items()]
    return [*TINY, *formats, "--max_latent_stage=2", "--steps=20", "--batch_size=8", "--peek"]


def only_with(*paths):
    """A mark: the test is skipped where one of these files has been deleted, as any upstairs may be."""
    gone = [path for path in paths if not os.path.exists(os.path.join(HERE, path))]
    return pytest.mark.skipif(bool(gone), reason=f"{', '.join(gone)} is not there")


FOLDERS = {"method": "methods", "task": "tasks", "model": "pretrained", "speed": "speed"}


def files_of(flags):
    """The files upstairs that flags name, such as --method=simcot+stop."""
    found = re.findall(rf"--({'|'.join(FOLDERS)})=(\S+)", flags)
    named = [(FOLDERS[setting], name) for setting, names in found for name in re.split("[+,]", names)]
    return [f"{folder}/{name}.py" for folder, name in named if name not in (*TABLE_1, "gpt2", "shard")]


def is_there(flags):
    return all(os.path.exists(os.path.join(HERE, path)) for path in files_of(flags))


def if_there(flags):
    """A case of a test, skipped where a file that its flags name has been deleted."""
    return pytest.param(flags, marks=only_with(*files_of(flags)), id=flags)


def start_run(flags):
    """A run in this process that has not begun to train."""
    return train.Run(parse(config_class, flags, "", takes_file=True))


def run_to_the_end(flags, stop_at=()):
    """A run in this process, stopped after each of the given numbers of steps and resumed; returns it, finished."""
    run = start_run(flags)
    for total in (*stop_at, None):
        while run.progress["index"] < len(run.plan) and run.progress["total"] != total:
            train.train_stage(run, stop=lambda at=run.progress, total=total: at["total"] == total)
        if total:
            run.save_last()
            run.log("junk", 0.0)  # something that was logged after the checkpoint, before the lights went out
            torch.manual_seed(12345)
            run = start_run([*flags, "--resume"])
            assert run.progress["total"] == total
    run.save_last()
    return run


def fails(main, argv, capsys, monkeypatch):
    """The one line that a script ends with."""
    monkeypatch.setattr(sys, "argv", ["script", *argv])
    with pytest.raises(SystemExit) as e:
        cli(main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


def needs(method):
    """Skip a test of several methods if the file of one of them is not there."""
    for name in method.split("+"):
        if name not in curriculum.TABLE_1 and not importlib.util.find_spec(f"methods.{name}"):
            pytest.skip(f"methods/{name}.py is not there")


def live(method, folder, monkeypatch, capsys, *more):
    """Train a method, in one go and with interruptions; evaluate it, let it answer. Returns the run, and what it said.

    Catches settings that work in a training step, and nowhere else.
    """
    needs(method)
    monkeypatch.chdir(folder)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=4,3", "--eval_every=2", "--max_latent_stage=3", f"--method={method}", *more]
    whole = run_to_the_end([*flags, "--out_dir=out/whole"])
    parts = run_to_the_end([*flags, "--out_dir=out/parts"], stop_at=(3, 11))
    for one, other in (whole.model, parts.model), (whole.objective, parts.objective):
        assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters()))
    assert open("out/whole/log.txt").read() == open("out/parts/log.txt").read()
    assert all(f" train/{loss} " in open("out/whole/log.txt").read() for loss in whole.objective.weights)
    train.main(["--eval_only=out/parts/best.pt"])
    sample.main(["--out_dir=out/parts", "--count=1"])
    sample.main(["out/parts", "--question=a b b c c a start a"])
    said = capsys.readouterr().out
    assert "test accuracy" in said and said.count("question  ") == 2
    return whole, said
