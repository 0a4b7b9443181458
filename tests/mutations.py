"""
Does the record notice? Ten mistakes, made one at a time in a copy of the project: test_record.py has to fail for each.

    python tests/mutations.py            # some minutes; exit code 1 if one is not noticed
"""

import os
import shutil
import subprocess
import sys
import tempfile

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MISTAKES = [  # (file, what stands there, what is written instead, what that is)
    ("coconut.py", "fed.append(self.feedback(h, self, i))", "fed.append(self.feedback(h, self, i).detach())",
     "a detached thought"),
    ("coconut.py", "(i < n)[:, None], past)", "(i <= n)[:, None], past)", "a thought too many counts in short rows"),
    ("model.py", "seen.cumsum(1)[:, -x.size(1) :] - 1", "seen.cumsum(1)[:, -x.size(1) :]", "positions are off by one"),
    ("curriculum.py", "written[0] if cfg.peek", "written[-1] if cfg.peek", "peek looks at the wrong token"),
    ("methods/_feedbacks.py", "h - before < -0.1", "h - before < -0.2", "another mask of suppressed"),
    ("methods/_teacher.py", "b = b.detach()", "b = b", "the teacher learns from its pupil"),
    ("methods/simcot.py", "k + 1 if k < last else None", "k + 1", "the last group forgets further steps"),
    ("methods/_stopping.py", "cumsum(1)[:, :-1], (1, 0))", "cumsum(1)[:, 1:], (1, 0))", "chances one thought too late"),
    ("methods/sets.py", "[layer[:, :-1] for layer in thinking.layers]", "[layer[:, 1:] for layer in thinking.layers]",
     "thoughts fed back one place too far"),
    ("tasks/graphs.py", "edges = rng.permutation(renamed[edges])", "edges = renamed[edges]", "edges are not shuffled"),
]  # fmt: skip


def notices(path, old, new):
    """Whether the record's test fails with this change."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "project")
        shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".git", "data", "out", "__pycache__", ".*"))
        with open(os.path.join(copy, path), encoding="utf-8") as f:
            text = f.read()
        if text.count(old) != 1:
            sys.exit(f"{path}: {old!r} stands there {text.count(old)} times, expected once")
        with open(os.path.join(copy, path), "w", encoding="utf-8") as f:
            f.write(text.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", "-n", "2", "tests/test_record.py"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        return done.returncode in (1, 2) and " failed" in done.stdout


def main():
    missed = 0
    for path, old, new, what in MISTAKES:
        noticed = notices(path, old, new)
        missed += not noticed
        print(f"{path:<24} {what:<45} {'noticed' if noticed else 'NOT NOTICED'}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
