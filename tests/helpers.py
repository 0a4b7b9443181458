"""What several test files use: problems in words, scripts run as a user would, and runs stopped at will."""

import http.server
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch

import data
import train
from config import cli, parse
from pretrained import hf_tokenizer, weights
from run import Run
from settings import TrainConfig
from tokenizer import BOT, EOS, EOT, PAUSE, make_tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the project
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # also in the commands that tests run

PROBLEM = {"question": "a b", "steps": ["c", "d e", "f"], "answer": "g"}
FORMATS = dict(question_format=" {}", step_format=" {}", answer_format=" = {}")


def words(**settings):
    """(cfg, tokenizer, the problem in tokens) for the problem above."""
    cfg = TrainConfig(tokenizer="words", **{**FORMATS, "max_latent_stage": 2, **settings})
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


def command(cwd, script, *args, env=os.environ):
    """Run one of the project's scripts, train.py or lab.explore, in cwd as a user would."""
    argv, env = [sys.executable, os.path.join(HERE, script), *args], {**env}
    if not script.endswith(".py"):
        argv, env["PYTHONPATH"] = [sys.executable, "-m", script, *args], HERE
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=100)


@contextmanager
def hub(folder, monkeypatch):
    """A server on this machine in place of Hugging Face: owner/name/resolve/revision/file of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for module in weights, hf_tokenizer:
            monkeypatch.setattr(module, "HUB", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NANOCOCONUT_CACHE", os.path.join(folder, "cache"))
        yield
        server.shutdown()


def hops_flags():
    formats = [f"--{name}={value}" for name, value in FORMATS.items()]
    return [*TINY, *formats, "--max_latent_stage=2", "--steps=20", "--batch_size=8", "--peek"]


def run_to_the_end(flags, stop_at=()):
    """A run in this process, stopped after each of the given numbers of steps and resumed; returns it, finished."""
    run = Run(parse(TrainConfig, flags, "", takes_file=True))
    for total in (*stop_at, None):
        while run.progress["index"] < len(run.plan) and run.progress["total"] != total:
            train.train_stage(run, stop=lambda at=run.progress, total=total: at["total"] == total)
        if total:
            run.save_last()
            run.log("junk", 0.0)  # something that was logged after the checkpoint, before the lights went out
            torch.manual_seed(12345)
            run.lock.close()  # as if the process had ended
            run = Run(parse(TrainConfig, [*flags, "--resume"], "", takes_file=True))
            assert run.progress["total"] == total
    return run


def fails(main, argv, capsys, monkeypatch):
    """The one line that a script ends with."""
    monkeypatch.setattr(sys, "argv", ["script", *argv])
    with pytest.raises(SystemExit) as e:
        cli(main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err
