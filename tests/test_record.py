"""
The numbers of commit 7185c79, to the twelfth digit: rows, losses, gradients, thoughts, what is written, orders.

What is recorded, and how: record.py. A change of these numbers is a change of the program, never one of its shape.
"""

import os

import pytest
import record
import torch

from config import UserError

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # the models are tiny


def test_all_cases_are_recorded():
    assert [*record.recorded()] == [*record.CASES]


@pytest.mark.parametrize("name", record.CASES)
def test_numbers_are_those_of_the_record(name):
    """Catches any other row, order, loss, gradient, thought, token or place to stop than 7185c79's."""
    case = record.CASES[name]
    try:
        if case["flags"].get("tokenizer") == "gpt2":
            record.make_tokenizer("gpt2")
        found = record.record(case)
    except UserError as e:
        if record.missing(str(e)) or "vocabulary" in str(e):
            pytest.skip(str(e))
        raise
    wrong = record.differences(record.recorded()[name], found)
    assert not wrong, f"{len(wrong)} differences, such as\n" + "\n".join(wrong[:5])


@pytest.mark.parametrize("config", record.recorded(record.CONFIGS_FILE))
def test_settings_are_those_of_the_record(config):
    """Catches another value, another error, or something else that is refused, for each config and method."""
    expected, found = record.recorded(record.CONFIGS_FILE)[config], record.table([config])[config]
    errors = [said["error"] for said in found.values() if record.missing(said.get("error", ""))]
    for method, old in expected.items():
        if found[method].get("error") in errors:
            continue
        new, old = found[method], record.as_it_was(old, method)
        if "needs thoughts one after the other" in old.get("error", ""):  # of a setting that came with +sets or +stop
            assert method in ("pccot", "lotus") and "settings" in new
            continue
        assert new.keys() == old.keys()
        for name, value in old.get("settings", {}).items():
            assert new["settings"][name] == value, (method, name)
    if errors:
        pytest.skip(errors[0])


def test_the_record_notices():
    """Catches a comparison that lets everything pass: one digit, one zero, one None, one missing name."""
    expected = {"loss": 2.0, "gradient": [1.0, 0.5, 0.0, -0.5], "none": "none", "zero": 0.0, "rows": [1, 2]}
    assert not record.differences(expected, expected | {"loss": 2.0 + 1e-12, "gradient": [1.0, 0.5, 1e-13, -0.5]})
    for change in (
        {"loss": 2.0 + 1e-11},
        {"gradient": [1.0, 0.5, 1e-11, -0.5]},
        {"none": 0.0},
        {"zero": 1e-300},
        {"rows": [1, 2, 3]},
        {"rows": [1, 2.0]},
        {"more": 1},
    ):
        assert record.differences(expected, expected | change)
    assert record.differences(expected, {name: value for name, value in expected.items() if name != "zero"})
