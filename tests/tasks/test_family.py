"""
Families in sentences (prepare_family.py): the answers are those of the text, guessing does not help, and it trains.
"""

import json
import os
import random
import re

import pytest
import torch
from helpers import FORMATS, HERE, fails, hops_flags, run_to_the_end

import prepare_hops
import prepare_prosqa
import sample
import train
from checkpoint import new_base
from config import TrainConfig, parse
from curriculum import config_class, make_model
from data import encode, find_pieces, load_json
from tasks import prepare_family
from tasks.facts import step_distance
from tasks.prepare_family import MEN, WOMEN
from tokenizer import make_tokenizer

FACT = re.compile(r"(\w+) is the (mother|father) of (\w+)\. ")
GENERATIONS = {"parent": 1, "grandparent": 2, "great-grandparent": 3, "great-great-grandparent": 4}


def read(question):
    """({child: parent} and {parent: "mother" or "father"} as the text has them, generations asked for, of whom)."""
    facts = FACT.findall(question)
    rest = FACT.sub("", question)
    relation, person = re.fullmatch(r"Who is the ([\w-]+) of (\w+)\?", rest).groups()
    return {c: p for p, _, c in facts}, {p: role for p, role, _ in facts}, GENERATIONS[relation], person


def generate(n, people=10, steps=(2, 3), seed=0):
    rng = random.Random(seed)
    return [prepare_family.make_problem(rng, people, rng.choice(steps))[0] for _ in range(n)]


@pytest.mark.parametrize("people, steps", [(10, (2, 3)), (5, (1, 4)), (40, (3,))])
def test_answers_follow_from_the_text(people, steps):
    """Catches a parent of the wrong sex, a person with two parents, and steps or answers that the text does not say."""
    for problem in generate(500, people, steps):
        parent, role, n, person = read(problem["question"])
        assert len(parent) == people - 1 and n == len(problem["steps"]) and n in steps
        assert all((name in WOMEN) == (role[name] == "mother") for name in role)
        for step in problem["steps"]:
            person = parent[person]
            assert step == person
        assert problem["answer"] == person


def oldest(parent, person):
    return (set(parent.values()) - set(parent)).pop()


def told_last(parent, person):
    return [*parent.values()][-1]


def told_first(parent, person):
    return [*parent.values()][0]


def parent_of_the_parent(parent, person):
    """Always two steps: what there is to be had from looking twice and not reading how far to go."""
    return parent[parent[person]]


@pytest.mark.parametrize(
    "guess, least, most",
    [(oldest, 0.11, 0.16), (told_last, 0.08, 0.13), (told_first, 0.08, 0.13), (parent_of_the_parent, 0.45, 0.55)],
)
def test_guessing(guess, least, most):
    """Catches a place or a person in the text that gives the answer away. 3,000 problems: 1 % is two sigmas."""
    problems, right = generate(3000, seed=1), 0
    for problem in problems:
        parent, _, _, person = read(problem["question"])
        right += guess(parent, person) == problem["answer"]
    assert least < right / len(problems) < most


def test_names_are_drawn_anew():
    """Catches names that stand for a place in the family, and a list in which one is both a woman's and a man's."""
    assert len({*WOMEN, *MEN}) == len(WOMEN) + len(MEN) == 40
    answers = [problem["answer"] for problem in generate(4000, seed=2)]
    counts = [answers.count(name) for name in WOMEN + MEN]
    assert 60 < min(counts) and max(counts) < 140  # 100 +- 4 sigmas


def test_no_family_is_asked_the_same_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare_family.main("--people=3 --steps=1,2 --train=2000 --valid=200 --test=300 --out_dir=few".split())
    asked = []
    for name, n in (("train", 2000), ("valid", 200), ("test", 300)):
        with open(f"few/{name}.json") as f:
            problems = json.load(f)
        assert len(problems) == n
        asked += [(frozenset(parent.items()), *rest) for parent, _, *rest in (read(p["question"]) for p in problems)]
    assert len({*asked}) == len(asked)


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--people=41"], ["--people=41", "at most 40"]),
        (["--people=3"], ["--people=3", "more than 3 (steps)"]),
        (["--people=2", "--steps=1", "--train=10000"], ["different problems", "ask for fewer"]),
    ],
)
def test_impossible_families(argv, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = fails(prepare_family.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error


def test_the_config_trains_resumes_and_samples(tmp_path, monkeypatch, capsys):
    """A few steps of configs/family.py: catches settings that do not fit the data, or each other."""
    monkeypatch.chdir(tmp_path)
    prepare_family.main("--train=64 --valid=8 --test=8".split())
    flags = [os.path.join(HERE, "configs", "family.py")]
    flags += ["--steps=2", "--eval_every=1", "--batch_size=8", "--log_every=1", "--master_at=0"]
    run = run_to_the_end(flags)
    again = run_to_the_end([*flags, "--out_dir=again"], stop_at=(1, 5))
    assert all(a.equal(b) for a, b in zip(run.model.parameters(), again.model.parameters()))
    capsys.readouterr()
    train.main(["--eval_only=out/family"])
    assert "test accuracy" in capsys.readouterr().out
    sample.main(["out/family", "--count=1"])
    assert "thought 1" in capsys.readouterr().out


def test_where_the_next_step_stands(tmp_path, monkeypatch):
    """Catches a distance from another pair of words, or the wrong way round, or one where there is none."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--train=50 --valid=1 --test=1 --out_dir=hops".split())
    prepare_prosqa.main("--generate=50 --symbols --test=1 --out_dir=prosqa".split())
    prepare_family.main("--train=50 --valid=1 --test=1 --out_dir=family".split())
    families = load_json("family/train.json")
    down = [{**p, "steps": p["steps"][::-1]} for p in families]
    sentences = [{**p, "steps": [f"It is {step}." for step in p["steps"]]} for p in families]
    pathless = [{**p, "steps": p["steps"][:1]} for p in families]
    cases = [
        (load_json("hops/train.json"), 1),
        (load_json("prosqa/train.json"), 1),
        (families, -5),
        (down, 5),
        (sentences, None),  # what stands for a step of several tokens is not known
        (pathless, None),
    ]
    for problems, distance in cases:
        cfg = TrainConfig(tokenizer="words", **FORMATS)
        tok = make_tokenizer("words", find_pieces(problems, cfg))
        assert step_distance(encode(problems, cfg, tok)) == distance


@pytest.mark.parametrize("init, said", [("induction", "looks there"), ("gpt2", "would look there from the first")])
def test_weights_are_drawn_for_the_sentences(init, said, tmp_path, monkeypatch, capsys):
    """Catches weights that look one token back where the parent stands five before the child, and hops' if changed."""
    monkeypatch.chdir(tmp_path)
    prepare_family.main("--train=30 --valid=5 --test=5".split())
    prepare_hops.main("--train=30 --valid=5 --test=5".split())
    for name, where in (("family", "5 tokens before it"), ("hops", "1 token after it")):
        cfg = parse(config_class, [os.path.join(HERE, "configs", f"{name}.py"), f"--init={init}"], "", takes_file=True)
        run = train.Run(cfg)
        assert f"a step stands {where}: --init=induction {said}" in capsys.readouterr().out
        torch.manual_seed(cfg.seed)
        model = make_model(new_base(cfg, run.tok), cfg, run.tok)
        same = all(a.equal(b) for a, b in zip(model.parameters(), run.model.parameters()))
        assert same == (name == "hops" or init == "gpt2")


def plateaus(flags, capsys):
    """How often a run of 125 steps in stage 0 warns of a plateau."""
    flags = [*hops_flags(), *flags, "--max_latent_stage=1", "--steps=125,2", "--eval_every=25", "--overwrite"]
    run_to_the_end(flags)
    out = capsys.readouterr().out
    assert out.count("docs/own_data.md") == out.count("WARNING: a plateau: ")
    return out.count("WARNING: a plateau: since step 50 the validation loss has gone from")


def test_a_plateau_is_said_once(tmp_path, monkeypatch, capsys):
    """Catches a stage 0 at chance that says nothing for thousands of steps, and an alarm where something is learned."""
    monkeypatch.setattr("lab.advice.PLATEAU", 100)
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=5 --hops=1 --train=90 --valid=9 --test=9 --out_dir=data".split())
    assert plateaus(["--lr=0"], capsys) == 1
    assert plateaus(["--lr=0", "--method=no_cot"], capsys) == 0  # a baseline may well stay at chance
    copies = [{"question": letter, "steps": [letter], "answer": letter} for letter in "abcdef"] * 10
    for split in ("train", "valid", "test"):
        with open(f"data/{split}.json", "w") as f:
            json.dump(copies, f)
    assert plateaus(["--lr=0.01"], capsys) == 0


def test_a_stage_0_that_ends_below_what_is_known_says_so(tmp_path, monkeypatch, capsys):
    """Catches fifty epochs on top of a chain of thought that is wrong, and an alarm for other data."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=5 --hops=1 --train=50 --valid=9 --test=9 --out_dir=data".split())
    for data_dir, n in (("data", 1), ("elsewhere", 0)):
        monkeypatch.setattr("lab.advice.KNOWN", {(data_dir, "scratch"): 0.9})
        run_to_the_end([*hops_flags(), "--max_latent_stage=1", "--steps=4,4", "--eval_every=2", "--overwrite"])
        said = capsys.readouterr().out
        assert said.count("WARNING: stage 0 ends with ") == said.count("docs/gsm8k.md") == n
