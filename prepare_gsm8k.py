"""
Get GSM8K: grade-school problems in words, whose steps are little equations.

    python prepare_gsm8k.py                    # GSM8k-Aug, as in the paper: 385,620 problems written by GPT-4
    python prepare_gsm8k.py --source=openai    # the original 7,473, with the steps from their <<...>> annotations
    python prepare_gsm8k.py --from=FOLDER      # the same, from files that are already there

A line of GSM8k-Aug:   question||<<4-2=2>> <<2/.5=4>> #### 300
The original, JSON:    {"question": "...", "answer": "... 48/2 = <<48/2=24>>24 clips ...\n#### 72"}
"""

import json
import os
import re
from dataclasses import dataclass

import data
from config import UserError, cli, option, parse
from download import download
from settings import TrainConfig
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
HELD_OUT = 500  # the original has no validation file: the last problems of its training file


@dataclass
class GSM8KConfig:
    source: str = option("aug", "aug: GSM8k-Aug; openai: the original", ("aug", "openai"))
    from_: str = option("", "folder with the source's files, instead of downloading them")
    out_dir: str = option("data/gsm8k", "where train.json, valid.json and test.json go")


def parse_aug(line):
    """A line of GSM8k-Aug as a problem; ValueError if it is none."""
    question, bars, rest = line.partition("||")
    steps, mark, answer = rest.rpartition("####")
    if not (bars and mark and question.strip() and answer.strip()):
        raise ValueError("expected question||steps #### answer")
    return {"question": question.strip(), "steps": steps.split(), "answer": answer.strip().replace(",", "")}


def parse_openai(line):
    """A line of the original as a problem; ValueError if it is none."""
    try:
        problem = json.loads(line)
        question, solution = problem["question"], problem["answer"]
        text, mark, answer = solution.rpartition("####")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError('expected {"question": text, "answer": text}') from None
    if not (mark and isinstance(question, str) and question.strip() and answer.strip()):
        raise ValueError("expected a question, and an answer that ends in #### number")
    steps = re.findall(r"<<.*?>>", text)
    return {"question": question.strip(), "steps": steps, "answer": answer.strip().replace(",", "")}


def read_lines(path, parse_line):
    """The problems of a file. Lines that are none are named (the first five) and counted, not dropped in silence."""
    problems, bad = [], 0
    with open(path, encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, 1):
            try:
                problems.append(parse_line(line))
            except ValueError as e:
                bad += 1
                if bad <= 5:
                    print(f"{path}, line {number}: {e}, found {line[:60]!r}")
    if bad:
        print(f"{path}: {bad} lines left out")
    if not problems:
        raise UserError(f"{path}: no problems in it")
    return problems


def main(argv):
    cfg = parse(GSM8KConfig, argv, __doc__)
    parse_line, splits = {"aug": parse_aug, "openai": parse_openai}[cfg.source], {}
    for split, (name, url, known, expected) in SOURCES[cfg.source].items():
        path = os.path.join(cfg.from_, name) if cfg.from_ else download(url, **known)
        if not os.path.exists(path):
            raise UserError(
                f"{path}: no such file; --from wants {', '.join(s[0] for s in SOURCES[cfg.source].values())}"
            )
        splits[split] = read_lines(path, parse_line)
        note = "as published" if len(splits[split]) == expected else f"WARNING: the published file has {expected:,}"
        print(f"{path}: {len(splits[split]):,} problems ({note})")
    if "valid" not in splits:
        if len(splits["train"]) <= HELD_OUT:
            raise UserError(
                f"{len(splits['train'])} training problems, but {HELD_OUT} of them are needed for validation"
            )
        splits["train"], splits["valid"] = splits["train"][:-HELD_OUT], splits["train"][-HELD_OUT:]

    tok = make_tokenizer("gpt2")
    settings = TrainConfig(tokenizer="gpt2", block_size=1024)  # the rest: the official code's formats
    os.makedirs(cfg.out_dir, exist_ok=True)
    for split in ("train", "valid", "test"):
        path = os.path.join(cfg.out_dir, f"{split}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(splits[split], f)
        problems = data.load(path, settings, tok)  # tokenises, and keeps the tokens for training
        print(f"{path}: {len(problems):,} problems, {len(problems.tokens):,} tokens")
    print(f"\nfor example: {splits['train'][0]}")
    question, steps, answer = data.encode(splits["train"][:1], settings, tok)[0]
    print(f"in tokens:   {[tok.decode([t]) for t in question + sum(steps, []) + answer]}")


if __name__ == "__main__":
    cli(main)
