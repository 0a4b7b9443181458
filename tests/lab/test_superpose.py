"""superpose.py: two graphs in one question, two searches in one chain of thoughts."""

import json
import os
import random
import re

import pytest
import torch
from helpers import fails, run_to_the_end

import data
import prepare_prosqa
from checkpoint import load_checkpoint
from config import UserError
from curriculum import make_prompt
from evaluate import solve
from lab import superpose

TINY = """--question_format= {} --step_format= {} --answer_format= = {} --method=no_curriculum
    --max_latent_stage=3 --pad_latent_to_max --markers=eot --block_size=150 --n_layer=2
    --n_head=2 --n_embd=16 --batch_size=2 --steps=2 --eval_every=2 --data_dir=data/two --device=cpu"""
TINY = [f"--{flag.rstrip()}" for flag in TINY.split("--")[1:]]


def write(path, problems):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as f:
        json.dump(problems, f)


def test_two_graphs_stand_in_one_question():
    """Catches edges that are lost, and two graphs that meet in a node."""
    a = {"question": "0 1 | 1 2 | 0 3 | to 2 or 3 from 0", "steps": ["1", "2"], "answer": "2"}
    b = {"question": "2 0 | 0 1 | to 1 or 3 from 2", "steps": ["0", "1"], "answer": "1"}
    names = [str(i) for i in range(9)]
    both = superpose.put_together(a, b, names, random.Random(0))
    for p in both:
        edges, question = p["question"].split(" to ")
        assert sorted(re.findall(r"\d+ \d+", edges)) == ["0 1", "0 3", "1 2", "4 5", "6 4"]
        assert edges.count("|") == 5
    assert [p["question"].partition(" to ")[2] for p in both] == ["2 or 3 from 0", "5 or 7 from 6"]
    assert [(p["steps"], p["answer"]) for p in both] == [(["1", "2"], "2"), (["4", "5"], "5")]
    with pytest.raises(UserError, match="two graphs of 4 and 4 nodes, but the model knows 7 names"):
        superpose.put_together(a, b, names[:7], random.Random(0))


@pytest.mark.parametrize("feedback", ["members", "last"])
def test_it_thinks_on_as_the_model_does(feedback, tmp_path, monkeypatch, capsys):
    """Catches another thought, position or past than those with which a model thinks by itself."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--nodes=7,8", "--names=8", "--hops=2,3", "--valid=9", "--test=9", "--symbols"]
    names = [str(i) for i in range(16)]
    prepare_prosqa.main(["--generate=9", *sizes, "--out_dir=data/one"])
    pairs = [superpose.put_together(p, p, names, random.Random(0)) for p in data.load_json("data/one/train.json")]
    for split in "train", "valid", "test":
        write(f"data/two/{split}.json", [p for pair in pairs for p in pair])
    run_to_the_end([*TINY, f"--feedback={feedback}", "--out_dir=out/two"])
    model, cfg, tok, _ = load_checkpoint("out/two/best.pt")
    prompt = make_prompt(data.encode(pairs[0], cfg, tok)[0].question, 3, cfg, tok)
    with torch.no_grad():
        thoughts = superpose.think_on(model, *superpose.read_question(model, prompt), 3)
    torch.testing.assert_close(thoughts, solve(model, [prompt], cfg, tok, 2)[0][2], atol=1e-5, rtol=0)
    capsys.readouterr()
    superpose.main(["out/two", "data/one/test.json", "--count=5"])
    assert "2 pairs of questions, each about two graphs in one text; 3 thoughts" in capsys.readouterr().out
    write("words.json", [{"question": "to be or not", "steps": [], "answer": "be"}])
    assert "expected graphs in symbols" in fails(superpose.main, ["out/two", "words.json"], capsys, monkeypatch)
    write("one.json", data.load_json("data/one/test.json")[:1])
    assert "two or more, found 1 questions" in fails(superpose.main, ["out/two", "one.json"], capsys, monkeypatch)
    assert "the model knows 16 names" in fails(superpose.main, ["out/two", "data/two/test.json"], capsys, monkeypatch)
    run_to_the_end([*TINY, "--method=no_cot", "--out_dir=out/no"])
    assert "expected a model that thinks" in fails(
        superpose.main, ["out/no", "data/one/test.json"], capsys, monkeypatch
    )
