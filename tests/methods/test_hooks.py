"""What a file in methods/ gets wrong is said, not passed over."""

import sys
import types

import pytest
from helpers import hops_flags, only_with, start_run, words

import curriculum
import prepare_hops
from config import UserError, option


@pytest.fixture
def method(monkeypatch):
    """Makes a module methods/mine.py of some names, for --method=mine."""

    def make(**names):
        module = types.ModuleType("methods.mine")
        vars(module).update(names)
        upstairs = curriculum.upstairs

        def mine(folder, name, **known):
            return module if folder == "methods" else upstairs(folder, name, **known)

        monkeypatch.setattr(curriculum, "upstairs", mine)
        monkeypatch.setitem(sys.modules, "methods.mine", module)
        curriculum.methods_of.cache_clear()
        curriculum.kind_of.cache_clear()

    yield make
    curriculum.methods_of.cache_clear()
    curriculum.kind_of.cache_clear()


def test_a_file_that_changes_nothing_is_refused(method):
    """Catches a misspelt name, with which plain Coconut would be trained to the end."""
    method(change_rows=lambda row, *args: row)
    with pytest.raises(UserError, match=r"methods.mine: none of .*change_row.* is in this file, so it changes nothing"):
        words(method="mine")


def test_a_base_that_is_no_row_of_table_1_is_one_line(method):
    """Catches a KeyError, far from the file that has it."""
    method(base="coconat")
    with pytest.raises(UserError, match="methods.mine: base = 'coconat', expected one of coconut, cot"):
        words(method="mine")


@pytest.mark.parametrize("settings", [3, [], {"mine": 3}, {"mine": (int, 3)}, {"mine": option(1, "one")}])
def test_settings_that_are_none_are_one_line(settings, method):
    """Catches a traceback about something that is not iterable, or has no metadata."""
    method(settings=settings)
    with pytest.raises(UserError, match=r"methods.mine: settings = .*expected .name: .type, option"):
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


@only_with("lab/advice.py")
@pytest.mark.parametrize("wrong", ["fed", "target"])
def test_losses_that_fail_where_nobody_thinks_are_tried_at_the_start(wrong, method, tmp_path, monkeypatch):
    """Catches a traceback in the first step, or in the first stage that has a problem without steps."""

    class Objective(curriculum.Objective):
        weights = {"mine": 1.0}

        def losses(self, thinking, batch):
            last = thinking.fed[:, -1] if wrong == "fed" else thinking.layers[-1][:, 1]
            return super().losses(thinking, batch) | {"mine": last.sum()}

        def counts(self, batch):
            return super().counts(batch) | {"mine": batch.n.sum()}

    method(Objective=Objective)
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
    with pytest.raises(UserError, match=r"method=mine fails where nobody thinks .*test_hooks.py, line \d+: IndexError"):
        start_run([*hops_flags(), "--method=mine", "--out_dir=out"])
