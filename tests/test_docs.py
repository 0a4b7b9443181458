"""README.md and docs/ say what is so: commands, settings, links, code."""

import csv
import glob
import importlib
import os
import re
import shlex

import pytest
from helpers import HERE, command, copy_of_project, hops_flags

import config
import tasks.prosqa
import tasks.renumber
from curriculum import config_class
from lab import runs

PAGES = sorted(["README.md", *(os.path.relpath(path, HERE) for path in glob.glob(os.path.join(HERE, "docs", "*.md")))])
PAGES.remove("docs/LOG.md")  # what is written there was so on that day
FOLDERS = "", "lab", "methods", "pretrained", "speed", "tasks"
FILES = [path for folder in FOLDERS for path in sorted(glob.glob(os.path.join(HERE, folder, "*.py")))]
PLACEHOLDERS = {"METHOD": "coconut", "SEED": "1", "K": "2"}  # what a reader has to fill in, where it is of a kind
LATER = "back", "codi", "cut", "lotus", "pccot", "ponder", "seq_vcr", "sets", "simcot", "stop"  # any may be deleted
GONE = [name for name in LATER if not os.path.exists(os.path.join(HERE, "methods", f"{name}.py"))]


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


def understand(script, argv, monkeypatch):
    """Read a command as its script does, and no more; UserError if it does not take it."""
    if script == "lab.runs":
        return runs.plan(argv)
    if script == "train":
        return runs.settings([arg for arg in argv if arg != "--resume"])
    if script == "pretrained.export":
        return len(argv) == 2

    def parse(*args, **settings):
        config.parse(*args, **settings)
        raise Understood

    module = importlib.import_module(script)
    for each in (module, tasks.prosqa, tasks.renumber):  # to which prepare_prosqa.py and prepare_gsm8k.py may hand over
        monkeypatch.setattr(each, "parse", parse)
    with pytest.raises(Understood):
        module.main(argv)


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
        try:
            understand(script, argv, monkeypatch)
        except config.UserError as e:
            assert any(f"'{name}' would be" in str(e) for name in GONE), f"{page}: {shlex.join(words)}: {e}"


def all_settings():
    """The names of the settings of all scripts."""
    names = set()
    for path in FILES:
        names |= {*re.findall(r"^    (\w+?)_?: [^=]*= option\(", read(path), flags=re.M)}
        names |= {*re.findall(r"\"(\w+)\": \(.+, option\(", read(path))}  # a method's, a task's, a base model's
    return names


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page):
    """Catches a setting in the text that has been renamed."""
    known = all_settings()
    assert {"master_at", "count", "out_dir", "from", "latent", "names"} <= known
    elsewhere = {"help", "nproc_per_node"}  # every script's; torchrun's
    elsewhere |= {"backprop_thoughts", "passes", "rounds", "teacher_forcing", "teacher_writes",
                  "thought_targets"}  # methods', which may be deleted  # fmt: skip
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
        if re.fullmatch(r"methods/[a-z]\w*\.py", where) and not os.path.exists(os.path.join(HERE, where)):
            continue  # a method's file may be deleted; that each is there: test_each_method_has_a_test
        assert os.path.exists(os.path.join(HERE, where)), target
        assert not anchor or anchor in anchors(where), target


def test_each_method_has_a_test():
    """Catches a method without tests of its own; what docs link to in methods/ is there if its test is."""
    files = (os.path.basename(path) for path in glob.glob(os.path.join(HERE, "methods", "[a-z]*.py")))
    tests = {os.path.basename(path) for path in glob.glob(os.path.join(HERE, "tests", "methods", "test_*.py"))}
    assert {f"test_{name}" for name in files} == tests - {"test_hooks.py", "test_feedbacks.py"}


@pytest.mark.parametrize("page", PAGES)
def test_code_that_is_shown_is_the_code(page):
    """Catches an excerpt that is not what stands in the file; `...` is what was left out."""
    for block in blocks(page, "python"):
        first, *lines = block.splitlines()
        path = re.match(r"# ([\w/]+\.py)$", first)
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
        config.parse(config_class, [str(tmp_path / "shown.py")], "", takes_file=True)


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    """Catches lines that a terminal or a diff would wrap; tables and links cannot be broken."""
    for line in read(page).splitlines():
        assert len(line) <= 120 or line.lstrip().startswith(("|", "![")), line


def test_every_room_is_named_in_the_readme():
    """Catches a file on the top level, or a folder, that no reader is led to, and a method that docs/ do not name."""
    text, methods = read("README.md"), read("docs/methods.md")
    for path in FILES:
        folder, _, name = os.path.relpath(path, HERE).rpartition("/")
        assert (f"({folder}/" if folder else name) in text.replace(f"({folder})", f"({folder}/)") or (
            "prepare_" in name and "prepare_*.py" in text
        ), path
        if folder == "methods" and not name.startswith("_"):
            assert f"`{name.removesuffix('.py')}`" in methods, name


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, with all that docs/methods.md has to copy in its place."""
    project = copy_of_project(tmp_path_factory.mktemp("copy") / "project")
    for block in blocks("docs/methods.md", "python"):
        path, kind = re.match(r"# ([\w/]+\.py), a new (file|function)\n", block).groups()
        code = block.partition("\n")[2]
        if kind == "file":
            assert not (project / path).exists()
            (project / path).write_text(code)
        else:
            name, text = re.search(r"def (\w+)", code)[1], (project / path).read_text()
            before, found, after = text.partition("class Vector")
            listed = '"vector": Vector}'
            assert found and listed in after
            after = after.replace(listed, listed.replace("}", f', "{name}": {name}}}'))
            (project / path).write_text(f"{before}{code}\n\n{found}{after}")
    assert len((project / "methods" / "early.py").read_text().splitlines()) <= 40
    sizes = "--nodes=6 --hops=4 --train=50 --valid=9 --test=9 --out_dir=data".split()
    made = command(project, "prepare_hops.py", *sizes, project=project)
    assert made.returncode == 0, made.stderr
    return project


def trained(project, *more):
    """What a run of two steps for each stage says."""
    flags = [flag for flag in hops_flags() if not flag.startswith(("--steps", "--max_latent"))]
    flags += ["--steps=2", "--max_latent_stage=4", "--log_every=1", *more]
    done = command(project, "train.py", *flags, project=project)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_method_of_docs_can_be_copied(copy):
    """Catches a page whose example does not run, and one that trains something else than it says."""
    more = [
        "--method=coconut+early",
        "--early_from=2",
        "--feedback=halfway:0.3",
        "--task=anycase",
        "--out_dir=out/early",
    ]
    assert "stage 4 of 4: 4 thoughts in place of 4 of 4 steps" in trained(copy, *more)
    log = (copy / "out/early/log.txt").read_text()
    losses = [float(value) for value in re.findall(r" train/early (\S+)", log)]
    assert len(losses) == 10 and losses[:4] == [0.0] * 4, "in stages 0 and 1 there is no second thought"
    assert all(loss > 1 for loss in losses[4:])
    sampled = command(copy, "sample.py", "out/early", "--count=1", project=copy)
    assert "thought 4" in sampled.stdout, sampled.stderr


def test_rows_of_ones_own_are_what_the_run_says(copy):
    """Catches a stage that is announced as if it were Coconut's."""
    said = trained(copy, "--method=odd", "--out_dir=out/odd")
    assert "odd, a single stage: 2 thoughts in place of 2 of 4 steps\n" in said


def test_the_table_of_methods_is_that_of_its_runs():
    """Catches a figure that was copied wrongly, or left over from earlier runs: mean and range, tokens, cost."""
    with open(os.path.join(HERE, "docs", "methods.csv"), encoding="utf-8") as f:
        made = list(csv.DictReader(f))
    about = [*dict.fromkeys(run["task"] for run in made)]

    def values(task, method, column):
        found = [float(r[column]) for r in made if (r["task"], r["method"]) == (task, method)]
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

    rows = re.findall(r"^\| `(\w+)` (\|.*\|)$", read("docs/methods.md"), flags=re.M)
    for of in (accuracy, effort):
        for method in dict.fromkeys(run["method"] for run in made):
            wanted = sum((of(task, method) for task in about), [])
            cells = [[cell.strip() for cell in line.split("|")[1:-1]] for name, line in rows if name == method]
            assert wanted in cells, (method, wanted)
    methods = "cot", "coconut", "no_cot", "pause_as_thought"  # README's columns
    found = re.findall(r"[\d.]+ \([\d.]+-[\d.]+\)", read("README.md").partition("## Results")[2])
    for task in about:
        wanted = sum((accuracy(task, method) for method in methods), [])
        assert any(found[i : i + 4] == wanted for i in range(0, len(found), 4)), (task, wanted)
