"""
What 7185c79 has written still loads: best.pt of format 4, and folders exported from them (format4/make.py).
"""

import json
import os
import shutil

import pytest
import torch
from helpers import HERE, fails, needs, run_to_the_end

import data
import sample
import train
from checkpoint import load_checkpoint
from config import UserError, parse
from curriculum import Row, change, config_class, row_for
from evaluate import evaluate, percent
from pretrained import export
from pretrained.weights import its_thinking, load_model
from tokenizer import EOS

FOLDER = os.path.join(HERE, "tests", "pretrained", "format4")
with open(os.path.join(FOLDER, "expected.json")) as f:
    EXPECTED = json.load(f)
METHODS = {  # what it is called now: (method, feedback)
    "coconut": ("coconut", "last"),
    "gate": ("coconut", "gate"),
    "ponder": ("coconut+ponder", "last"),
    "classifier": ("coconut+stop", "last"),
    "llama": ("coconut", "last"),
    "codi": ("codi", "projection"),
    "learned": ("coconut", "soft+layer:-2+vector"),
    "lotus": ("lotus", "last"),
    "pccot": ("pccot", "projection+vector"),
    "in_place": ("coconut+lotus", "last"),
    "back": ("coconut+back+simcot", "last"),
    "cot": ("cot", "last"),
    "sets": ("no_curriculum+sets", "members"),
}
EXPORTED = "gate", "learned", "classifier", "in_place", "pccot"


def path_of(name):
    return os.path.join(FOLDER, f"{name}.pt")


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """A function: the problems that a model was tested with; the files are in data/, beside which tokens are kept."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("data")
    for split in "train", "valid", "test":
        shutil.copy(os.path.join(FOLDER, "circle.json"), f"data/{split}.json")
    shutil.copy(os.path.join(FOLDER, "graph.json"), "data/graph.json")

    def load(name, cfg, tok, pieces):
        return data.load("data/graph.json" if name == "sets" else "data/test.json", cfg, tok, pieces)

    return load


@torch.no_grad()
def answers(model, problems, stage, cfg, tok):
    """[[tokens, thoughts], ...] of the first five problems; with as many thoughts as they were trained with."""
    rows = [row_for(problem, stage, cfg, tok) for problem in [*problems][:5]]
    batch, eos = (
        data.collate([Row(row.prefix, row.n, row.prompt.eot, []) for row in rows]),
        tok.encode_single_token(EOS),
    )
    model.may_stop = False
    segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
    tokens, thoughts = model.generate(*segments, 8, eos=eos, return_thoughts=True)
    return [*zip(tokens.tolist(), thoughts)]


def same(found, expected):
    """Whether two lists of answers are: the same tokens, and thoughts to 1e-5."""
    return all(
        tokens == theirs and torch.allclose(thoughts, torch.tensor(wanted).view_as(thoughts), atol=1e-5, rtol=1e-5)
        for (tokens, thoughts), (theirs, wanted) in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_model_gives_what_it_gave(name, problems):
    """Catches a name, a method or a setting that is translated wrongly: answers, thoughts, loss, where it stops."""
    needs(METHODS[name][0])
    model, cfg, tok, saved = load_checkpoint(path_of(name))
    assert (cfg.method, cfg.feedback) == METHODS[name]
    asked, expected = problems(name, cfg, tok, saved["pieces"]), EXPECTED[name]
    found = evaluate(model, asked, saved["stage"], cfg, tok)
    for what in "loss", "accuracy", "tokens", "thoughts", "thought_norm":
        assert found[what] == pytest.approx(expected[what], rel=1e-5), what
    hits = {what: share for what, share in expected.items() if what[:8] == "thought_" and what[8:].isdecimal()}
    assert found.items() >= (hits if "back" not in cfg.method else {}).items()  # simcot's head is not counted any more
    assert same(answers(model, asked, saved["stage"], cfg, tok), expected["answers"])


@pytest.mark.parametrize("name", ["coconut", "ponder", "llama", "sets"])
def test_it_goes_through_the_scripts(name, problems, capsys):
    """Catches what only a script wants to know of a checkpoint."""
    needs(METHODS[name][0])
    file = "data/graph.json" if name == "sets" else "data/test.json"
    train.main([f"--eval_only={path_of(name)}", f"--eval_file={file}", "--device=cpu"])
    assert f"test accuracy {percent(EXPECTED[name]['accuracy'], 40)} on 40 problems" in capsys.readouterr().out
    sample.main([path_of(name), f"--file={file}", "--count=2", "--device=cpu", "--json"])
    seen = json.loads(capsys.readouterr().out)["questions"]
    if name != "ponder":  # which stops when it likes
        assert [len(each["thoughts"]) for each in seen] == [len(t) for _, t in EXPECTED[name]["answers"][:2]]


def test_a_run_begins_with_it_and_goes_on(problems, capsys, monkeypatch):
    """Catches weights that are left out, and a checkpoint that is written in a mixture of formats."""
    flags = ["--data_dir=data", "--tokenizer=words", "--question_format= {}", "--step_format= {}",
             "--answer_format= = {}", "--max_latent_stage=2", "--steps=2", "--out_dir=out", "--device=cpu"]  # fmt: skip
    run = train.Run(parse(config_class, [*flags, f"--init_from={path_of('gate')}", "--feedback=gate"], ""))
    old = load_checkpoint(path_of("gate"))[0].state_dict()
    assert old.keys() == run.model.state_dict().keys()
    names = [name for name in old if name != "base.wte.weight"]  # other words may be known
    assert all(torch.equal(run.model.state_dict()[name][: len(old[name])], old[name]) for name in names)
    run_to_the_end([*flags, f"--init_from={path_of('gate')}"], stop_at=[3])
    assert "was trained to think with feedback=gate, and goes on with last" in capsys.readouterr().out
    assert load_checkpoint("out/best.pt")[3]["format"] == 5


def test_it_is_not_resumed(problems, capsys, monkeypatch):
    """Catches a run that goes on with another optimizer than it had; all else can be done with its ckpt.pt."""
    os.mkdir("out")
    saved = torch.load(path_of("coconut"), weights_only=True)
    torch.save(saved | {"optimizer": {}, "objective": {}, "rng": []}, "out/ckpt.pt")
    flags = ["--data_dir=data", "--question_format= {}", "--step_format= {}", "--answer_format= = {}", "--out_dir=out"]
    error = fails(train.main, [*flags, "--resume"], capsys, monkeypatch)
    assert "out/ckpt.pt cannot be resumed: no optimizer in it" in error and "Of format 4?" in error
    train.main(["--eval_only=out", "--eval_file=data/test.json", "--device=cpu"])
    assert "(out/ckpt.pt)" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [{"fixed_positions": True}, {"thought_positions": "shared"}])
def test_what_has_gone_for_good_is_said(setting, tmp_path):
    saved = torch.load(path_of("coconut"), weights_only=True)
    torch.save(saved | {"config": saved["config"] | setting}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="best.pt: of format 4, with .*have gone"):
        load_checkpoint(str(tmp_path / "best.pt"))


@pytest.mark.parametrize("by", ["us", "7185c79"])
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_it_thinks_the_same(name, by, problems, capsys):
    """Catches weights that a folder lacks, and a note in config.json that is not understood."""
    needs(METHODS[name][0])
    _, cfg, tok, saved = load_checkpoint(path_of(name))
    export.main([path_of(name), "exported"])
    assert not {"model.safetensors", "config.json", "thinking.safetensors"} - {*os.listdir("exported")}
    if by == "7185c79":
        shutil.copytree(os.path.join(FOLDER, name), "exported", dirs_exist_ok=True)
    noted = its_thinking("exported")
    method = cfg.method.replace("pccot", "coconut+pccot" if by == "7185c79" else "pccot")
    assert (noted["method"], noted["feedback"]) == (method, cfg.feedback)
    plain = config_class({})(tokenizer="words", max_latent_stage=2)
    plain.origin = {}
    capsys.readouterr()
    model, its = load_model("exported", plain, tok)
    assert capsys.readouterr().out == "" and its.method == method and its.feedback == cfg.feedback
    asked = problems(name, cfg, tok, saved["pieces"])
    assert same(answers(model.eval(), asked, saved["stage"], cfg, tok), EXPECTED[name]["answers"])

    plain = change(plain, init_from="exported")  # a training run has a will of its own
    model, its = load_model("exported", plain, tok)
    said = capsys.readouterr().out
    assert (its.method, its.feedback) == ("coconut", "last")
    assert ("thinking.safetensors: left out" in said) and said.count("was trained to think with") == len(
        [what for what in ("method", "feedback") if noted[what] != getattr(plain, what)]
    )


@pytest.mark.parametrize(
    "noted, said",
    [
        ({"feedback": "gate"}, ""),
        ({"feedback": 3}, "config.json: feedback = 3, expected str"),
        ({"feedback": "last", "passes": "x"}, "config.json: passes = 'x', expected int"),
        ({"feedback": "last", "thought_positions": "shared"}, "config.json: of format 4, with thoughts that share"),
        ({"nanococonut": 3}, "config.json: nanococonut is 3, expected {name: value}"),
        ({"nanococonut": {"method": "no_such"}}, "'no_such' would be methods/no_such.py, which is not there"),
        ({"nanococonut": {"methods": "coconut"}}, "config.json: there is no setting 'methods'; did you mean method"),
        ({"nanococonut": {"passes": 3}}, "config.json: there is no setting 'passes'"),
        ({"nanococonut": {}}, ""),
    ],
)
def test_what_is_noted_of_thinking_is_checked(noted, said, tmp_path):
    """Catches a traceback where somebody has changed a config.json by hand, or an early export said less."""
    needs("pccot" if "passes" in noted else "coconut")
    (tmp_path / "config.json").write_text(json.dumps(noted))
    (tmp_path / "model.safetensors").write_bytes(b"")
    if said:
        with pytest.raises(UserError) as e:
            its_thinking(str(tmp_path))
        assert said in str(e.value) and "\n" not in str(e.value)
    else:
        found = its_thinking(str(tmp_path))
        assert found == ({"method": "coconut", "feedback": "gate"} if "feedback" in noted else {})
