"""
Get GSM8K: grade-school problems in words, whose steps are little equations.

    python prepare_gsm8k.py                    # GSM8k-Aug, as in the paper: 385,620 problems written by GPT-4
    python prepare_gsm8k.py --source=openai    # the original 7,473, with the steps from their <<...>> annotations
    python prepare_gsm8k.py --from=FOLDER      # the same, from files that are already there

A line of GSM8k-Aug:   question||<<4-2=2>> <<2/.5=4>> #### 300
The original, JSON:    {"question": "...", "answer": "... 48/2 = <<48/2=24>>24 clips ...\n#### 72"}

Lines of another shape are named and counted: those that can only be meant in one way are kept, the others left out.

With --renumber=40, the original's stories, each 40 times with other numbers: tasks/renumber.py.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import partial

import data
from config import TrainConfig, UserError, cli, no_such, option, parse, read_text, upstairs
from download import download
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
ANNOTATION = re.compile(r"<<(?:(?!<<|>>).)+>>")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)\s+(?=[^a-z\s])")
HELD_OUT = 500  # the original has no validation file: the last problems of its training file
FURTHER = "--renumber", "--largest", "--operations", "--width", "--equations"  # flags of tasks/renumber.py


@dataclass
class GSM8KConfig:
    source: str = option("aug", "aug: GSM8k-Aug; openai: the original", ("aug", "openai"))
    from_: str = option("", "folder with the source's files, instead of downloading them")
    out_dir: str = option("data/gsm8k", "where train.json, valid.json and test.json go")


def split_steps(text):
    """(the annotations <<...>> in a text, the text around them); ValueError if one of them is not whole."""
    around = ANNOTATION.sub(" ", text)
    if "<<" in around or ">>" in around:
        raise ValueError("expected each << to be closed by >>")
    return ANNOTATION.findall(text), around.strip()


def split_answer(text):
    """(what stands before the mark ####, the answer without commas); ValueError unless there is one of each."""
    before, _, answer = text.partition("####")
    if re.findall("####+", text) != ["####"]:
        raise ValueError("expected #### once")
    if not answer.strip() or re.search(r"\n|\|\||<<|###", answer.strip()):
        raise ValueError("expected an answer after ####")
    return before, answer.strip().replace(",", "")


def parse_aug(line, remark=print):
    """A line of GSM8k-Aug as a problem; ValueError if it is none. remark(what) is called for what is unusual.

    Steps are annotations, which may contain spaces; or equations with spaces between them; or else sentences.
    """
    before, answer = split_answer(line)
    question, _, text = before.rpartition("||")
    several = "||" in question or question.endswith("|")
    if not question.strip() or (several and "<<" in question):
        raise ValueError("expected question||steps #### answer")
    if several:
        remark("more than one ||, the last of which ends the question")
    steps, words = split_steps(text)
    if steps and words:
        remark("words around <<...>>, which are no steps (nor are they with --source=openai)")
    elif all(re.fullmatch("[^=]+=[^=]+", word) for word in words.split()):
        steps += words.split()
    else:
        remark("steps in words, each sentence of which becomes one")
        steps = SENTENCE_END.split(words)
    return {"question": question.strip(), "steps": steps, "answer": answer}


def parse_openai(line, remark=print):
    """A line of the original as a problem, as parse_aug does it."""
    try:
        problem = json.loads(line)
        question, solution = problem["question"], problem["answer"]
        (question + solution).encode()  # texts, and none with half a character, which JSON can spell
        empty = not question.strip()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError('expected {"question": text, "answer": text}') from None
    if empty:
        raise ValueError("expected a question")
    text, answer = split_answer(solution)
    steps, words = split_steps(text)
    if words and not steps:
        remark("no <<...>>: a problem without steps")
    return {"question": question.strip(), "steps": steps, "answer": answer}


def read_lines(path, parse_line):
    """The problems of a file. Lines that are none, or unusual, are counted by kind, the first of each kind is shown.

    UserError if less than half of the lines are problems: it is another kind of file then.
    """
    problems, unusual, lines = [], {}, read_text(path).split("\n")

    def note(number, what, then="kept"):
        unusual.setdefault((what, then), []).append(number)

    for number, line in enumerate(lines, 1):
        try:
            problems += [parse_line(line, partial(note, number))] if line.strip() else []
        except ValueError as e:
            note(number, str(e), "left out")
    for (what, then), (first, *more) in unusual.items():
        such = f"{1 + len(more):,} such line{'s' if more else ''}, {then}"
        print(f"{path}, line {first}: {what}, found {lines[first - 1][:60]!r}; {such}")
    n_bad = sum(len(numbers) for (_, then), numbers in unusual.items() if then == "left out")
    if not problems or n_bad > len(problems):
        found = f"{n_bad:,} lines are none, {len(problems):,} are" if n_bad else "it is empty"
        raise UserError(f"{path}: expected problems in the format of this --source, but {found}")
    return problems


def read_files(files, folder):
    """{split: problems} of files as in SOURCES, which are in a folder, or else downloaded."""
    splits = {}
    for split, (name, url, known, expected) in files.items():
        path = os.path.join(folder, name) if folder else download(url, **known)
        if not os.path.exists(path):
            wanted = ", ".join(file[0] for file in files.values())
            raise UserError(f"{no_such('file', path)}; --from wants {wanted}")
        splits[split] = read_lines(path, parse_openai if name.endswith(".jsonl") else parse_aug)
        note = "as published" if len(splits[split]) == expected else f"WARNING: the published file has {expected:,}"
        print(f"{path}: {len(splits[split]):,} problems ({note})")
    return splits


def main(argv):
    if any(arg.partition("=")[0] in FURTHER for arg in argv):
        return upstairs("tasks", "renumber").main(argv)
    cfg = parse(GSM8KConfig, argv, __doc__)
    splits = read_files(SOURCES[cfg.source], cfg.from_)
    if "valid" not in splits:
        if len(splits["train"]) <= HELD_OUT:
            raise UserError(
                f"{len(splits['train'])} training problems, but {HELD_OUT} of them are needed for validation"
            )
        splits["train"], splits["valid"] = splits["train"][:-HELD_OUT], splits["train"][-HELD_OUT:]

    tok = make_tokenizer("gpt2")
    settings = TrainConfig(tokenizer="gpt2", block_size=1024)  # the rest: the official code's formats
    for path in data.write_files(cfg.out_dir, {split: splits[split] for split in data.SPLITS}).values():
        problems = data.load(path, settings, tok)  # tokenises, and keeps the tokens for training
        print(f"{path}: {len(problems):,} problems, {len(problems.tokens):,} tokens")
    print(f"\nfor example: {splits['train'][0]}")
    question, steps, answer = data.encode(splits["train"][:1], settings, tok)[0]
    print(f"in tokens:   {[tok.decode([t]) for t in question + sum(steps, []) + answer]}")


if __name__ == "__main__":
    cli(main)
