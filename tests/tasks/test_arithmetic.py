"""
Arithmetic with names: what prepare_arithmetic.py writes.

Each test names the mistake that it would catch.
"""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import HERE, TINY, command, fails, run_to_the_end

import data
import sample
import train
from config import parse
from curriculum import config_class
from tasks import prepare_arithmetic
from tokenizer import make_tokenizer

SPLITS = "train", "valid", "test"


def make(folder, *more, train=2000):
    prepare_arithmetic.main([f"--train={train}", "--valid=100", "--test=100", f"--out_dir={folder}", *more])
    return {name: data.load_json(f"{folder}/{name}.json") for name in SPLITS}


def read(problem):
    """({name: (what it is defined by, and how)}, the name asked for) of a question."""
    (definitions,) = re.fullmatch(r"((?:\w \w[-+*]\d |\w = \d )*)\w \?", problem["question"]).groups()
    found = {b: (a, op) for a, b, op in re.findall(r"(\w) (\w)([-+*]\d) ", definitions)}
    return found | {a: ("", n) for a, n in re.findall(r"(\w) = (\d) ", definitions)}, problem["question"][-3]


def work_out(name, definitions, modulus):
    """[(variable, operation, its value), ...] on the way to a variable, from what the question says, nothing else."""
    of, op = definitions[name]
    before = work_out(of, definitions, modulus) if of else [("", "", "")]
    return before + [(name, op, eval(f"{before[-1][-1]}{op}") % modulus)]


@pytest.mark.parametrize("modulus, depth, distractors", [(7, 4, 2), (10, 6, 0), (3, 1, 24), (5, 25, 0)])
def test_answers_are_right_and_take_all_steps(modulus, depth, distractors, tmp_path):
    """Catches a wrong result, a step that is not about the question, and a distractor on the way to the answer."""
    splits = make(tmp_path, f"--modulus={modulus}", f"--depth={depth}", f"--distractors={distractors}", train=300)
    identities, first = [], Counter()
    for problem in sum(splits.values(), []):
        definitions, asked = read(problem)
        assert len(definitions) == 1 + depth + distractors
        (given, number, _), *way = work_out(asked, definitions, modulus)[1:]
        assert problem["steps"] == [f"{given} = {number}", *(f"{name}{op} = {value}" for name, op, value in way)]
        assert len(way) == depth and problem["answer"] == str(way[-1][-1])
        identities.append((frozenset(definitions.items()), asked))
        first[problem["question"].startswith(given + " =")] += 1
    assert len({*identities}) == 500, "a problem occurs twice, with its definitions in another order"
    assert 0 < first[True] < 500  # definitions are in any order


def test_each_answer_is_as_likely_as_any_other(tmp_path):
    """Catches a product with 0, or another operation after which what came before does not matter."""
    problems = make(tmp_path, "--modulus=6", train=6000)["train"]
    counts = Counter(p["answer"] for p in problems)
    assert {*counts} == {*"012345"} and max(counts.values()) < 1.2 * min(counts.values())
    operations = {op for p in problems for op in re.findall(r"[-+*]\d", p["question"])}
    assert operations == {f"{sign}{n}" for sign in "+-" for n in range(1, 6)} | {"*5"}
    for p in problems[:500]:  # another number to begin with, another answer
        definitions, asked = read(p)
        (given,) = (name for name, (of, _) in definitions.items() if not of)
        answers = [work_out(asked, definitions | {given: ("", n)}, 6)[-1][-1] for n in "012345"]
        assert sorted(answers) == [0, 1, 2, 3, 4, 5] and int(p["answer"]) in answers


def test_the_seed_decides_the_files(tmp_path, capsys):
    """Catches a random number from elsewhere, and statistics of something else."""
    one, two, three = (make(tmp_path / name, f"--seed={seed}") for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert one == two and one["train"] != three["train"]
    out = capsys.readouterr().out
    assert "train.json: 2,000 problems, such as {'question': " in out and out.count("answers: 0 1") == 3


def test_a_name_a_sign_and_an_operation_are_one_token_each(tmp_path):
    """Catches a spelling in which a name is another token where it is used than where it is defined."""
    make(tmp_path, train=500)
    flags = [os.path.join(HERE, "configs", "arithmetic.py"), f"--data_dir={tmp_path}"]
    cfg = parse(config_class, flags, "", takes_file=True)
    problem = {"question": "a b+6 a = 4 b ?", "steps": ["a = 4", "b+6 = 3"], "answer": "3"}
    tok = make_tokenizer("words", data.find_pieces(data.load_json(tmp_path / "train.json"), cfg))
    spelled = [tok.decode_tokens_bytes(tok.encode_ordinary(text)) for text in data.texts(problem, cfg)]
    assert [b"|".join(tokens).decode() for tokens in spelled] == [
        " a| b|+6| a| =| 4| b| ?", " a| =| 4", " b|+6| =| 3", " #| 3"
    ]  # fmt: skip
    for split in SPLITS:
        assert len(data.load(f"{tmp_path}/{split}.json", cfg, tok)) >= 100  # all of them fit into block_size


def test_it_is_trained_as_a_user_would(tmp_path):
    """Catches whatever falls between the parts: data, config, curriculum, samples."""
    sizes = ["--train=60", "--valid=9", "--test=9"]
    assert command(tmp_path, "tasks.prepare_arithmetic", *sizes).returncode == 0
    flags = [flag for flag in TINY if not flag.startswith("--data_dir")]
    config = os.path.join(HERE, "configs", "arithmetic.py")
    trained = command(tmp_path, "train.py", config, *flags, "--n_layer=2", "--steps=2", "--batch_size=8")
    assert trained.returncode == 0, trained.stderr
    assert "stage 5 of 5: 5 thoughts in place of 5 of 5 steps" in trained.stdout
    sampled = command(tmp_path, "sample.py", "--count=1", "--json")
    (question,) = json.loads(sampled.stdout)["questions"]
    assert len(question["thoughts"]) == 5 and question["expected"] in "0123456"


def test_soft_tokens_are_trained_evaluated_resumed_and_sampled(tmp_path, monkeypatch, capsys):
    """Catches given thoughts that are other tokens than those that a step has, and a phase that is not resumed."""
    pytest.importorskip("methods.sets")
    monkeypatch.chdir(tmp_path)
    prepare_arithmetic.main(["--train=60", "--valid=9", "--test=9"])
    config, sizes = os.path.join(HERE, "configs", "arithmetic_soft.py"), ["--n_head=2", "--n_embd=16", "--device=cpu"]
    flags = [config, *sizes, "--batch_size=4", "--steps=3,5", "--eval_every=4", "--log_every=1"]
    whole = run_to_the_end([*flags, "--out_dir=out/whole"])
    parts = run_to_the_end([*flags, "--out_dir=out/parts"], stop_at=(2, 6))
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), parts.model.parameters()))
    assert open("out/whole/log.txt").read() == open("out/parts/log.txt").read()
    rng = np.random.default_rng(0)
    (row,) = data.training_rows(whole.problems["train"], [(0, 6)], 0, whole.cfg, whole.task, rng)
    thoughts = whole.objective.true_thoughts(data.collate([row]).extra["targets"][:, :-1])[0]
    first, second = whole.problems["train"][0].steps[:2]  # of three tokens and four; each has four thoughts
    words = whole.model.base.wte.weight
    torch.testing.assert_close(thoughts[1:4], words[first])  # fed back by the thought after the one that says it
    torch.testing.assert_close(thoughts[5:9], words[second])
    capsys.readouterr()
    train.main(["--eval_only=out/parts"])
    sample.main(["out/parts", "--count=1"])
    assert "thought 20" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--depth=20", "--distractors=6"], ["--depth=20 --distractors=6", "names for 26 variables"]),
        (["--modulus=11"], ["modulus = 11, expected at most 10"]),
        (["--modulus=2"], ["modulus = 2, expected at least 3"]),
        (["--modulus=3", "--depth=1", "--distractors=0", "--train=20000"], ["different problems of this kind"]),
    ],
)
def test_mistakes_are_named(argv, parts, tmp_path, monkeypatch, capsys):
    """Catches a traceback, and an endless search for problems that are not there."""
    monkeypatch.chdir(tmp_path)
    error = fails(prepare_arithmetic.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error
    assert not os.listdir(tmp_path)
