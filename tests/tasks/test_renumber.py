"""
GSM8K's stories with new numbers (tasks/renumber.py, prepare_gsm8k.py --renumber), and the tokenizer for them.

Each test names the mistake that it would catch. Those that read the real files are left out where these are not.
"""

import json
import os
import random
import re
from fractions import Fraction

import pytest
from helpers import HERE, fails

import config
import data
import prepare_gsm8k
from config import TrainConfig
from tasks import renumber
from tasks.renumber import Unusable, read_story
from tokenizer import make_tokenizer

SHARED = os.path.join(HERE, "..", "shared", "data", "gsm8k")
needs_gsm8k = pytest.mark.skipif(not os.path.exists(SHARED), reason="GSM8K is not in ../shared/data/gsm8k")

CLIPS = {
    "question": "Natalia sold clips to 48 of her friends in April, and half as many in May. How many in all?",
    "steps": ["<<48/2=24>>", "<<48+24=72>>"],
    "answer": "72",
}


def problem(question, *steps, answer=None):
    return {"question": question, "steps": [*steps], "answer": answer or steps[-1][:-2].partition("=")[2]}


def variants(example, n=40, largest=9999, seed=0):
    return renumber.renumber(read_story(example), n, random.Random(seed), largest)


KNOWN = "train", "valid", "test"  # known stories; new: others


def check_problem(problem):
    """AssertionError unless its steps are true, from what is known at each of them, and the last one is the answer."""
    known = {*map(int, re.findall("[0-9]+", problem["question"])), *renumber.CONSTANTS}
    for step in problem["steps"]:
        tokens, result = renumber.split_equation(step)
        operands = [int(token) for token in tokens if token.isdigit()]
        assert known.issuperset(operands), problem
        tokens = [token.lstrip("0") for token in tokens]  # 07 is no number to Python
        assert renumber.value(renumber.parse_expression(tokens), {}) == result, problem
        known.add(result)
    assert problem["steps"][-1].endswith(f"={problem['answer']}>>"), problem


def check_files(files, left_out):
    """AssertionError if a problem is wrong, or there twice, or its story is to be left out or not kept apart."""
    asked = [problem["question"] for problems in files.values() for problem in problems]
    assert len({*asked}) == len(asked)
    known, new = (
        {renumber.wording(p["question"]) for name in names for p in files[name]} for names in (KNOWN, ["new"])
    )
    assert not (known | new) & {renumber.wording(question) for question in left_out} and not known & new
    for problems in files.values():
        for problem in problems:
            check_problem(problem)


# ---------------------------------------------------------------- one story


def test_an_example_by_hand():
    """Catches a step that keeps an old number, a constant that changes, and a result that is not computed again."""
    found = variants(CLIPS)
    assert len({p["question"] for p in found}) == len(found) == 37  # 24, 26, ..., 96
    for p in found:
        number = int(re.search("[0-9]+", p["question"]).group())
        assert 24 <= number <= 96 and number % 2 == 0
        assert p["question"] == CLIPS["question"].replace("48", str(number))
        half, both = number // 2, number + number // 2
        assert p["steps"] == [f"<<{number}/2={half}>>", f"<<{number}+{half}={both}>>"]
        assert p["answer"] == str(both)


def test_what_is_no_number_of_its_own_stays():
    """Catches a 2nd that becomes a 3nd, half of a decimal, of a time or of a thousand, and "1 apples"."""
    question = "On the 2nd day at 3:30, Al buys 1 pen at $1.50, 1,200 pins, 7 nuts, and .5 l for 12 boys."
    story = read_story(problem(question, "<<1200+7=1207>>", "<<1207*12=14484>>"))
    assert [*story.numbers.values()] == [1200, 7, 12]
    for p in variants(problem(question, "<<1200/12=100>>", "<<100+7=107>>"), n=10):
        numbers = re.fullmatch(
            r"On the 2nd day at 3:30, Al buys 1 pen at \$1.50, (\d+) pins, (\d+) nuts, and .5 l for (\d+) boys.",
            p["question"],
        )
        pins, nuts, boys = map(int, numbers.groups())
        assert pins % 10 == 0 and p["answer"] == str(Fraction(pins, boys) + nuts)


def test_numbers_keep_their_kind():
    """Catches 150 percent, 5/3 of a cake, tens that are none any more, and two numbers that become one."""
    example = problem(
        "80% of 60 eggs, 3/4 of them", "<<60*80=4800>>", "<<4800/100=48>>", "<<48*3=144>>", "<<144/4=36>>"
    )
    assert read_story(example).percents == {"n0"} and read_story(example).fractions == [("n2", "n3")]
    found = variants(example, n=30)
    assert len(found) > 10
    for p in found:
        percent, eggs, over, under = map(int, re.findall("[0-9]+", p["question"]))
        assert 40 <= percent <= 100 and percent % 10 == eggs % 10 == 0 and 2 <= over < under
        assert len({percent, eggs, over, under}) == 4


def test_a_number_that_stands_twice_is_replaced_twice():
    """Catches "5 red and 8 blue ones", where both are written as 5 in the steps."""
    for p in variants(problem("5 red and 5 blue ones, 9 gone", "<<5+5=10>>", "<<10-9=1>>")):
        red, blue, _ = re.findall("[0-9]+", p["question"])
        assert red == blue and p["steps"][0].startswith(f"<<{red}+{blue}=")


@pytest.mark.parametrize(
    "example, why",
    [
        (problem("5 pens", answer="5"), "no steps"),
        (problem("5 pens", "<<5*7=35>>"), "neither in the question"),
        (problem("5 pens a week", "<<5*7=35>>", answer="36"), "not the answer"),
        (problem("5 pens at 2.5", "<<5*2.5=12.5>>"), "whole numbers"),
        (problem("5 pens, 2 gone, 3 more", "<<5-2=3>>", "<<3+3=6>>"), "equal to another number"),
        (problem("five pens, twice", "<<5*2=10>>"), "no step uses a number"),
        (problem("5 pens, 2 each", "<<5 pens*2=10>>"), "no equation"),
        (problem("9 pens, 9 each", "<<9**9**9**9=10>>"), "no equation"),
        (problem("5 pens, 2 each", "<<(5*2=10>>"), "no equation"),
        (problem("5 pens, 2 each", "<<5(2)=10>>"), "no equation"),
        (problem("5 pens, 2 each", "<<5*2>>", answer="10"), "no equation"),
        (problem("5 pens, 2 each", "<<5/0.=10>>"), "no equation"),
        (problem("5 pens, 2 each", f"<<{'(' * 5000}5*2{')' * 5000}=10>>"), "no equation"),
    ],
)
def test_problems_that_cannot_be_used(example, why):
    """Catches a number that comes from nowhere, or from two places, and a formula that never ends."""
    with pytest.raises(Unusable, match=why):
        read_story(example)


def test_constants_need_their_word():
    """Catches a 7 that only happens to be one, and a week of 6 or 8 days."""
    week = problem("6 pens each day. How many in a week?", "<<6*7=42>>")
    assert all(re.fullmatch(r"<<[0-9]+\*7=[0-9]+>>", p["steps"][0]) for p in variants(week))
    with pytest.raises(Unusable, match="neither in the question"):
        read_story({**week, "question": "6 pens each time. How many in all?"})


def test_wrong_arithmetic_is_left_out():
    """Catches an original that computes wrongly, whose other numbers would be right by chance only."""
    wrong = problem("5 pens and 4 pins", "<<5+4=10>>")
    again = {**CLIPS, "question": CLIPS["question"].replace("48", "50")}
    stories, why = renumber.find_stories([wrong, CLIPS, again], [], operations=9)
    assert len(stories) == 1
    assert why == {"a step is computed wrongly": 1, "the story is in a file that is left out, or was there before": 1}
    stories, why = renumber.find_stories([CLIPS], [again["question"]], operations=9)
    assert not stories  # other numbers, but the same story


@pytest.mark.parametrize("largest", [20, 99, 9999])
def test_no_result_is_too_large(largest):
    """Catches a bound that holds for the numbers of the question only, or only for the answer."""
    example = problem("9 boxes of 8 pens, 11 boxes of 7", "<<9*8=72>>", "<<11*7=77>>", "<<72+77=149>>")
    for p in variants(example, largest=largest):
        assert max(int(step[2:-2].partition("=")[2]) for step in p["steps"]) <= largest


def test_numbers_of_one_width():
    """Catches a number that is 07 in the question and 7 in a step, or a constant that is not as wide as the others."""
    story = read_story(problem("On 1 day, the 2nd, 9 pens, 8 of them red", "<<9-8=1>>"))
    found = renumber.renumber(story, 5, random.Random(0), 20, width=2)
    assert all(re.fullmatch("On 1 day, the 2nd, [01][0-9] pens, [01][0-9] of them red", p["question"]) for p in found)
    found = renumber.renumber(read_story(CLIPS), 5, random.Random(0), 999, width=3)
    for p in found:
        assert re.fullmatch("<<[0-9]{3}/002=[0-9]{3}>>", p["steps"][0]) and re.fullmatch("[0-9]{3}", p["answer"])
        check_problem(p)


def test_bare_equations():
    """Catches a result that is given away, or taken from the wrong step."""
    example = problem("5 pens, 2 each, 10 more", "<<5*2=10>>", "<<10+10=20>>", "<<20-5=15>>")
    assert renumber.without_words(example) == {**example, "question": "<<5*2=a>> <<a+a=b>> <<b-5=c>>"}
    files = {"train": [CLIPS], "test": [CLIPS]}
    bare = renumber.without_words(CLIPS)
    assert renumber.with_equations(files, only=False) == {"train": [CLIPS, bare], "test": [CLIPS]}
    assert renumber.with_equations(files, only=True) == {"train": [bare], "test": [bare]}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": ["<<48/2=24>>", "<<48+25=73>>"], "answer": "73"},
        {"steps": ["<<48/2=25>>", "<<48+25=73>>"], "answer": "73"},
        {"answer": "24"},
    ],
)
def test_the_check_finds_what_is_wrong(change):
    """Catches a check of each problem that would let anything pass."""
    check_problem(CLIPS)
    with pytest.raises(AssertionError):
        check_problem({**CLIPS, **change})


# ---------------------------------------------------------------- the files


def write_source(folder, n_stories=40):
    """Files as prepare_gsm8k.py --from expects them, with stories of our own."""
    lines = []
    for i in range(n_stories):
        name = f"{chr(97 + i // 26)}{chr(97 + i % 26)}".title()
        question = f"{name} has 12 pens and buys 5 more each day for 4 days. How many pens does {name} have?"
        lines.append(json.dumps({"question": question, "answer": "<<5*4=20>> <<12+20=32>>\n#### 32"}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "test.jsonl").write_text(lines[0])
    (folder / "valid.txt").write_text(json.loads(lines[1])["question"].replace("12", "13") + "||<<1+1=2>> #### 2")


def read_files(folder):
    files = {}
    for name in ("train", "valid", "test", "new"):
        with open(os.path.join(folder, f"{name}.json")) as f:
            files[name] = json.load(f)
    return files


def test_files_of_renumbered_stories(tmp_path, monkeypatch, capsys):
    """Catches another result the second time, a story of the test file, and one that is known in new.json."""
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path)
    command = "--source=openai --from=. --renumber=20 --largest=200".split()
    prepare_gsm8k.main(command)
    out = capsys.readouterr().out
    assert "38 of 40 problems can be used, 3 of them are kept apart (new.json)" in out
    assert "      2  the story is in a file that is left out, or was there before" in out
    files = read_files("data/gsm8k_stories")
    check_files(files, [])
    assert [len(files[name]) for name in ("valid", "test", "new")] == [66, 66, 15]
    assert len(files["train"]) == 35 * 20 - 2 * 66
    asked = [p["question"] for problems in files.values() for p in problems]
    assert len({*asked}) == len(asked)
    names = {name: {p["question"][:2] for p in problems} for name, problems in files.items()}
    assert names["train"] >= names["valid"] | names["test"] and not names["train"] & names["new"]
    assert not {"Aa", "Ab"} & set.union(*names.values())
    prepare_gsm8k.main([*command, "--out_dir=again"])
    assert read_files("again") == files
    prepare_gsm8k.main([*command, "--equations=mixed", "--out_dir=mixed"])
    assert len(read_files("mixed")["train"]) == 2 * len(files["train"]) and read_files("mixed")["test"] == files["test"]


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--renumber", "2"], ["--renumber is for --source=openai"]),
        (["--source=openai", "--largest=99"], ["--width and --equations belong to --renumber=N"]),
        (["--source=openai", "--from=.", "--renumber=2", "--largest=10"], ["too few stories"]),
        (["--source=openai", "--from=nowhere", "--renumber=2"], ["nowhere/train.jsonl: no such file"]),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(flags, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path)
    error = fails(prepare_gsm8k.main, flags, capsys, monkeypatch)
    assert all(part in error for part in parts), error


def test_a_missing_folder_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path)
    monkeypatch.setattr(config, "PROJECT", str(tmp_path))
    error = fails(prepare_gsm8k.main, ["--source=openai", "--from=.", "--renumber=2"], capsys, monkeypatch)
    assert "tasks/renumber.py, which is not there" in error


@needs_gsm8k
def test_the_real_stories():
    """Catches stories that get lost with a change of the rules; each problem of the files is checked on the way."""
    problems = prepare_gsm8k.read_lines(os.path.join(SHARED, "openai_train.jsonl"))
    test = prepare_gsm8k.read_lines(os.path.join(SHARED, "openai_test.jsonl"))
    valid = prepare_gsm8k.read_lines(os.path.join(SHARED, "icot_valid.txt"))
    left_out = [p["question"] for p in test + valid]
    files, account = renumber.make_files(problems, left_out, 2, largest=9999, operations=9)
    check_files(files, left_out)
    assert re.match(r"2,8\d\d of 7,473 problems can be used, 19\d of them are kept apart", account[0])
    counted = [int(line.split()[0].replace(",", "")) for line in account]
    assert sum(counted) == len(problems)
    assert len(files["train"]) > 4000 and len(files["new"]) > 900


# ---------------------------------------------------------------- numbers as digits


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("Natalia sold 48 clips.", ["Natalia", " sold", " ", "4", "8", " clips", "."]),
        ("$1,000", ["$", "1", ",", "0", "0", "0"]),
        ("<<4-2.5=1.5>>", ["<<", "4", "-", "2", ".", "5", "=", "1", ".", "5", ">>"]),
        ("5km or room7b\n", ["5", "km", " or", " room", "7", "b", "\n"]),
        ("a² ½ ٣ é", ["a²", " ½", " ٣", " é"]),  # only what a child calls digits
    ],
)
def test_words_with_digits(text, pieces):
    """Catches a number that is one token, a space that is lost, and letters that are taken for digits."""
    cfg = TrainConfig(tokenizer="digits", question_format="{}", answer_format="#{}")
    assert re.findall(data.PATTERNS["digits"], text) == pieces
    tok = make_tokenizer("digits", data.find_pieces([{"question": text, "steps": [], "answer": ""}], cfg))
    assert [tok.decode([t]) for t in tok.encode_ordinary(text)] == pieces


def test_digits_spell_any_text():
    """Catches characters that no part of the pattern takes: every text comes back, known or not."""
    rng, tok = random.Random(0), make_tokenizer("digits", ["Ann", " has"])
    letters = "Ann has 0123456789 <>=$%.,\n\t\u00a0\u2028é²½٣猫\U0001f600"
    for _ in range(500):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(30)))
        assert tok.decode(tok.encode_ordinary(text)) == text
        assert "".join(re.findall(data.PATTERNS["digits"], text)) == text
