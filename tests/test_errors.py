"""
Bad input: one line that helps, exit code 2.
"""

import dataclasses
import glob
import json
import os
import re

import pytest
from helpers import HERE, PROBLEM, command, fails, is_there, only_with

import sample
import train
from config import TrainConfig, UserError, parse
from curriculum import TABLE_1, config_class, kind_of, leave_out, objective_class

LONG = {"question": "a" + " a" * 79, "steps": ["c", "d e", "f"], "answer": "g"}


def splits(folder, *problems):
    return {f"{folder}/{split}.json": json.dumps(problems) for split in ("train", "valid", "test")}


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--batchsize=3"], ["batchsize", "did you mean batch_size?"]),
        (["--batch_size=lots"], ["batch_size", "'lots'", "int"]),
        (["--batch_size=2.5"], ["batch_size", "2.5", "int"]),
        (["--lr"], ["--lr", "missing"]),
        (["--model"], ["--model", "missing"]),
        (["--config="], ["the name of the config file is empty"]),
        (["--config"], ["the name of the config file is empty"]),
        (["--lr=1e-3,high"], ["lr", "float"]),
        (["--method=coconuts"], ["coconuts", "pause_as_thought", "did you mean coconut?"]),
        (["--markers=both,none"], ["markers", "'both,none'", "both or bot or eot or none"]),
        (["--data_dir=good", "--feedback=lst"], ["feedback", "'lst'", "layer", "did you mean last?"]),
        *[
            (["--data_dir=good", f"--feedback={name}"], [f"feedback = '{name}'", said])
            for name, said in (
                ("layer:1.5", "h_0 to h_2"),
                ("layer:nan", "expected a number"),
                ("layer:inf", "h_0 to h_2"),
                ("soft:0", "temperature = 0, expected a number from 0.001 to 1000"),
                ("soft:1:0", "top_p = 0, expected a number from 0.001 to 1"),
                ("last:1", "last takes no numbers"),
                ("last+soft:-1", "temperature = -1, expected a number from 0.001"),
            )
        ],
        (["--data_dir=good", "--feedback=layer:-4"], ["layer:-4", "h_0 to h_2"]),
        (["--data_dir=good", "--feedback=last+layer:3"], ["layer:3", "h_0 to h_2"]),
        (["--peek", "--markers=none"], ["peek has no effect", "markers=none"]),
        pytest.param(
            ["--method=simcots"],
            ["'simcots' would be methods/simcots.py, which is not there", "did you mean simcot?"],
            marks=only_with("methods/simcot.py"),
        ),
        *(
            pytest.param([f"--method={name}"], [said], marks=only_with(f"methods/{name.rpartition('+')[2]}.py"))
            for name, said in (
                ("_hits", "methods._hits: no method, but what some have in common"),
                ("coconut+_teacher", "methods._teacher: no method, but what some have in common"),
            )
        ),
        pytest.param(["--method=simcot+cot"], ["'cot' would be methods/cot.py"], marks=only_with("methods/simcot.py")),
        pytest.param(["--method=pause+cut"], ["'pause+cut': pause does not think"], marks=only_with("methods/cut.py")),
        pytest.param(
            ["--method=cot+stop"], ["method = 'cot+stop': cot does not think"], marks=only_with("methods/stop.py")
        ),
        pytest.param(
            ["--data_dir=good", "--method=pccot+stop"],
            ["pccot+stop", "2 of these think, each in its own way"],
            marks=only_with("methods/pccot.py", "methods/stop.py"),
        ),
        pytest.param(
            ["--method=coconut+sets", "--c_thought=0", "--data_dir=good"],
            ["sets is for thoughts", "c_thought=0"],
            marks=only_with("methods/sets.py"),
        ),
        pytest.param(
            ["--method=sets", "--thought_targets=step"],
            ["thought_targets = 'step'", "walks or steps or tokens"],
            marks=only_with("methods/sets.py"),
        ),
        (["--passes=3"], ["there is no setting 'passes'"]),
        (["--method=coconut", "--passes=3"], ["there is no setting 'passes'"]),
        (["--names=[a-z]"], ["there is no setting 'names'"]),
        (["--head_dim=8"], ["there is no setting 'head_dim'"]),
        pytest.param(
            ["--task=graph"],
            ["'graph' would be tasks/graph.py", "did you mean graphs?"],
            marks=only_with("tasks/graphs.py"),
        ),
        pytest.param(["--task=prosqa"], ["tasks/prosqa.py has no Task"], marks=only_with("tasks/prosqa.py")),
        pytest.param(
            ["--model=lama"],
            ["'lama' would be pretrained/lama.py", "did you mean llama?"],
            marks=only_with("pretrained/llama.py"),
        ),
        pytest.param(["--model=hub"], ["pretrained/hub.py has no settings"], marks=only_with("pretrained/hub.py")),
        pytest.param(
            ["--data_dir=good", "--speed=fats"],
            ["'fats' would be speed/fats.py", "did you mean fast?"],
            marks=only_with("speed/fast.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--speed=bench"], ["speed/bench.py has no speed_up"], marks=only_with("speed/bench.py")
        ),
        pytest.param(
            ["--data_dir=good", "--speed=fast,recompute"],
            ["fast", "recompute", "expected one of them"],
            marks=only_with("speed/fast.py", "speed/recompute.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--speed=recompute,fast"],
            ["fast", "recompute", "expected one of them"],
            marks=only_with("speed/fast.py", "speed/recompute.py"),
        ),
        (["--data_dir=good", "--losses=cee:3"], ["'cee:3'", "NAME:WEIGHT with a name of ce"]),
        (["--data_dir=good", "--losses=ce:x"], ["'ce:x'", "weight of at least 0"]),
        (["--data_dir=good", "--losses=ce:nan"], ["'ce:nan'", "at least 0"]),
        (["--data_dir=good", "--losses=decoder:2"], ["'decoder:2'", "NAME:WEIGHT with a name of ce"]),
        (["--method=no_cot", "--feedback=soft"], ["feedback=soft", "does not think"]),
        (["--init=induction", "--n_embd=15", "--n_head=3"], ["n_embd=15 is odd"]),
        (["--peek=maybe"], ["peek", "maybe", "bool"]),
        (["config/hops.py"], ["config/hops.py: no such config file", "did you mean ", "hops.py?"]),
        (["hop"], ["hop: no such config file", "did you mean ", "hops.py?"]),
        (["--config=configs/hopps.py"], ["configs/hopps.py: no such config file", "did you mean ", "hops.py?"]),
        (["--max_iters=3"], ["there is no setting 'max_iters'; did you mean steps?"]),
        (["--peek", "yes"], ["yes: no such config file", "settings are --name=value"]),
        (["--peek", "True", "--markers=none"], ["peek has no effect"]),
        (["--lr=nan"], ["lr = ", "expected float"]),
        (["--dropout=1e400"], ["dropout = inf, expected at most 1"]),
        (["--weight_decay=-1"], ["weight_decay = -1, expected at least 0"]),
        (
            ["--data_dir=named"],
            ["expected 'steps' to be a list, found a dict: 'question', 'step', 'answer'"],
        ),
        (["--data_dir=within"], ["expected a list of problems", "found a dict: 'examples'"]),
        (["--data_dir=endless", "--tokenizer=gpt2"], ["endless/train.json: example 1: a text of 1,000,001 characters"]),
        (["--learning_rate=1e-3"], ["no setting 'learning_rate'; did you mean lr?"]),
        (["--uniform_prob=3"], ["uniform_prob = 3, expected at most 1"]),
        (["good/train.json"], ["good/train.json: expected a config file, NAME.py"]),
        (["--steps=0"], ["steps", "at least 1"]),
        (["--max_latent_stage=1000000"], ["max_latent_stage = 1000000", "at most 1000"]),
        (["--max_latent_stage=100000000000000000000"], ["max_latent_stage", "at most 1000"]),
        (["--c_thought=10000000000000000000"], ["c_thought", "at most 1000"]),
        (["--max_new_tokens=999999999999999"], ["max_new_tokens", "at most 1000000000"]),
        (["--data_dir=good", "--n_layer=1000", "--n_embd=20000"], ["4,800,2", "parameters", "at most 20,000,000,000"]),
        (["configs/nothing.py"], ["configs/nothing.py: no such config file in the current folder, "]),
        (["-step_format={}\n"], ["-step_format={}: no such config file"]),
        (["configs/hops.py"], ["configs/hops.py: no such", "in the current folder, ", "did you mean ", "hops.py?"]),
        (["--lr", "1e-3", "5e-4"], ["5e-4: no such config file", "settings are --name=value or --name=value,value"]),
        (["configs/hops.py", "--steps=9,", "12"], ["'12'", "settings are given as --name=value or --name=value,value"]),
        (["--out_dir=out/x", "configs/nothing.py"], ["configs/nothing.py: no such config file"]),
        pytest.param(
            ["--method=simcott"],
            ["'simcott'", "methods/simcott.py", "did you mean simcot?"],
            marks=only_with("methods/simcot.py"),
        ),
        (
            ["--data_dir=data/hops"],
            ["data/hops/train.json: no such file in the current folder, ", "prepare_hops.py` m"],
        ),
        (["--data_dir=typo.py"], ["typo.py/train.json", "typo.py is a file, expected a folder"]),
        (["--data_dir=lines"], ["lines/train.json", "not JSON", "one problem a line?"]),
        (["--data_dir=blank"], ["blank/train.json: an empty file"]),
        (["typo.py"], ["typo.py, line 2", "batch_sise", "did you mean batch_size?"]),
        (["code.py"], ["code.py, line 1", "name = value"]),
        (["broken.py"], ["broken.py", "line 1"]),
        (["null.py"], ["null.py", "not a config file"]),
        (["both.py"], ["both.py, line 1", "name = value"]),
        (["typed.py"], ["typed.py, line 1", "n_layer", "int"]),
        (["--data_dir=nowhere"], ["nowhere/train.json", "no such file"]),
        (["--data_dir=broken"], ["broken/train.json", "not JSON", "line 2 column 13"]),
        (["--data_dir=keyless"], ["keyless/train.json", "example 1", "'answer'"]),
        (["--data_dir=mistyped"], ["mistyped/train.json", "example 0", "'steps'"]),
        (["--data_dir=empty"], ["empty/train.json", "not empty"]),
        (["--data_dir=long"], ["long/train.json", "example 1", "82 + 0 + 11 positions", "block_size is 64"]),
        (
            ["--data_dir=long", "--max_latent_stage=6", "--c_thought=5", "--block_size=101", "--pad_latent_to_max"],
            ["example 1", "82 + 30 + ", "block_size is 101, expected at least 1"],
        ),
        (["--data_dir=marked"], ["marked/train.json", "example 0", "'###'", "answer_format"]),
        (["--data_dir=good", "--answer_format= c{}"], ["good/train.json", "example 0", "'c'", "answer_format"]),
        (["--data_dir=good", "--step_format== {}", "--answer_format== {}"], ["example 0", "'='", "answer_format"]),
        (["--data_dir=half", "--tokenizer=chars"], ["half/train.json", "example 0", "no character"]),
        (["--data_dir=good", "--n_head=3"], ["n_embd=128", "n_head=3"]),
        pytest.param(
            ["--data_dir=good", "--model=llama", "--init=induction"],
            ["init=induction is for model=gpt2"],
            marks=only_with("pretrained/llama.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--model=llama", "--n_kv_head=3"],
            ["n_head=4 is not a multiple of n_kv_head=3"],
            marks=only_with("pretrained/llama.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--model=llama", "--head_dim=7"],
            ["head_dim=7 is odd"],
            marks=only_with("pretrained/llama.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--model=llama", "--n_layer=1000", "--n_inner=1000000"],
            ["parameters", "at most 20,0"],
            marks=only_with("pretrained/llama.py"),
        ),
        (["--data_dir=good", "--tokenizer=source"], ["--tokenizer=source", "init_from", "'scratch'"]),
        (["--data_dir=good", "--init_from=smollm"], ["smollm: no such file or folder", "smollm2-135m", "hf:owner"]),
        (["--data_dir=good", "--device=gpu"], ["--device=gpu", "does not work here"]),
        (["--dropout=1.5"], ["dropout", "at most 1"]),
        (["--lr=()"], ["lr", "at least one value"]),
        (["--lr={[]:1}"], ["lr", "float"]),
        (["--answer_format=###"], ["answer_format", "{}"]),
        (["--answer_format={}"], ["answer_format", "mark"]),
        pytest.param(
            ["--data_dir=good", "--task=graphs"],
            ["--task=graphs needs --names=REGEX"],
            marks=only_with("tasks/graphs.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--task=graphs", "--names=[a-"],
            ["names", "regular expression"],
            marks=only_with("tasks/graphs.py"),
        ),
        pytest.param(
            ["--data_dir=good", "--task=graphs", "--names=[a-j]", "--steps=1"],
            ["names", "does not match"],
            marks=only_with("tasks/graphs.py"),
        ),
        (["--resume", "--overwrite"], ["expected one of them"]),
        (["--out_dir="], ["out_dir is empty"]),
        (["--data_dir=good,good,good,good,good,good"], ["data_dir: 6 folders for 5 stages"]),
        (["--resume", "--data_dir=good"], ["out/hops/ckpt.pt", "no such checkpoint"]),
    ],
)
def test_training_refuses_bad_input(argv, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "typo.py": '"""A config."""\nbatch_sise = 3\n', "code.py": "import os\n", "broken.py": "lr = = 3\n",
        "null.py": "lr = 3\0\n", "both.py": "lr = seed = 3\n",
        "typed.py": "n_layer = 'two'\n",
        **dict.fromkeys(splits("broken"), '[{"question": "",\n  "steps": [}]'), **splits("empty"),
        **dict.fromkeys(splits("lines"), f"{json.dumps(PROBLEM)}\n{json.dumps(PROBLEM)}\n"),
        **dict.fromkeys(splits("blank"), "\n"),
        **splits("keyless", PROBLEM, {"question": "q", "steps": []}), **splits("good", PROBLEM),
        **splits("mistyped", {**PROBLEM, "steps": ["a", 1]}), **splits("long", PROBLEM, LONG),
        **splits("named", {"question": "q", "step": [], "answer": "a"}),
        **dict.fromkeys(splits("within"), json.dumps({"examples": [PROBLEM]})),
        **splits("endless", PROBLEM, {**PROBLEM, "question": " " * 1_000_000}),
        **splits("marked", {**PROBLEM, "answer": "a ### b"}), **splits("half", {**PROBLEM, "question": "\ud83d"}),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    error = fails(train.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize("flags", [["--prompt=2+2"], ["--prompt", "2+2"]])
def test_a_question_by_another_name(flags, capsys, monkeypatch):
    """Catches "there is no setting 'prompt'", and no more."""
    assert "there is no setting 'prompt'; did you mean question?" in fails(sample.main, flags, capsys, monkeypatch)


def test_sampling_refuses_bad_input(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such checkpoint in the current folder" in fails(sample.main, [], capsys, monkeypatch)
    (tmp_path / "ckpt.pt").write_text("not a checkpoint")
    assert "ckpt.pt: not a checkpoint" in fails(sample.main, ["--out_dir=."], capsys, monkeypatch)


CONFIGS = sorted(glob.glob(os.path.join(HERE, "configs", "*.py")))


LATER = "simcot", "codi", "pccot", "lotus"


@pytest.mark.parametrize("method", [*TABLE_1, *(pytest.param(m, marks=only_with(f"methods/{m}.py")) for m in LATER)])
def test_every_method_is_one_flag_away_from_every_config(method):
    """Catches a baseline that a config cannot be changed into, since it says how to think."""
    for path in CONFIGS:
        own = re.search(r'^method = "(.*?)"', open(path, encoding="utf-8").read(), re.MULTILINE)
        if not is_there(f"--method={own[1] if own else 'coconut'}"):
            continue
        file = parse(config_class, [path], "", takes_file=True)
        cfg = leave_out(parse(config_class, [path, f"--method={method}"], "", takes_file=True))
        assert cfg.steps == file.steps and cfg.lr == file.lr and cfg.method == method
        known = objective_class(cfg).all_weights()
        assert known["ce"] == 1 and {text.partition(":")[0] for text in cfg.losses} <= known.keys()
        if kind_of(method).instead != "thought":
            assert cfg.feedback == "last"
            assert any("feedback" in left for left in cfg.left_out) == (file.feedback != "last")
            assert not hasattr(cfg, "thought_targets") and not hasattr(cfg, "rounds")


@only_with("methods/simcot.py", "methods/codi.py", "methods/sets.py", "methods/seq_vcr.py")
def test_what_is_left_out_of_a_config_is_said(capsys, monkeypatch, tmp_path):
    """Catches a setting that silently does nothing."""
    monkeypatch.chdir(tmp_path)
    for path, text in splits("data", PROBLEM).items():
        os.makedirs("data", exist_ok=True)
        open(path, "w").write(text)
    open("one.py", "w").write('method = "codi"\nteacher_writes = "all"\nlosses = ("ce:2", "distance:3")\n')

    def left_out(*argv):
        return leave_out(parse(config_class, argv, "", takes_file=True)).left_out

    assert left_out("one.py", "--method=no_cot") == ["teacher_writes='all'", "the loss distance:3"]
    assert left_out("one.py", "--method=coconut", "--losses=ce:2") == ["teacher_writes='all'"]
    assert left_out("one.py", "--method=codi+seq_vcr") == left_out("one.py", "--method=cot", "--method=codi") == []
    open("wrong.py", "w").write('method = "simcot"\nteacher_writes = "all"\n')  # codi's: an error, and not left out
    with pytest.raises(UserError, match="wrong.py, line 2: there is no setting 'teacher_writes'"):
        left_out("wrong.py", "--method=no_cot")
    open("none.py", "w").write("feedback = 'last'\nlosses = ()\n")
    assert not left_out("none.py", "--method=cot")
    text = 'method = "coconut+sets"\nfeedback = "soft"\nlosses = ("ce:2", "members")\nthought_targets = "steps"\n'
    open("soft.py", "w").write(text)
    flags = ["--data_dir=data", "--steps=1", "--n_layer=1", "--n_head=1", "--n_embd=8", "--device=cpu"]
    train.main(["soft.py", "--method=no_cot", *flags])
    said = "since method=no_cot has no use for it: thought_targets='steps', the loss members, feedback=soft\n"
    assert said in capsys.readouterr().out
    error = fails(train.main, ["soft.py", "--method=no_cot", "--feedback=soft", *flags], capsys, monkeypatch)
    assert "feedback=soft: method=no_cot does not think" in error
    wrong = ["soft.py", "--method=no_cot", "--losses=members", "--out_dir=out/other", *flags]
    error = fails(train.main, wrong, capsys, monkeypatch)
    assert "losses = 'members', expected NAME:WEIGHT" in error
    error = fails(train.main, ["soft.py", "--method=no_cot", "--thought_targets=steps"], capsys, monkeypatch)
    assert "--thought_targets: there is no setting 'thought_targets'" in error


# ---------------------------------------------------------------- the command line


def settings(*argv):
    return parse(config_class, argv, "", takes_file=True)


def test_folders_may_be_called_anything(tmp_path, monkeypatch):
    """Catches a folder with a comma in its name taken for two, and one that is called ~."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    os.makedirs("data/a,b")
    assert settings("--data_dir=data/a,b").data_dir == ("data/a,b",)
    assert settings("--data_dir=data/a,c").data_dir == ("data/a", "data/c")[:1] + ("c",)
    assert settings("--out_dir=~/y", "--data_dir=~/x,z").data_dir == ("/home/ann/x", "z")
    assert settings("--out_dir=~/y").out_dir == "/home/ann/y"
    open("home.py", "w").write('out_dir = "~/z"\n')
    assert settings("home.py").out_dir == "/home/ann/z" and settings("--config", "home.py").out_dir == "/home/ann/z"
    assert settings("--peek", "True").peek and not settings("--peek", "FALSE").peek


def test_help_shows_what_matters_with_the_values_of_the_config(capsys):
    """Catches a list of everything, defaults that the named config does not have, and lines that a terminal wraps."""

    def shown(*argv):
        with pytest.raises(SystemExit) as e:
            settings(*argv)
        assert not e.value.code
        return capsys.readouterr().out

    config = os.path.join(HERE, "configs", "hops.py")
    short, everything = shown("--help"), shown("--help=all")
    assert {*TrainConfig.rare} < {f.name for f in dataclasses.fields(TrainConfig)}
    for text in (short, everything, shown(config, "-h", "--lr=3")):
        assert all(len(line) <= 80 for line in text.splitlines())
    for f in dataclasses.fields(TrainConfig):
        assert f"  --{f.name}=" in everything and (f"  --{f.name}=" in short) == (f.name not in TrainConfig.rare)
    groups = ["what to do", "data", "method", "model", "optimisation", "evaluation, files, machine"]
    assert [line for line in short.splitlines() if line in groups] == groups and "--help=all" in short
    assert "--steps=3000,1000 " in shown(config, "--help") and "--peek=True " in shown(config, "--help")
    assert "--lr=3.0 " in shown(config, "--lr=3", "-h")


@only_with("methods/lotus.py", "methods/simcot.py")
def test_help_of_a_method_has_its_own_settings(capsys):
    with pytest.raises(SystemExit):
        settings("--method=lotus", "--help")
    assert "\nthe method, task or model\n  --passes=6 " in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean simcot"):
        settings("--method=simcott", "--help")


@pytest.mark.parametrize("script", ["train.py", "lab.analyze"])
def test_help_without_docstrings(script, tmp_path):
    """Catches a traceback under python -OO, which takes the docstrings away."""
    done = command(tmp_path, script, "--help", env=os.environ | {"PYTHONOPTIMIZE": "2"})
    assert done.returncode == 0 and "settings and their defaults:" in done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["--symbols"])
def test_further_help_without_docstrings(flag, tmp_path):
    done = command(tmp_path, "prepare_prosqa.py", flag, "--help", env=os.environ | {"PYTHONOPTIMIZE": "2"})
    assert done.returncode == 0 and "--chains=" in done.stdout, done.stderr
