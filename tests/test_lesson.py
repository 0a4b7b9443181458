"""
docs/lesson.ipynb: its cells run as they stand, and what it says is so. No Jupyter is needed.

After a change of the lesson or of what it shows (pip install nbconvert ipykernel, anywhere):
    jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/lesson.ipynb
"""

import json
import os
import re
import sys

import pytest
import torch
from helpers import HERE

import feedback

LESSON = os.path.join(HERE, "docs", "lesson.ipynb")


def cells(kind):
    with open(LESSON, encoding="utf-8") as f:
        return [cell for cell in json.load(f)["cells"] if cell["cell_type"] == kind]


def source(cell):
    """Its text; in the file it is a text, or a list of lines."""
    return "".join(cell["source"])


def printed(cell):
    assert all(output["output_type"] == "stream" and output["name"] == "stdout" for output in cell["outputs"])
    return "".join("".join(output["text"]) for output in cell["outputs"])


@pytest.fixture(scope="module")
def lesson():
    """(what the cells have made, {number of the cell: what it has printed}) after all have run, from docs/."""
    made, said = {}, []
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(os.path.join(HERE, "docs"))
        patch.setattr("sys.path", [*sys.path])
        patch.setattr(feedback, "FEEDBACKS", dict(feedback.FEEDBACKS))
        for cell in cells("code"):
            lines = []
            made["print"] = lambda *words, lines=lines: lines.append(" ".join(map(str, words)) + "\n")
            exec(compile(source(cell), LESSON, "exec"), made)
            said.append("".join(lines))
    return made, said


def test_it_learns_to_think(lesson):
    """Catches a lesson that ends in a model that has learned nothing, or that does not need its thoughts."""
    made, _ = lesson
    assert all(made["accuracy"](made["model"], stage) > 0.9 for stage in range(4))
    assert made["answered"][3] > 0.9 and max(made["answered"][:3]) < 0.3


def test_thought_k_is_node_k(lesson):
    assert min(lesson[0]["same"]) > 0.9


def test_it_goes_where_other_thoughts_lead(lesson):
    made, _ = lesson
    assert made["for_other"] > 0.9 and made["for_own"] < 0.3 and made["follows"] / len(made["held_out"]) > 0.9


def test_a_feedback_of_ones_own_is_learned(lesson):
    made, _ = lesson
    assert made["exchanged"]["last"] > 0.9 and max(made["exchanged"]["word"], made["exchanged"]["zero"]) < 0.4
    assert made["accuracy"](made["in_words"], 3) > 0.9


def test_what_it_shows_is_what_comes_out(lesson):
    """Catches outputs of an earlier version of a cell: the same words and, before there is any training, numbers."""
    for cell, said in zip(cells("code"), lesson[1]):
        shown = printed(cell)
        if "train_stage" not in source(cell):  # a run may take other steps on another processor
            assert re.sub(r" *[\d.]+", " 0", shown) == re.sub(r" *[\d.]+", " 0", said), source(cell)


def test_it_can_be_read_on_github():
    """Catches a cell that was not executed, a path of somebody's machine, and lines that are too wide."""
    code = cells("code")
    assert 12 <= len(code) <= 18 and not any(cell["metadata"] for cell in code)
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    for cell in code:
        assert not re.search(r"/home/|/work/|/tmp/|/Users/", source(cell) + printed(cell))
        assert all(len(line) <= 120 for line in (source(cell) + "\n" + printed(cell)).splitlines()), source(cell)


def test_its_links_lead_somewhere():
    for cell in cells("markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", source(cell)):
            assert target.startswith("http") or os.path.exists(os.path.join(HERE, "docs", target)), target


def test_it_needs_the_ground_floor_only():
    """Catches an import of a folder's file, which may be deleted, or of something that is not installed."""
    found = re.findall(r"^(?:from|import) (\w+)", "\n".join(map(source, cells("code"))), flags=re.M)
    top = {name.removesuffix(".py") for name in os.listdir(HERE) if name.endswith(".py")}
    assert {*found} <= top | {"copy", "os", "random", "subprocess", "sys", "torch"}
