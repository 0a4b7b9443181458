"""README.md and docs/ say what is so: commands, settings, links, code."""

import csv
import glob
import importlib
import os
import re
import shlex

import pytest
from helpers import HERE

import config
from curriculum import METHODS
from settings import TrainConfig

PAGES = sorted(["README.md", *(os.path.relpath(path, HERE) for path in glob.glob(os.path.join(HERE, "docs", "*.md")))])
PAGES.remove("docs/LOG.md")  # what is written there was so on that day
FOLDERS = "", "lab", "methods", "pretrained", "speed", "tasks"
FILES = [path for folder in FOLDERS for path in sorted(glob.glob(os.path.join(HERE, folder, "*.py")))]
PLACEHOLDERS = {
    "METHOD": "coconut",
    "SEED": "1",
    "K": "2",
}  # what a reader has to fill in, where it has to be of a kind


def read(page):
    with open(os.path.join(HERE, page), encoding="utf-8") as f:
        return f.read()


def blocks(page, language):
    """The texts of a page's fenced blocks in this language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", read(page), flags=re.M | re.S)


def commands(page):
    """[words of each command in a page's sh blocks]."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
            words = [re.sub(r"\b(METHOD|SEED)\b", lambda m: PLACEHOLDERS[m[0]], word) for word in words]
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(words[:end])
                words = words[end + 1 :]
    return found


class Understood(Exception):
    pass


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page, monkeypatch):
    """Catches a script, a config file or a setting that is not there any more, or a value that it does not take."""
    monkeypatch.chdir(HERE)
    for words in commands(page):
        program, *argv = words
        if program == "torchrun":
            argv = argv[[word.startswith("--") for word in argv].index(False) :]
        elif program != "python":
            assert program in ("pip", "git", "cd", "pytest"), words
            continue
        script, *argv = argv
        if script == "-m":
            script, *argv = argv
            if script in ("pytest", "pip"):
                continue
            assert os.path.exists(os.path.join(HERE, *script.split(".")) + ".py"), words
        else:
            assert script in os.listdir(HERE), words
            script = script.removesuffix(".py")
        module = importlib.import_module(script)

        def parse(cls, *args, script=script, **settings):
            found = config.parse(cls, *args, **settings)
            if script != "lab.runs" or cls is TrainConfig:  # it reads its own settings first
                raise Understood
            return found

        if script == "pretrained.export":
            assert len(argv) == 2
            continue
        monkeypatch.setattr(module, "parse", parse)
        try:
            with pytest.raises(Understood):
                module.main(argv)
        except config.UserError as e:
            pytest.fail(f"{page}: {shlex.join(words)}: {e}")


def all_settings():
    """The names of the settings of all scripts."""
    names = set()
    for path in FILES:
        names |= {*re.findall(r"^    (\w+?)_?: [^=]*= option\(", read(path), flags=re.M)}
    return names


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page):
    """Catches a setting in the text that has been renamed."""
    known = all_settings()
    assert {"master_at", "count", "out_dir", "from", "latent"} <= known
    elsewhere = {"help", "shard", "nproc_per_node"}  # every script's; torchrun's
    for name in re.findall(r"`[^`\n]*?--(\w+)[^`\n]*`", read(page)):
        assert name in known | elsewhere, name


def anchors(page):
    """What Markdown makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Catches a file or a heading that has gone."""
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        where = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(HERE, where)), target
        assert not anchor or anchor in anchors(where), target


@pytest.mark.parametrize("page", PAGES)
def test_code_that_is_shown_is_the_code(page):
    """Catches an excerpt that is not what stands in the file; `...` is what was left out."""
    for block in blocks(page, "python"):
        first, *lines = block.splitlines()
        path = re.match(r"# ([\w/]+\.py)\b", first)
        if path:
            rest = [line.strip() for line in read(path[1]).splitlines()]
            for line in [line.strip() for line in lines if line.strip() not in ("", "...")]:
                assert line in rest, f"{path[1]}: {line}"
                rest = rest[rest.index(line) + 1 :]


@pytest.mark.parametrize("page", PAGES)
def test_configs_that_are_shown_are_read(page, tmp_path):
    """Catches a config of a page that train.py refuses."""
    for block in [block for block in blocks(page, "python") if "data_dir =" in block]:
        (tmp_path / "shown.py").write_text(block)
        config.parse(TrainConfig, [str(tmp_path / "shown.py")], "", takes_file=True)


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    """Catches lines that a terminal or a diff would wrap; tables and links cannot be broken."""
    for line in read(page).splitlines():
        assert len(line) <= 120 or line.lstrip().startswith(("|", "![")), line


def test_every_file_is_named_in_the_readme():
    """Catches a new room that no reader is led to."""
    text = read("README.md")
    for path in FILES:
        name = os.path.relpath(path, HERE)
        assert name in text or "prepare_" in name and "prepare_*.py" in text, name


def test_the_table_of_methods_is_that_of_its_runs():
    """Catches a figure that was copied wrongly, or left over from earlier runs: mean and range, tokens, cost."""
    with open(os.path.join(HERE, "docs", "methods.csv"), encoding="utf-8") as f:
        runs = list(csv.DictReader(f))
    tasks = [*dict.fromkeys(run["task"] for run in runs)]

    def values(task, method, column):
        found = [float(r[column]) for r in runs if (r["task"], r["method"]) == (task, method)]
        assert len(found) == 3
        return found

    def mean(*of):
        return sum(values(*of)) / 3

    def accuracy(task, method):
        found = [100 * x for x in values(task, method, "accuracy")]
        return [f"{sum(found) / 3:.1f} ({min(found):.1f}-{max(found):.1f})"]

    def effort(task, method):
        tokens, thoughts = (f"{mean(task, method, name):.1f}".removesuffix(".0") for name in ("tokens", "thoughts"))
        cost = mean(task, method, "cpu_seconds") / mean(task, "cot", "cpu_seconds")
        return [f"{tokens} + {thoughts}".removesuffix(" + 0"), f"{cost:.1f}"]

    for page, first, of in (("README.md", 2, accuracy), ("docs/methods.md", 1, effort)):
        rows = re.findall(r"^\| `(\w+)` (\|.*\|)$", read(page), flags=re.M)
        for method in METHODS:
            wanted = sum((of(task, method) for task in tasks), [])
            cells = [[cell.strip() for cell in line.split("|")[first:-1]] for name, line in rows if name == method]
            assert wanted in cells, (page, method, wanted)
