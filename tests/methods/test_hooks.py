"""What a file in methods/ gets wrong is said, not passed over."""

import sys
import types

import pytest
from helpers import words

import curriculum
from config import UserError


@pytest.fixture
def method(monkeypatch):
    """Makes a module methods/mine.py of some names, for --method=mine."""

    def make(**names):
        module = types.ModuleType("methods.mine")
        vars(module).update(names)
        monkeypatch.setattr(curriculum, "upstairs", lambda folder, name, *part: module)
        monkeypatch.setitem(sys.modules, "methods.mine", module)
        curriculum.methods_of.cache_clear()
        curriculum.kind_of.cache_clear()

    yield make
    curriculum.methods_of.cache_clear()
    curriculum.kind_of.cache_clear()


def test_a_file_that_changes_nothing_is_refused(method):
    """Catches a misspelt name, with which plain Coconut would be trained to the end."""
    method(change_rows=lambda row, *args: row)
    with pytest.raises(UserError, match=r"methods/mine.py has none of .*change_row.*: it changes nothing"):
        words(method="mine")


def test_a_loss_without_a_weight_is_refused(method):
    """Catches a loss that is computed, and left out in silence."""

    class Objective(curriculum.Objective):
        weights = {"right": 1.0}

        def losses(self, thinking, batch):
            return super().losses(thinking, batch) | {"wrong": thinking.fed.sum(), "right": thinking.fed.sum()}

    method(Objective=Objective)
    cfg, tok, problem = words(method="mine", n_embd=16, n_layer=1, n_head=2)
    from checkpoint import initial_model
    from data import collate

    cfg.origin = {}
    model, cfg = initial_model(cfg, tok)
    objective = curriculum.make_objective(model, cfg, tok)
    with pytest.raises(UserError, match="'wrong', which has no entry in its weights"):
        objective(collate([curriculum.row_for(problem, 1, cfg, tok)]))


def test_what_is_said_of_a_stage_can_be_the_methods_own(method, capsys):
    """Catches words that are guessed where the method knows better."""
    from evaluate import show_stage

    method(describe=lambda row, problem, pause: f"{row.n} thoughts in two parts")
    cfg, tok, problem = words(method="mine")

    class Problems(list):
        n_steps = types.SimpleNamespace(argmax=lambda: 0)

    run = types.SimpleNamespace(cfg=cfg, tok=tok, plan=[0, 1], progress={"index": 1, "step": 0},
                                problems={"train": Problems([problem])})  # fmt: skip
    show_stage(run, 1)
    assert "stage 1 of 1: 1 thoughts in two parts" in capsys.readouterr().out
