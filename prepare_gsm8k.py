"""
Get GSM8K: grade-school problems in words, whose steps are little equations.

    python prepare_gsm8k.py                    # GSM8k-Aug, as in the paper: 385,620 problems written by GPT-4
    python prepare_gsm8k.py --source=openai    # the original 7,473, with the steps from their <<...>> annotations
    python prepare_gsm8k.py --from=FOLDER      # the same, from files that are already there

A line of GSM8k-Aug:   question||<<4-2=2>> <<2/.5=4>> #### 300
The original, JSON:    {"question": "...", "answer": "... 48/2 = <<48/2=24>>24 clips ...\n#### 72"}

Lines of another shape are left out, counted, and the first three of them named.

With --renumber=40, the original's stories, each 40 times with other numbers: tasks/renumber.py.
"""

import json
import re
from dataclasses import dataclass

import data
from config import TrainConfig, UserError, cli, counted, option, parse, read_text, upstairs
from download import find_or_download
from tokenizer import make_tokenizer

AUG = "da03/Internalize_CoT_Step_by_Step/e06a32ee5e4cd117171daeb4755d2a97ece62761/data/gsm8k"
OPENAI = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
SOURCES = {  # split: (file, where it is, what is known of it, problems in it)
    "aug": {
        "train": (
            "train.txt",
            f"https://media.githubusercontent.com/media/{AUG}/train.txt",  # kept in Git LFS
            {"size": 87_580_525, "sha256": "6f9a20bc1476ca65eee9bc5117c2d0582b1f1733d5148ffc0ff29cad2a9e9c6b"},
            385_620,
        ),
        "valid": ("valid.txt", f"https://raw.githubusercontent.com/{AUG}/valid.txt", {}, 500),
        "test": ("test.txt", f"https://raw.githubusercontent.com/{AUG}/test.txt", {}, 1_319),
    },
    "openai": {
        "train": ("train.jsonl", f"{OPENAI}/train.jsonl", {}, 7_473),
        "test": ("test.jsonl", f"{OPENAI}/test.jsonl", {}, 1_319),
    },
}
STEP = re.compile(r"<<(?:(?!<<|>>).)+>>")
ANSWER = re.compile(r"[^\n#|<]+")
HELD_OUT = 500  # the original has no validation file: the last problems of its training file
FURTHER = "--renumber", "--largest", "--operations", "--width", "--equations"  # flags of tasks/renumber.py


@dataclass
class GSM8KConfig:
    source: str = option("aug", "aug: GSM8k-Aug; openai: the original", ("aug", "openai"))
    from_: str = option("", "folder with the source's files, instead of downloading them")
    out_dir: str = option("data/gsm8k", "where train.json, valid.json and test.json go")


def parse_line(line):
    """A line of either source as a problem; ValueError if it is none."""
    question, _, solution = line.rpartition("||")
    original = line.startswith("{")
    if original:
        try:
            found = json.loads(line)
            question, solution = found["question"], found["answer"]
            (question + solution).encode()  # texts, and none with half a character, which JSON can spell
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f'expected {{"question": text, "answer": text}}, found {line!r:.60}') from None
    text, _, answer = solution.partition("####")
    around = STEP.sub(" ", text).strip()  # which only the original has
    whole = original or not around
    if not question.strip() or not whole or "<<" in around or ">>" in around or not ANSWER.fullmatch(answer.strip()):
        raise ValueError(f"expected a question, steps <<...>> and one #### answer, found {line!r:.60}")
    return {"question": question.strip(), "steps": STEP.findall(text), "answer": answer.strip().replace(",", "")}


def read_lines(path):
    """The problems of a source's file, without lines that are none."""
    return data.keep_sound(read_text(path).strip().split("\n"), parse_line, path, "line", first=1)


def read_files(files, folder):
    """{split: problems} of files as in SOURCES, which are in a folder, or else downloaded."""
    splits = {}
    for split, (name, url, known, expected) in files.items():
        path = find_or_download(folder, name, url, **known)
        splits[split] = read_lines(path)
        note = "as published" if len(splits[split]) == expected else f"WARNING: the published file has {expected:,}"
        print(f"{path}: {counted(len(splits[split]), 'problem')} ({note})")
    return splits


def main(argv):
    if any(arg.partition("=")[0] in FURTHER for arg in argv):
        return upstairs("tasks", "renumber").main(argv)
    cfg = parse(GSM8KConfig, argv, __doc__)
    splits = read_files(SOURCES[cfg.source], cfg.from_)
    if "valid" not in splits:
        if len(splits["train"]) <= HELD_OUT:
            raise UserError(f"expected more than {HELD_OUT} training problems, so many are needed for validation")
        splits["train"], splits["valid"] = splits["train"][:-HELD_OUT], splits["train"][-HELD_OUT:]

    tok = make_tokenizer("gpt2")
    settings = TrainConfig(tokenizer="gpt2", block_size=1024)  # the rest: the official code's formats
    for path in data.write_files(cfg.out_dir, {split: splits[split] for split in data.SPLITS}).values():
        problems = data.load(path, settings, tok)  # tokenises, and keeps the tokens for training
        print(f"{path}: {len(problems.tokens):,} tokens")
    question, steps, answer = data.encode(splits["train"][:1], settings, tok)[0]
    print(f"in tokens:   {[tok.decode([t]) for t in question + sum(steps, []) + answer]}")


if __name__ == "__main__":
    cli(main)
