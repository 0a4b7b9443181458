"""
What users bring: their mistakes, their paths, and their text files, which are all read in one way.
"""

import os

PROJECT = os.path.dirname(os.path.abspath(__file__))


class UserError(ValueError):
    """Something that the user can put right. config.cli() prints it in one line and exits with code 2."""


UTF16 = b"\xff\xfe", b"\xfe\xff"  # how files that Windows calls "Unicode" begin


def no_such(what, path):
    """What to say of a path that is not there, and where it was looked for: relative ones begin in this folder."""
    name = " ".join(str(path).splitlines())  # what is taken for a path may have several
    return f"{name}: no such {what}" + ("" if os.path.isabs(path) else f" in the current folder, {os.getcwd()}")


def ours(*parts):
    """The path of one of the project's own files, such as train.py, as one would type it in the current folder."""
    path = os.path.join(PROJECT, *parts)
    return min(path, os.path.relpath(path), key=len)


def check_writable(path):
    """UserError if a file cannot be written there, before there is anything to write. What is there is left alone."""
    try:
        there = os.path.exists(path)
        open(path, "ab").close()
        if not there:
            os.remove(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None


def read_text(path):
    """The text of a UTF-8 file, lines ending in "\\n" whatever they end in there, without a byte order mark.

    UserError with file and line if it is not UTF-8 (what follows would be guesswork), or if there is no such file.
    """
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        raise UserError(no_such("file", path)) from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a file, found a folder") from None
    if data.startswith(UTF16):
        raise UserError(f"{path}, line 1: expected UTF-8, found UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1  # e.object begins after a byte order mark, and so does e.start
        before = e.object[max(0, e.start - 20) : e.start].rpartition(b"\n")[2].decode("utf-8", "ignore")
        raise UserError(
            f"{path}, line {line}: expected UTF-8, found the byte {e.object[e.start]:#04x} after {before!r}: "
            "save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
