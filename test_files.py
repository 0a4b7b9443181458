"""
Files that somebody brings: their bytes, and lines of GSM8K in another shape.   python -m pytest test_files.py

Each test names the mistake that it would catch.
"""

import os
import random

import pytest

from config import UserError
from textfile import read_text

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
        (b"one\ntwo\nAnn has \xa35\n", ["line 3", "0xa3", "'Ann has '"]),  # cp1252
        (b"\xef\xbb\xbfna\xefve\r\n", ["line 1", "0xef", "'na'"]),  # latin-1 after a byte order mark
        ("猫\n猫は".encode() + b"\xe3\x81", ["line 2", "0xe3", "'猫は'"]),  # cut off within a character
        ("猫\n\n\n犬".encode("shift_jis"), ["line 1", "0x94", "''"]),
        ("Ann\nBob".encode("utf-16"), ["line 1", "UTF-16"]),
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


def test_no_file_and_a_folder_are_named(tmp_path):
    for path, found in ((tmp_path, "found a folder"), (tmp_path / "nothing.txt", "no such file")):
        with pytest.raises(UserError, match=f"^{path}: .*{found}"):
            read_text(path)


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
