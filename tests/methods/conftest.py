"""Each test of a method is tried with several base models."""

import naive
import pytest


@pytest.fixture(params=["gpt2", "gpt2 fast", "llama"])
def tiny(request):
    """Makes Objectives of tiny random models: tiny("simcot+seq_vcr", c_thought=2)."""
    return naive.maker_of_objectives(request.param)
