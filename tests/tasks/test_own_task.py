"""
A task of one's own is one file, tasks/NAME.py, and no other file has to be touched.
"""

import json
import re

import pytest
from helpers import command, copy_of_project, hops_flags

GRADING = """
import curriculum


class Task(curriculum.Task):
    def is_right(self, answer, expected):
        return answer != expected
"""  # the wrong answers are right: so what is right under this one and under the usual one adds up to 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(how to run a script of a copy of the project that has tasks/contrary.py; its output when it was trained)."""
    folder = tmp_path_factory.mktemp("own")
    project = copy_of_project(folder / "project")
    (project / "tasks" / "contrary.py").write_text(GRADING)

    def run(script, *args):
        done = command(folder, script, *args, project=project)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("prepare_hops.py", *"--nodes=5 --hops=2 --train=50 --valid=9 --test=40 --out_dir=data".split())
    return run, run("train.py", *hops_flags(), "--steps=5", "--task=contrary", "--out_dir=out/own"), folder


def accuracy(text):
    return float(re.search(r"test accuracy ([\d.]+)%", text)[1])


def test_a_grading_of_ones_own_is_used_by_all(made):
    """Catches a script that compares texts although the task says otherwise."""
    run, said, folder = made
    own = accuracy(said)
    assert own >= 50 and accuracy(run("train.py", "--eval_only=out/own")) == own
    assert accuracy(run("train.py", "--eval_only=out/own", "--task=")) == pytest.approx(100 - own)
    questions = json.loads(run("sample.py", "out/own", "--count=40", "--json"))["questions"]
    assert {q["right"] for q in questions} == {True, False} or own == 100
    assert 100 * sum(q["right"] for q in questions) / 40 == pytest.approx(own)
    assert all(q["right"] == (q["writes"].rpartition("=")[2].strip() != q["expected"]) for q in questions)
    run("lab.analyze", "out/own", "--device=cpu")
    found = json.loads((folder / "out/own/analysis.json").read_text())
    assert 100 * found["sweep"][-1]["accuracy"] == pytest.approx(own)
    assert 100 * found["controls"][0]["accuracy"] == pytest.approx(own)


def test_a_task_that_is_not_there_is_one_line(made):
    done = command(made[2], "train.py", *hops_flags(), "--task=contrary")
    assert done.returncode == 2 and done.stderr.startswith("error: 'contrary' would be tasks/contrary.py")
