"""
Files that somebody brings: their bytes, and lines of GSM8K in another shape.   python -m pytest test_files.py

Each test names the mistake that it would catch.
"""

import json
import os
import random
import re
import resource

import pytest
from helpers import HERE

import data
import prepare_gsm8k
from config import TrainConfig, UserError, read_json, read_text, replacing
from prepare_gsm8k import parse_line, read_lines
from tokenizer import make_tokenizer

# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    "data, text",
    [
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        (b"\xef\xbb\xbfAnn has \xc2\xa35\r\nBob\r\n", "Ann has £5\nBob\n"),
        (b"a\rb\r\nc\nd", "a\nb\nc\nd"),
        ("a\u2028b\x0bc\x85d \ufeff".encode(), "a\u2028b\x0bc\x85d \ufeff"),  # no ends of lines, and no mark there
    ],
)
def test_utf8_is_read_however_it_is_marked_and_ended(data, text, tmp_path):
    """Catches a byte order mark that becomes text, \\r at the end of an answer, and text taken for either."""
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text(tmp_path / "x.txt") == text


@pytest.mark.parametrize(
    "data, parts",
    [
        (b"one\ntwo\nAnn has \xa35\n", ["line 3", "0xa3"]),  # cp1252
        (b"\xef\xbb\xbfna\xefve\r\n", ["line 1", "0xef"]),  # latin-1 after a byte order mark
        ("猫\n猫は".encode() + b"\xe3\x81", ["line 2", "0xe3"]),  # cut off within a character
        ("猫\n\n\n犬".encode("shift_jis"), ["line 1", "0x94"]),
        ("Ann\nBob".encode("utf-16"), ["line 1", "0xff"]),
        (b"a" * 3_000_000 + b"\n\xff", ["line 2", "0xff"]),
    ],
)
def test_other_bytes_are_refused_with_their_line(data, parts, tmp_path):
    """Catches U+FFFD in a question, and a message from which nobody finds the place."""
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(UserError) as e:
        read_text(tmp_path / "x.txt")
    assert all(part in str(e.value) for part in ["x.txt", "save it as UTF-8", *parts]), e.value
    assert "\n" not in str(e.value) and len(str(e.value)) < len(str(tmp_path)) + 120


def test_no_file_is_named(tmp_path):
    path = tmp_path / "nothing.txt"
    with pytest.raises(UserError, match=f"^{path}: .*no such file"):
        read_text(path)


@pytest.mark.parametrize(
    "content, part", [("", "an empty file"), ("\n", "an empty file"), ("{", "not JSON: .* line 1")]
)
def test_a_json_file_that_is_none(content, part, tmp_path):
    """Catches "Expecting value: line 1 column 1" for a file with nothing in it."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=f"config.json: {part}"):
        read_json(tmp_path / "config.json")


def test_random_bytes_are_utf8_or_refused(tmp_path):
    """Catches a traceback, and a line that is not the one that Python's own decoder would name."""
    rng, path = random.Random(0), tmp_path / "x.txt"
    for _ in range(300):
        lines = [
            "".join(rng.choices("ab £猫\U0001f600", k=rng.randrange(9))).encode() for _ in range(rng.randrange(1, 9))
        ]
        bad = rng.randrange(len(lines))
        if rng.random() < 0.7:
            lines[bad] += bytes([rng.randrange(128, 192)])  # what can only go on with a character
        else:
            bad = None
        data = rng.choice([b"", b"\xef\xbb\xbf"]) + rng.choice([b"\n", b"\r\n"]).join(lines)
        path.write_bytes(data)
        if bad is None:
            assert read_text(path) == b"\n".join(lines).decode()
        else:
            with pytest.raises(UserError, match=f"x.txt, line {bad + 1}: expected UTF-8"):
                read_text(path)
    assert os.path.getsize(path) == len(data)  # it is only read


# ---------------------------------------------------------------- GSM8K


AUG = "Ann has 2 pens.  How many are 3*2?||<<3*2=6>> <<6+0=6>> #### 1,006"
OPENAI = {"question": "Ann?", "answer": "She has 3*2 = <<3*2=6>>6 pens.\nThen <<6+1=7>>7.\n#### 7"}
SHARED = os.path.join(HERE, "..", "shared", "data", "gsm8k")


@pytest.fixture
def gpt2():
    try:
        return make_tokenizer("gpt2")
    except UserError:
        pytest.skip("GPT-2's vocabulary is neither cached nor can it be downloaded")


def test_gsm8k_lines():
    problem = {"question": "Ann has 2 pens.  How many are 3*2?", "steps": ["<<3*2=6>>", "<<6+0=6>>"], "answer": "1006"}
    assert parse_line(AUG) == problem
    problem = {"question": "Ann?", "steps": ["<<3*2=6>>", "<<6+1=7>>"], "answer": "7"}
    assert parse_line(json.dumps(OPENAI)) == problem


@pytest.mark.parametrize(
    "line, question, steps",
    [
        ("Q?||<<5 + 5=10>> <<10*2=20>> #### 20", "Q?", ["<<5 + 5=10>>", "<<10*2=20>>"]),
        ("Q?||<<5 +\t5 = 10>><<10>2=1>>#### 20", "Q?", ["<<5 +\t5 = 10>>", "<<10>2=1>>"]),
        ("|A||B| is?||<<1+1=2>> #### 20", "|A||B| is?", ["<<1+1=2>>"]),
        ("Is 1 << 2?|| #### 20", "Is 1 << 2?", []),
    ],
)
def test_lines_of_another_shape_are_parsed_as_meant(line, question, steps):
    """Catches spaces and bars taken for structure."""
    assert parse_line(line) == {"question": question, "steps": steps, "answer": "20"}


@pytest.mark.parametrize(
    "line",
    [
        "", "Q||steps", "Q||s #### ", "no bars #### 3", "||<<1=1>> #### 1", "Q?||<<1+1=2>> #### 2 #### 3",
        "Q?||<<1+1=2>> ##### 2", "Q?||<<1+1=2>> #### 2 ### 3", "Q?||<<1+1=2 <<2+2=4>> #### 4",
        "Q?||<<1+1=2>> 2+2=4>> #### 4", "Q?||<<>> #### 4", "Q?||He has 5 apples. #### 20", "Q?||5+5=10 #### 20",
        "Q?||He has $<<5+5=10>>10. #### 20",
        "{", '{"question": "Q"}', '{"question": 3, "answer": "#### 3"}', '{"question": 3, "answer": 3}',
        '{"a":' * 100_000, '{"question": "Q", "answer": "7"}', '{"question": " ", "answer": "#### 7"}',
        '{"question": "\\ud83d", "answer": "#### 7"}', '{"question": "Q", "answer": "<<1+\\n1=2>>\\n#### 7"}',
        '{"question": "Q", "answer": "#### 7\\n#### 8"}', '{"question": "Q", "answer": "#### 7\\n8"}',
    ],
)  # fmt: skip
def test_what_fits_no_shape_is_refused(line):
    """Catches a step "####", half an annotation, a second answer that gets lost, a traceback."""
    with pytest.raises(ValueError, match="expected"):
        parse_line(line)


def as_it_was(line):
    """parse_line as it read GSM8k-Aug's own files, all of whose lines have one shape."""
    question, _, rest = line.partition("||")
    steps, _, answer = rest.rpartition("####")
    return {"question": question.strip(), "steps": steps.split(), "answer": answer.strip().replace(",", "")}


@pytest.mark.skipif(not os.path.exists(SHARED), reason="needs GSM8k-Aug's valid.txt and the original's train.jsonl")
def test_published_files_are_read_as_before(capsys):
    """Catches a line of the published files that is left out."""
    path = os.path.join(SHARED, "icot_valid.txt")
    with open(path, encoding="utf-8") as f:
        assert read_lines(path) == [as_it_was(line) for line in f]
    assert capsys.readouterr().out == ""
    problems = read_lines(os.path.join(SHARED, "openai_train.jsonl"))
    assert len(problems) == 7473 and sum(len(p["steps"]) for p in problems) == 23_716
    assert len(read_lines(os.path.join(SHARED, "openai_test.jsonl"))) == 1319
    assert len(read_lines(os.path.join(SHARED, "aug_train_2999.txt"))) == 3000
    assert capsys.readouterr().out == ""


def test_lines_that_are_none_are_counted_and_three_of_them_named(tmp_path, capsys):
    """Catches lines that are dropped in silence, a thousand messages, a wrong line number, a file that is given up."""
    lines = [AUG, "Q?||<<1+1=2>> #### 2 #### 3", "Q?||He buys 3. #### 3", AUG, "Q? #### 2", "no problem at all"]
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines * 2).encode())
    problems = read_lines(path)
    assert len(problems) == 4 and problems[0]["question"] == "Ann has 2 pens.  How many are 3*2?"
    warning = capsys.readouterr().out
    assert warning.startswith(f"WARNING: {path}: 8 of 12 lines cannot be used: line 2: expected ")
    assert re.findall("line ([0-9]+)", warning) == ["2", "3", "5"] and warning.count("\n") == 1
    for content, found in (("", "1 of 1 lines"), ("a\nb", "2 of 2 lines")):
        path.write_text(content)
        with pytest.raises(UserError, match=f"train.txt: {found} cannot be used"):
            read_lines(path)
    path.write_bytes(f"{AUG}\nAnn has \xa35||<<1=1>> #### 1".encode("cp1252"))
    with pytest.raises(UserError, match="train.txt, line 2: expected UTF-8"):
        read_lines(path)


def test_prepare_gsm8k_goes_on_after_bad_lines(tmp_path, monkeypatch, capsys, gpt2):
    """Catches lines that are dropped in silence, and tokens that differ from those of the JSON when read back."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{AUG}\nnot a problem\n{AUG}\n")
    prepare_gsm8k.main(["--from=.", "--out_dir=out"])
    out = capsys.readouterr().out
    assert "train.txt: 1 of 3 lines cannot be used: line 2: expected " in out and "'not a problem'" in out
    assert "train.txt: 2 problems (WARNING: the published file has 385,620)" in out
    cfg = TrainConfig(tokenizer="gpt2", block_size=1024)
    before = os.stat("out/train.json.npz").st_mtime_ns
    problems = data.load("out/train.json", cfg, gpt2)
    assert os.stat("out/train.json.npz").st_mtime_ns == before  # from the cache
    assert problems[1] == data.encode(json.load(open("out/train.json")), cfg, gpt2)[1]
    problems = data.load("out/train.json", TrainConfig(tokenizer="gpt2", step_format="{}", block_size=1024), gpt2)
    assert gpt2.decode(problems[0].steps[0]) == "<<3*2=6>>"  # other formats: not from the cache
    with open("out/train.json.npz", "wb") as f:
        f.write(b"PK\x03\x04 half a cache")
    assert data.load("out/train.json", cfg, gpt2)[1] == data.encode(json.load(open("out/train.json")), cfg, gpt2)[1]
    os.remove("test.txt")
    with pytest.raises(UserError, match="test.txt: no such file"):
        prepare_gsm8k.main(["--from=."])


@pytest.mark.parametrize("line", [AUG, json.dumps(OPENAI)])
def test_1000_mutated_files(line, tmp_path, capsys):
    """Catches tracebacks, problems that data.py would refuse, and text that gets lost without a word."""
    rng, path = random.Random(0), tmp_path / "train.txt"
    other = [text.encode() for text in '|| #### << >> \\ { [] = £ "'.split()] + [b" ", b"\n", b"\r", b"\xa3", b"\0"]
    n_prepared = 0
    for _ in range(1000):
        content = bytearray("\n".join([line] * rng.randrange(1, 5)).encode())
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(content))
            content[at : at + rng.choice([0, 0, 1, 4, 30])] = rng.choice([*other, b"", bytes([rng.randrange(256)])])
        path.write_bytes(content)
        try:
            problems = read_lines(path)
        except UserError as e:
            assert str(e).startswith(str(path)) and "\n" not in str(e)
            continue
        finally:
            out = capsys.readouterr().out
        n_prepared += 1
        n_lines = sum(line.strip() != "" for line in read_text(path).split("\n"))
        assert (len(problems) < n_lines) == ("left out" in out)
        for p in problems:
            assert (
                p["question"].strip() and p["answer"].strip() and "###" not in p["answer"] and "\n" not in p["answer"]
            )
            assert all(step.strip() == step != "" and "####" not in step for step in p["steps"])
            assert all(step.count("<<") == step.count(">>") for step in p["steps"])
    assert 300 < n_prepared < 1000


# ---------------------------------------------------------------- written beside, then renamed


@pytest.mark.parametrize("mode, content", [("w", "x" * 100_000), ("wb", b"x" * 100_000)])
def test_what_cannot_be_written_leaves_the_old_file(mode, content, tmp_path):
    """Catches half a file in place of a whole one, an error that names no file, and what is left beside it."""
    path = tmp_path / "old"
    path.write_text("whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="old: cannot be written: File too large"), replacing(path, mode) as file:
            file.write(content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["old"]
    with pytest.raises(UserError, match="nowhere/new: cannot be written: No such file"), replacing("nowhere/new"):
        pass
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["old"]
    with replacing(path) as file:
        file.write("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["old"]
