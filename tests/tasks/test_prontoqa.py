"""
ProntoQA's questions have the answers that they claim, and nothing but the rules tells them.   python -m pytest

Nothing here uses the generator's own objects: a second reader takes the questions apart, sentence by sentence.
"""

import json
import os
import random
import re

import pytest
from helpers import HERE, fails

import curriculum
from config import parse
from data import load_json
from tasks import prepare_prontoqa

RULE = re.compile(r"(?:Every|Each) (\w+) is (not )?(?:an? )?(\w+)")
RULE_OF_MANY = re.compile(r"(\w+)es are (not )?(\w+?)(?:(?<=pus)es)?")  # "Rompuses are wumpuses", "Rompuses are red"
FACT = re.compile(r"([A-Z]\w+) is (not )?(?:an? )?(\w+)")


def sentences(text):
    return re.findall(r"[^.]+\.", text.replace(". ", "."))


def read(sentence):
    """("wumpus" or "Alex", whether it is so, "rompus" or "red") of one sentence."""
    found = next(m for kind in (RULE, RULE_OF_MANY, FACT) if (m := kind.fullmatch(sentence.rstrip("."))))
    about, negated, what = found.groups()
    return about if found.re is FACT else about.lower(), not negated, what


def take_apart(problem):
    """(rules and facts of the context, the statement to judge), as read() has them."""
    context, query = problem["question"].split(" True or false: ")
    return [read(s) for s in sentences(context)], read(query)


def forward_chaining(context):
    """{(what, whether it is so): number of rules that it took}: all that holds for the person of the context's fact."""
    (known,) = [(what, so) for about, so, what in context if about.istitle()]
    hops, new = {known: 0}, [known]
    while new:
        what, so = new.pop()
        for about, rule_so, then in context:
            if so and about == what and (then, rule_so) not in hops:
                hops[then, rule_so] = hops[what, so] + 1
                new.append((then, rule_so))
    return hops


def generate(n, seed=0, hops=5, distractor="chain"):
    rng = random.Random(seed)
    return [prepare_prontoqa.make_problem(rng, hops, distractor, str(i % 2 == 0))[0] for i in range(n)]


@pytest.mark.parametrize(
    "hops, distractor, n", [(5, "chain", 1000), (5, "concept", 200), (1, "chain", 100), (13, "chain", 100)]
)
def test_answers_are_right_and_take_all_hops(hops, distractor, n):
    """Catches wrong answers, contradictions in the text, and questions that need more or fewer rules than asked for."""
    for problem in generate(n, 1, hops, distractor):
        context, (_, so, what) = take_apart(problem)
        derived = forward_chaining(context)
        assert ((what, so) in derived) == (problem["answer"] == "True")
        assert ((what, not so) in derived) == (problem["answer"] == "False")
        assert derived.get((what, so), derived.get((what, not so))) == hops
        assert not any((w, not s) in derived for w, s in derived), "something is and is not"
        assert len({(about, what) for about, _, what in context}) == len(context), "said twice, or denied"


def test_steps_are_a_proof():
    """Catches steps that skip a rule, use one that is not in the text, or stop before the statement is settled."""
    for problem in generate(1000, 2):
        context, (_, so, what) = take_apart(problem)
        steps = [sentences(step) for step in problem["steps"]]
        assert [len(step) for step in steps] == [2, 2, 2, 2, 2, 1]
        proved = []
        for sentence in sum(steps, []):
            claim = read(sentence)
            if sentence not in problem["question"].split(" True or false:")[0]:  # then it follows from the two before
                (person, _, concept), (about, rule_so, then) = proved[-2:]
                assert about == concept and claim == (person, rule_so, then)
            else:
                assert claim in context
            proved.append(claim)
        assert proved[-1] == (proved[0][0], so == (problem["answer"] == "True"), what)


def accuracy(guess, problems):
    return sum(guess(*take_apart(p), p) == (p["answer"] == "True") for p in problems) / len(problems)


def stands_there(context, query, problem):
    """The statement is true if the text says it of anything."""
    return any(rule[1:] == query[1:] for rule in context)


def last_word(context, query, problem):
    """What the text says last about the property."""
    return [so for _, so, what in context if what == query[2]][-1] == query[1]


def not_is_false(context, query, problem):
    """A negated statement is false."""
    return query[1]


def is_named_elsewhere(context, query, problem):
    """What the text says of a concept that other sentences name, too; if both are, of the one that it names first."""
    names = [name for about, _, what in context for name in (about, what)]
    about, so, _ = max((rule for rule in context if rule[2] == query[2]), key=lambda rule: names.count(rule[0]) > 1)
    return so == query[1]


def is_deep(context, query, problem):
    """What the text says of the concept with the most concepts below it in its chain."""
    above = {about: what for about, so, what in context if what in {rule[0] for rule in context}}
    below = {what: about for about, what in above.items() if not about.istitle()}

    def depth(concept):
        return 1 + depth(below[concept]) if concept in below else 0

    return max((depth(about), so) for about, so, what in context if what == query[2])[1] == query[1]


@pytest.mark.parametrize("guess", [stands_there, last_word, not_is_false, is_named_elsewhere, is_deep])
def test_no_shortcut(guess):
    """Catches questions that can be answered without following the rules (five standard errors: 5.6 %)."""
    assert abs(accuracy(guess, generate(2000, 3)) - 0.5) < 0.056


def test_a_distractor_that_stands_alone_gives_itself_away():
    """Catches a guess above that is too stupid to find the shortcut that the official questions have."""
    assert accuracy(is_named_elsewhere, generate(200, 3, distractor="concept")) == 1


def test_files(tmp_path, monkeypatch):
    """Catches wrong sizes, unbalanced answers, a question that stands in two files, and another seed's data."""
    monkeypatch.chdir(tmp_path)
    prepare_prontoqa.main([])
    splits = {name: load_json(f"data/prontoqa/{name}.json") for name in ("train", "valid", "test")}
    assert [len(problems) for problems in splits.values()] == [9000, 200, 800]
    for problems in splits.values():
        assert sum(p["answer"] == "True" for p in problems) == len(problems) / 2
    assert len({frozenset(sentences(p["question"])) for p in sum(splits.values(), [])}) == 10_000
    small = ["--train=9", "--valid=2", "--test=2"]
    written = []
    for seed in (0, 0, 1):
        prepare_prontoqa.main([*small, f"--seed={seed}"])
        written.append(open("data/prontoqa/test.json").read())
    assert written[0] == written[1] != written[2]
    prepare_prontoqa.main([*small, "--hops=3"])
    assert {len(p["steps"]) for p in load_json("data/prontoqa/train.json")} == {4}


@pytest.mark.parametrize("name, thoughts", [("prontoqa", [6, 3]), ("prosqa", [6, 6])])
def test_configs_train_the_papers_50_epochs(name, thoughts):
    """Catches a last stage that is too long, or that still writes steps, and problems that think too little."""
    path = os.path.join(HERE, "configs", f"{name}.py")
    cfg = parse(curriculum.config_class, [path], "", takes_file=True)
    stages, _ = curriculum.stages(cfg, longest=6)
    assert stages == [0, 1, 2, 3, 4, 5, 6] and sum(curriculum.for_stage(cfg.epochs, stage) for stage in stages) == 50
    assert [curriculum.count(n_steps, 6, cfg) for n_steps in (6, 3)] == [(6, thoughts[0]), (3, thoughts[1])]


# ---------------------------------------------------------------- the official generator's files

OFFICIAL = {
    "question": "Impuses are yumpuses. Each yumpus is not shy. Every dumpus is shy. Sam is an impus.",
    "query": "True or false: Sam is shy.",
    "chain_of_thought": [
        "Sam is an impus.",
        "Impuses are yumpuses.",
        "Sam is a yumpus.",
        "Each yumpus is not shy.",
        "Sam is not shy.",
    ],
    "answer": "False",
}


def official(n):
    """n different examples in the layout of the official generator, with the ones that it shows before the question."""
    examples = [json.loads(json.dumps(OFFICIAL).replace("Sam", f"Sam{'my' * i}")) for i in range(n)]
    return {f"example{i + 1}": {"in_context_example0": OFFICIAL, "test_example": e} for i, e in enumerate(examples)}


def test_official_files_are_converted(tmp_path, monkeypatch):
    """Catches steps that are cut elsewhere, a lost query, and the same question, reordered, in two files."""
    monkeypatch.chdir(tmp_path)
    examples = official(6)
    first, *others = sentences(OFFICIAL["question"])
    examples["example7"] = {"test_example": {**OFFICIAL, "question": " ".join([*others, first])}}
    open("5hop.json", "w").write(json.dumps(examples))
    prepare_prontoqa.main(["--from=5hop.json", "--train=3", "--valid=1", "--test=2", "--out_dir=out"])
    problems = sum((load_json(f"out/{name}.json") for name in ("train", "valid", "test")), [])
    assert len({p["question"].split()[-3] for p in problems}) == len(problems) == 6
    (sam,) = [p for p in problems if "Sam is" in p["question"]]
    assert sam["question"].endswith("True or false: Sam is shy.") and sam["answer"] == "False"
    assert sam["steps"] == [
        "Sam is an impus. Impuses are yumpuses.",
        "Sam is a yumpus. Each yumpus is not shy.",
        "Sam is not shy.",
    ]


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--hops=14"], ["--hops=14", "names for 13 hops"]),
        (["--hops=0"], ["hops", "at least 1"]),
        (["--distractor=chian"], ["chian", "did you mean chain?"]),
        (["--from=nothing.json"], ["nothing.json", "no such file in the current folder"]),
        (["--from=few.json"], ["few.json", "not as many different questions", "9,000 + 200 + 800"]),
        (["--from=broken.json"], ["broken.json", "not JSON"]),
        (["--from=cp1252.json"], ["cp1252.json, line 1", "expected UTF-8", "0xa3"]),
        (["--from=list.json"], ["list.json", "example1", "found a list"]),
        (["--from=empty.json"], ["empty.json: example2", '"test_example"']),
        (["--from=joined.json"], ["joined.json: example2", '"chain_of_thought": [text, ...]']),
        (["--from=proof.json"], ["proof.json: example2", "True or false", "'Prove: Sam is shy.'"]),
        (["--from=unknown.json"], ["unknown.json: example2", "'Unknown'"]),
    ],
)
def test_bad_input(argv, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, change in {
        "few": {},
        "joined": {"chain_of_thought": "Sam is an impus. Sam is shy."},
        "proof": {"query": "Prove: Sam is shy."},
        "unknown": {"answer": "Unknown"},
    }.items():
        examples = official(2)
        examples["example2"]["test_example"] |= change
        open(f"{name}.json", "w").write(json.dumps(examples))
    open("broken.json", "w").write('{"example1": ')
    open("cp1252.json", "wb").write(b'{"example1": "\xa35"}')
    open("list.json", "w").write(json.dumps([OFFICIAL]))
    open("empty.json", "w").write(json.dumps({**official(1), "example2": {}}))
    error = fails(prepare_prontoqa.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error
