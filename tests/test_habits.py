"""
Habits of users: what they give a script, where they run it, and what they change their minds about.

Each test names the mistake that it would catch.
"""

import dataclasses
import glob
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
import tiktoken
import torch
from helpers import (
    HERE,
    PROBLEM,
    TINY,
    command,
    fails,
    hops_flags,
    if_there,
    only_with,
    run_to_the_end,
    start_run,
    words,
)

import data
import evaluate
import prepare_hops
import sample
import tokenizer
import train
from coconut import choose
from config import TrainConfig, UserError, parse, upstairs
from curriculum import config_class, row_for
from model import GPT, GPTConfig, is_projection
from tokenizer import make_tokenizer

# ---------------------------------------------------------------- extremes


@pytest.mark.parametrize("cls", [TrainConfig, prepare_hops.HopsConfig])
def test_every_integer_has_a_bound(cls):
    """Catches a loop that would take a year in silence, and numbers that numpy and torch cannot hold."""
    check_bounds(cls)


SCRIPTS = [("addition", "AdditionConfig"), ("arithmetic", "ArithmeticConfig"), ("family", "FamilyConfig")]


@pytest.mark.parametrize(
    "name, cls", [pytest.param(*pair, marks=only_with(f"tasks/prepare_{pair[0]}.py")) for pair in SCRIPTS]
)
def test_so_has_every_integer_of_a_script(name, cls):
    check_bounds(getattr(upstairs("tasks", f"prepare_{name}"), cls))


OPTIONS = [
    "--method=coconut+cut",
    "--method=lotus",
    "--method=pccot",
    "--method=sets",
    "--task=graphs",
    "--model=llama",
]


@pytest.mark.parametrize("flag", [if_there(flag) for flag in OPTIONS])
def test_so_has_every_integer_that_comes_with_a_file(flag):
    name, _, value = flag[2:].partition("=")
    check_bounds(config_class({name: value}))


def check_bounds(cls):
    for field in dataclasses.fields(cls):
        if type(field.default) is int:
            with pytest.raises(UserError, match=f"{field.name} = 1{'0' * 20}, expected at most"):
                parse(cls, [f"--{field.name}=1{'0' * 20}"], "")
            assert math.isfinite(field.metadata["range"][0])


def test_many_stages_are_looked_through_at_once(tmp_path, monkeypatch):
    """Catches a check that makes a row for each stage, however many there are, and one that misses a long stage."""
    monkeypatch.chdir(tmp_path)
    data.write_files(".", {"x": [PROBLEM]})
    cfg, tok, _ = words(max_latent_stage=1000, block_size=14)
    problems, pieces, asked = data.encode([PROBLEM] * 20_000, cfg, tok), data.find_pieces([PROBLEM], cfg), []
    data.check_lengths(
        problems, cfg, tok, "x.json", pieces
    )  # nothing can be too long, so there is nothing to be looked at
    monkeypatch.setattr(data, "row_for", lambda *args: asked.append(1) or row_for(*args))
    cfg.block_size = 10
    with pytest.raises(UserError, match=r"example 0 is too long: 3 \+ 0 \+ 8 positions "):
        data.check_lengths(problems, cfg, tok, "x.json", pieces)
    cfg.block_size, cfg.pad_latent_to_max = 600, True
    with pytest.raises(UserError, match=r"example 0 is too long: 3 \+ 1000 \+ 4 positions"):
        data.check_lengths(problems, cfg, tok, "x.json", pieces)
    cfg.c_thought, cfg.block_size, cfg.max_latent_stage = 9, 12, 3  # longer with each stage
    with pytest.raises(UserError, match=r"3 \+ 27 \+ .* at least 3\d$"):
        data.check_lengths(problems, cfg, tok, "x.json", pieces)
    assert len(asked) < 30


# ---------------------------------------------------------------- places


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data/ and a finished run of two hops, out/run, whose stages have a step each."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
        run_to_the_end([*hops_flags(), "--steps=1", "--out_dir=out/run"])
        train.main([*hops_flags(), "--steps=1", "--out_dir=out/run", "--resume"])  # for its last line, the test
    return folder


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)


def test_scripts_run_from_anywhere(tmp_path):
    """Catches a script that looks beside itself, or hints that do not work when pasted into a shell."""
    config = os.path.join(HERE, "configs", "hops.py")
    failed = command(tmp_path, "train.py", config)
    assert f"data/hops/train.json: no such file in the current folder, {tmp_path}; `python " in failed.stderr
    hint = failed.stderr.partition("`python ")[2].partition("`")[0]
    assert os.path.samefile(tmp_path / hint, os.path.join(HERE, "prepare_hops.py"))
    assert command(tmp_path, hint, "--train=9", "--valid=3", "--test=3").returncode == 0
    assert (tmp_path / "data/hops/train.json").exists()
    flags = "--steps=1 --n_layer=1 --n_embd=16 --out_dir=out/x".split()
    assert command(tmp_path, "train.py", config, *flags).returncode == 0
    assert "3 of 3" not in command(tmp_path, "sample.py").stderr
    for path in ("nowhere/best.pt", "nowhere"):
        assert f"{path}: no such checkpoint in the current folder" in command(tmp_path, "sample.py", path).stderr


UPSTAIRS = [
    "tasks.prepare_addition", "tasks.prepare_arithmetic", "tasks.prepare_family", "tasks.prepare_prontoqa",
    "pretrained.export", "lab.analyze", "lab.compare", "lab.depth", "lab.explore", "lab.plot", "lab.runs",
    "lab.superpose", "speed.bench", "speed.quarter_hour",
]  # fmt: skip


@pytest.mark.parametrize("name", UPSTAIRS)
def test_a_script_called_by_its_path_says_how_it_is_called(name):
    """Catches a traceback about modules that are not found, and a script in a folder that is none."""
    path = f"{name.replace('.', '/')}.py"
    done = command(HERE, path, "--help")
    assert done.stderr == f"error: call it as python -m {name}, from the project's folder\n" and done.returncode == 1
    with open(os.path.join(HERE, path), encoding="utf-8") as f:
        text = f.read()
    assert f"python -m {name}" in text.partition('"""\n\n')[0] and text.endswith("    cli(main)\n")


def test_scripts_upstairs_are_all_known():
    """Catches a new one that nobody has tried to call by its path."""
    paths = [
        p for folder in ("tasks", "pretrained", "methods", "lab", "speed") for p in glob.glob(f"{HERE}/{folder}/*.py")
    ]
    scripts = {os.path.relpath(p, HERE)[:-3].replace("/", ".") for p in paths if "\nif __name__ ==" in open(p).read()}
    assert scripts == {*UPSTAIRS}


@pytest.mark.parametrize("path", ["out/run", "out/run/", "out/run/best.pt", "out/run/ckpt.pt"])
def test_a_run_is_its_folder_or_a_file_in_it(path, in_trained, capsys, monkeypatch):
    """Catches a script that takes one of them only."""
    sample.main([path, "--count=1"])
    sample.main([f"--out_dir={path}", "--count=1"])
    train.main([f"--eval_only={path}"])
    run = start_run([*hops_flags(), "--out_dir=out/on", f"--init_from={path}", "--overwrite"])
    assert run.cfg.n_embd == 16
    found = path if path.endswith(".pt") else os.path.join(path, "best.pt")
    assert capsys.readouterr().out.count(f"{found}: coconut, stage") == 3


@only_with("lab/analyze.py", "lab/plot.py")
@pytest.mark.parametrize("path", ["out/run", "out/run/best.pt"])
def test_so_it_is_in_the_laboratory(path, in_trained, capsys):
    from lab import analyze, plot

    analyze.main([path, "--count=4", f"--out={path.replace('/', '_')}.json"])
    found = path if path.endswith(".pt") else os.path.join(path, "best.pt")
    assert capsys.readouterr().out.count(f"{found}: coconut, stage") == 1
    pytest.importorskip("matplotlib")
    plot.main([path])
    assert "training.png" in capsys.readouterr().out


def test_a_folder_without_a_run_is_named(in_trained, capsys, monkeypatch):
    error = fails(sample.main, ["data"], capsys, monkeypatch)
    assert "data: no checkpoint, best.pt or ckpt.pt, in this folder" in error


def test_without_the_internet_gpt2s_tokens_are_one_short_line(monkeypatch):
    """Catches a page of requests' words; and a checkpoint's folder that is taken for GPT-2's weights."""

    def offline(name):
        raise ConnectionError("HTTPSConnectionPool(host='x'): Max retries exceeded\n" * 9)

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(UserError, match="ConnectionError; offline.*TIKTOKEN_CACHE_DIR") as e:
        tokenizer.make_tokenizer("gpt2")
    assert len(str(e.value)) < 200 and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content, part",
    [
        (b"hello", "not a checkpoint of this project"),
        ({"model": 1}, "found model"),
        ([1], "found 1"),
        (b"", "not a"),
    ],
)
def test_other_files_are_no_checkpoints(content, part, tmp_path, capsys, monkeypatch):
    """Catches torch's own words for a file that is none of its, and a KeyError's for somebody else's."""
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content) if type(content) is bytes else torch.save(content, path)
    error = fails(sample.main, [str(path)], capsys, monkeypatch)
    assert part in error and "Weights only" not in error and len(error) < 300, error


# ---------------------------------------------------------------- settings of an evaluation


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--data_dir=/nowhere"], ["/nowhere/test.json: no such file"]),
        (
            ["--data_dir=/nowhere", "--max_new_tokens=1", "--c_thought=5"],
            ["without effect", "--c_thought was 1, now 5"],
        ),
        (["--lr=3", "--steps=1,1", "--seed=2"], ["without effect on an evaluation: --lr was (0.001,), now (3.0,)"]),
        (["seven.py"], ["without effect", "n_layer in seven.py, line 2 was 1, now 7"]),
        (["--eval_file=data/test.json", "--data_dir=other"], ["--eval_file and --data_dir", "one of them"]),
        (["--eval_file=nowhere.json"], ["nowhere.json: no such file"]),
        (["--eval_file=data"], ["data: Is a directory"]),
        (["--resume"], ["without effect", "--resume"]),
        (["--tokenizer=gpt2"], ["--tokenizer was 'words', now 'gpt2'"]),
    ],
)
def test_what_would_not_act_is_refused(argv, parts, in_trained, capsys, monkeypatch):
    """Catches an evaluation that is not what was asked for."""
    with open("seven.py", "w") as f:
        f.write("max_latent_stage = 2\nn_layer = 7\n")
    error = fails(train.main, ["--eval_only=out/run", *argv], capsys, monkeypatch)
    assert all(part in error for part in parts), error


def test_what_is_given_acts(in_trained, capsys, monkeypatch):
    """Catches settings that are taken from the checkpoint although others were given; and the same, given again."""

    def evaluated(*argv):
        train.main(["--eval_only=out/run/best.pt", *argv])
        return capsys.readouterr().out

    prepare_hops.main("--nodes=6 --hops=2 --train=5 --valid=5 --test=7 --out_dir=other".split())
    assert "data/test.json" in evaluated() and "on 9 problems" in evaluated()
    assert "other/test.json" in evaluated("--data_dir=other") and "on 7 problems" in evaluated("--data_dir=other")
    assert "other/valid.json" in evaluated("--eval_file=other/valid.json", "--eval_batch_size=2")
    assert "1.0 tokens" in evaluated("--max_new_tokens=1") and "1.0 tokens" not in evaluated()
    assert evaluated(*hops_flags(), "--steps=1", "--out_dir=out/run") == evaluated()  # the command that made it
    for empty in ("--eval_only=", "--eval_file=data/test.json"):
        error = fails(train.main, [empty, "--out_dir=out/none", "--data_dir=data"], capsys, monkeypatch)
        assert "--eval_only=: without effect" in error or "belongs to --eval_only" in error
    assert not os.path.exists("out/none")


@pytest.mark.parametrize("method", ["no_cot", "pause"])
def test_thoughts_of_a_model_that_never_thought_are_refused(method, tmp_path, capsys, monkeypatch):
    """Catches eight "thoughts" of a baseline, which happens to be the latest run."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
    run_to_the_end([*hops_flags(), "--steps=1", f"--method={method}", "--out_dir=out/base"])
    error = fails(sample.main, ["--latent=8"], capsys, monkeypatch)
    assert f"--latent=8: out/base/best.pt has never thought, its method is {method}" in error
    sample.main(["--latent=0", "--count=1"])


@only_with("pretrained/weights.py", "pretrained/export.py")
def test_weights_from_elsewhere_need_no_tokenizer_named(in_trained, capsys, monkeypatch):
    """Catches "the tokenizer 'words'" where GPT-2's alone is possible, and settings of training that are dropped."""
    model = GPT(GPTConfig(1, 2, 16, 64, 50257))
    tensors = {k: t.T if is_projection(k) else t for k, t in model.state_dict().items()}
    upstairs("pretrained", "export").write_safetensors("model.safetensors", tensors)
    with open("config.json", "w") as f:
        f.write('{"n_head": 2}')
    argv = ["--eval_only=model.safetensors", "--max_new_tokens=3", "--question_format= {}"]
    try:
        train.main([*argv, "--eval_file=data/test.json", "--max_latent_stage=2", "--c_thought=1"])
    except UserError as e:
        pytest.skip(str(e)) if "vocabulary" in str(e) else pytest.fail(str(e))
    assert "on 9 problems, 3.0 tokens and 2.0 thoughts each" in capsys.readouterr().out
    with open("recipe.py", "w") as f:  # what it says of training does no harm
        f.write("lr = 3.0\nmethod = 'no_cot'\ndata_dir = 'data'\n")
    train.main([*argv, "recipe.py"])
    assert "no_cot, stage" in capsys.readouterr().out
    assert "without effect on an evaluation: --n_head" in fails(train.main, [*argv, "--n_head=2"], capsys, monkeypatch)
    assert "it knows the tokens of 'gpt2' only" in fails(train.main, [*argv, "--tokenizer=words"], capsys, monkeypatch)


# ---------------------------------------------------------------- data of one's own


def family(names, n, seed=0):
    """Problems in words, with these first names."""
    rng, problems = random.Random(seed), []
    for _ in range(n):
        a, b, c = rng.sample(names, 3)
        question = f"{a} is the mother of {b}. {b} is the mother of {c}. Who is the grandmother of {c}?"
        problems.append({"question": question, "steps": [f"The mother of {c} is {b}."], "answer": a})
    return problems


def own_data(folder, **splits):
    os.makedirs(folder, exist_ok=True)
    for split, problems in splits.items():
        with open(f"{folder}/{split}.json", "w") as f:
            json.dump(problems, f)
    return [*TINY, f"--data_dir={folder}", "--out_dir=out", "--overwrite", "--block_size=100", "--max_latent_stage=1"]


OLD, NEW = "Anna Bob Carl Dora Eve".split(), "Yves Zoe Anna Bob".split()


@only_with("lab/advice.py")
def test_names_that_train_does_not_have_are_named_before_it_starts(tmp_path, monkeypatch, capsys):
    """Catches a run to 0.0 % without a word, and test questions that the model has been trained on."""
    monkeypatch.chdir(tmp_path)
    train_problems = family(OLD, 60)
    test_problems = [*train_problems[:2], *family(OLD, 30, seed=1)]
    flags = own_data("own", train=train_problems, valid=family(NEW, 20), test=test_problems)
    known = sum(p["question"] in {q["question"] for q in train_problems} for p in test_problems)
    n_new = sum("Zoe" in p["question"] or "Yves" in p["question"] for p in family(NEW, 20))
    start_run(flags)
    valid, test, *_ = capsys.readouterr().out.splitlines()
    assert valid.startswith("WARNING: own/valid.json: 20 problems, 0 of whose questions are in train.json, too; ")
    assert valid.endswith(f"{n_new} have words that are not, such as 'Yves', 'Zoe'")
    line = f"own/test.json: 32 problems, {known} of whose questions are in train.json, too; all of their words are"
    assert test == line
    assert known >= 2
    with open("own/test.json", "w") as f:
        json.dump(train_problems[:30], f)
    start_run(flags)
    _, test, *_ = capsys.readouterr().out.splitlines()
    assert test.startswith("WARNING: own/test.json: 30 problems, 30 of whose questions are")
    assert "only tests what was learned by heart" in test
    start_run([*flags, "--tokenizer=chars", "--block_size=200"])
    valid, test, *_ = capsys.readouterr().out.splitlines()
    assert valid.endswith(f"{n_new} have characters that are not, such as 'Y', 'Z'")


@only_with("lab/advice.py")
def test_tokens_of_gpt2_that_train_does_not_have_are_told_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own_data("own", train=family(OLD, 60), valid=family(NEW, 20), test=family(OLD, 20))
    cfg = TrainConfig(tokenizer="gpt2", block_size=200)
    try:
        tok = tokenizer.make_tokenizer("gpt2")
    except UserError as e:
        pytest.skip(str(e))
    trains = [data.load("own/train.json", cfg, tok)]
    compare = upstairs("lab", "advice").compare
    line = compare("own/valid.json", data.load("own/valid.json", cfg, tok), trains, cfg, tok, [])
    assert line.startswith("own/valid.json") and "have tokens that are not, such as " in line and "'Zoe'" in line
    line = compare("own/test.json", data.load("own/test.json", cfg, tok), trains, cfg, tok, [])
    assert line.endswith("all of their tokens are")


@pytest.mark.parametrize(
    "kind, some", [("words", "'Anna', 'Dora', "), ("digits", "'Anna', 'Dora', "), ("chars", "'.', '?', 'A', ")]
)
def test_unknown_words_are_the_reason_for_too_long(kind, some, tmp_path, capsys, monkeypatch):
    """Catches "too long: 262 + 0 + 22 positions" of a question of thirty words, and a reason that is none."""
    monkeypatch.chdir(tmp_path)
    few = [{"question": "猫", "steps": ["b"], "answer": "c"}] * 3
    flags = own_data("own", train=few, valid=family(OLD, 3) * 2, test=few)
    error = fails(train.main, [*flags, f"--tokenizer={kind}", "--block_size=30"], capsys, monkeypatch)
    assert "valid.json: example 0 is too long" in error and len(error) < 350, error
    assert f"not in train.json, and so spelt in bytes, are {some}" in error
    flags = own_data("own", train=family(OLD, 60), valid=family(OLD, 3), test=few)
    error = fails(train.main, [*flags, f"--tokenizer={kind}", "--block_size=9"], capsys, monkeypatch)
    assert "expected at least" in error and "bytes" not in error


@only_with("lab/advice.py")
def test_learning_by_heart_is_said_once(tmp_path, monkeypatch, capsys):
    """Catches a training loss that falls for nothing, in silence; and an alarm where validation follows."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=8 --train=16 --valid=30 --test=9 --out_dir=few".split())
    flags = [*hops_flags(), "--method=cot", "--dropout=0", "--lr=0.01", "--eval_every=20", "--n_embd=32"]
    run_to_the_end([*flags, "--data_dir=few", "--out_dir=few", "--steps=80"])
    out = capsys.readouterr().out
    assert out.count("the 16 training problems are being learned by heart") == 1
    losses = [float(line.split()[2]) for line in open("few/log.txt") if " valid/loss " in line]
    assert len(losses) == 320 / 20 and all(loss > 0 for loss in losses)
    prepare_hops.main("--nodes=5 --hops=1 --train=90 --valid=9 --test=9 --out_dir=easy".split())
    run_to_the_end([*flags, "--data_dir=easy", "--out_dir=easy", "--steps=80"])
    assert "by heart" not in capsys.readouterr().out


def test_the_validation_loss_is_that_of_training(tmp_path, monkeypatch):
    """Catches a validation loss of other rows, of padding, or weighted by batches instead of tokens."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
    run = start_run([*hops_flags(), "--eval_batch_size=4"])
    run.model.eval()
    for stage in range(3):
        batch = data.collate([row_for(p, stage, run.cfg, run.tok) for p in run.problems["valid"]])
        with torch.no_grad():
            total, count = run.objective(batch)["ce"], run.objective.counts(batch)["ce"]
        loss = evaluate.evaluate(run.model, run.problems["valid"], stage, run.cfg, run.tok)["loss"]
        assert loss == pytest.approx(float(total / count), rel=1e-5)
        run.model.eval()


def test_an_old_figure_stands_in_brackets(in_trained, capsys):
    """Catches the accuracy of an earlier step that is shown as if it had been measured."""
    flags = [*hops_flags(), "--eval_every=4", "--log_every=2", "--steps=8", "--overwrite", "--out_dir=out/lines"]
    run_to_the_end(flags)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage 1  ")]
    accuracies = [line.partition("accuracy")[2].split()[0] for line in lines]
    assert [text.startswith("(") for text in accuracies] == [False, False, True, False] and accuracies[0] == "-"
    assert accuracies[2] == f"({accuracies[1]})" and len({line.index(" lr ") for line in lines}) == 1
    assert max(map(len, lines)) <= 120


# ---------------------------------------------------------------- what is lost, or kept, or mistaken


@pytest.mark.parametrize(
    "text",
    [
        "Andre\u0301 Zoe\u0308",
        "राम सीता",
        "مُحَمَّد",
        "שָׁלוֹם",
        "x² ½ a\u200db",
        "a\x1c\x1cb \u2028\u2028c\x85",
        "ไทย, 日本!",
    ],
)
def test_words_are_the_same_to_python_and_to_tiktoken(text):
    """Catches accents and vowel signs that belong to a word here and not there: the word is spelt in bytes, unseen."""
    cfg = TrainConfig(tokenizer="words", question_format="{}")
    pieces = data.find_pieces([{**PROBLEM, "question": text}], cfg)
    tok = make_tokenizer("words", pieces)
    found = [tok.decode([t]) for t in tok.encode_ordinary(text)]
    assert set(found) <= {*pieces} and "".join(found) == text
    assert len(found) == len(re.findall(tokenizer.PATTERNS["words"], text))


def test_a_model_without_its_last_state_is_not_overwritten(trained, tmp_path, capsys, monkeypatch):
    """Catches a best.pt, kept to be used, that the next run replaces without a word; and an analysis of the old one."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for name in ("analysis.json", "explore.html", "notes.txt"):
        (tmp_path / "copy/out/run" / name).write_text("old")
    os.remove("out/run/ckpt.pt")
    error = fails(train.main, [*hops_flags(), "--out_dir=out/run"], capsys, monkeypatch)
    assert "out/run/best.pt is there from an earlier run: --overwrite discards it" in error and "--resume" not in error
    start_run([*hops_flags(), "--out_dir=out/run", "--overwrite"])
    there = [name for name in os.listdir("out/run") if not name.startswith("training.")]  # pictures stay
    assert sorted(there) == ["lock", "log.txt", "notes.txt"]


@pytest.mark.parametrize("question", ["5", "1,2", "true", "None", "'quoted'", "", "a == b"])
def test_a_question_is_text(question):
    """Catches what looks like a number, a list or None in Python, and is a question here."""
    assert parse(sample.SampleConfig, [f"--question={question}"], "").question == question
    assert parse(sample.SampleConfig, ["--question", question], "").question == question


def test_output_that_cannot_be_shown_costs_no_run(tmp_path):
    """Catches a terminal that knows no Greek, and so ends a stage before it is saved."""
    problems = [{"question": "α β", "steps": ["γ"], "answer": "γ"}] * 3
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(problems))
    flags = [*TINY, "--data_dir=.", "--steps=1", "--max_latent_stage=1", "--out_dir=out"]
    done = command(tmp_path, "train.py", *flags, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "a held-out question:  ? ?" in done.stdout and (tmp_path / "out/ckpt.pt").exists()


def test_files_of_a_task_are_replaced_together(tmp_path):
    """Catches a new train.json beside an old test.json, after ^C or on a full disk."""
    old = data.write_files(tmp_path, {"train": [1], "test": [2]})
    with pytest.raises(TypeError):
        data.write_files(tmp_path, {"train": [3], "test": [{4}]})  # a set is no JSON: what goes wrong does not matter
    assert [json.load(open(path)) for path in old.values()] == [[1], [2]] and len(os.listdir(tmp_path)) == 2


def test_pictures_of_what_has_only_begun(tmp_path, capsys, monkeypatch):
    """Catches a traceback for a stage that is not evaluated yet, a damaged line, another program's analysis.json."""
    pytest.importorskip("matplotlib")
    from lab import plot

    lines = "0 stage 0\n5 valid/accuracy 0.5\n\0\0\0\0\n7 \nx y z\n5 stage 1\n6 train/loss 1.0\n9 valid/accu"
    (tmp_path / "log.txt").write_text(lines)
    assert plot.read_log(tmp_path / "log.txt")["valid/accuracy"] == [(5, 0.5)]
    plot.main([str(tmp_path)])
    assert "training.png" in capsys.readouterr().out
    for other in ("{}", "[]"):
        (tmp_path / "analysis.json").write_text(other)
        error = fails(plot.main, [str(tmp_path)], capsys, monkeypatch)
        assert "analysis.json: not what analyze.py has written" in error


@only_with("lab/analyze.py", "lab/explore.py")
def test_an_analysis_that_could_not_be_written_is_not_made(in_trained, capsys, monkeypatch):
    """Catches a file that fails to be written when all the work is done, or is lost with the terminal."""
    from lab import analyze, explore

    for main in (analyze.main, explore.main):
        error = fails(main, ["out/run", "--count=4", "--out=nowhere/a.json"], capsys, monkeypatch)
        assert "nowhere/a.json: cannot be written: No such file or directory" in error
    monkeypatch.setattr(analyze, "show", lambda result: 1 / 0)  # as when the reader of a pipe goes away
    with pytest.raises(ZeroDivisionError):
        analyze.main(["out/run", "--count=4", "--out=a.json"])
    assert json.load(open("a.json"))["problems"] == 4


@only_with("lab/analyze.py", "lab/explore.py", "lab/plot.py")
def test_what_is_written_anew_is_whole_or_the_old_one(in_trained, capsys):
    """Catches half a file in the place of a whole one, and a full disk that is not said to be that of this file."""
    from lab import analyze, explore, plot

    shutil.copytree("out/run", "out/full")
    few = ["--count=9", "--device=cpu"]
    for script, name, main, flags in (
        ("analyze", "analysis.json", analyze.main, few),
        ("explore", "explore.html", explore.main, few),
        ("plot", "training.png", plot.main, []),
    ):
        if script == "plot":
            pytest.importorskip("matplotlib")
        main(["out/full", *flags])
        with open(f"out/full/{name}", "rb") as f:
            before = f.read()
        limited = f"ulimit -f 4; exec {sys.executable} -m lab.{script} out/full"
        env = {**os.environ, "PYTHONPATH": HERE}
        done = subprocess.run(["bash", "-c", limited], env=env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 2 and len(before) > 4096, done.stderr
        assert f"error: out/full/{name}: cannot be written: File too large\n" in done.stderr
        with open(f"out/full/{name}", "rb") as f:
            assert f.read() == before
        assert not [file for file in os.listdir("out/full") if file.endswith(".tmp")]


@only_with("lab/analyze.py")
def test_one_question_and_thoughts_that_are_no_whole_steps(in_trained, capsys):
    """Catches a standard deviation of one number, and an index behind the last thought."""
    from lab import analyze

    run_to_the_end([*hops_flags(), "--steps=1", "--c_thought=2", "--out_dir=out/two"])
    json.dump(data.load_json("data/test.json")[:1], open("one.json", "w"))
    analyze.main(["out/two", "one.json", "--max_thoughts=3", "--out=two.json"])
    found = json.load(open("two.json"))
    assert [row["thoughts"] for row in found["sweep"]][-1] == 2 and found["thoughts"][0]["norm_std"] == 0


def test_any_temperature_draws_a_token():
    """Catches logits that a small temperature makes infinite."""
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for temperature in (1e-300, 1e-40, 1e-6):
        assert choose(logits, temperature, None).item() == choose(logits, temperature, 2).item() == 1


def test_a_clock_that_goes_back_is_not_noticed(in_trained, capsys, monkeypatch):
    """Catches -35989 ms a step, an ETA of -544 hours, and a run that saves nothing for an hour (summer time, NTP)."""
    now, calls = time.time, []

    def wrong():
        calls.append(1)
        return now() - 3600 * len(calls)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", wrong)
        run = run_to_the_end([*hops_flags(), "--steps=4", "--log_every=2", "--out_dir=out/back", "--overwrite"])
        train.main(["--eval_only=out/back"])
    said = capsys.readouterr().out
    assert said.count(" ms/step") >= 6 and not re.search(r"-\d+ ms/step|ETA <?-|-\d+:\d\d left", said)
    assert run.progress["seconds"] >= 0 and all(seconds >= 0 for _, _, seconds, _ in run.progress["results"])
