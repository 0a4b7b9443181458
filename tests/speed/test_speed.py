"""
Files of speed/ that change how a model is trained, one by one and together: compiled, recompute, fast.

Each test names the mistake that it would catch.
"""

import copy
import shutil

import pytest
import torch
from helpers import hops_flags, only_with, run_to_the_end

import prepare_hops
from coconut import Coconut
from config import UserError, upstairs
from curriculum import config_class
from evaluate import precision
from model import GPT, GPTConfig
from test_latent import VOCAB, assert_close, batch, some_rows


def gpt2():
    return GPT(GPTConfig(2, 3, 24, 40, VOCAB))


def llama():
    llama = upstairs("pretrained", "llama")
    return llama.Llama(llama.LlamaConfig(2, 4, 2, 10, 24, 40, 40, VOCAB, qk_norm=True))


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("width, dtype, expected", [(511, "auto", 0), (512, "auto", 1), (8, "bfloat16", 2)])
def test_bfloat16_on_a_cpu(width, dtype, expected, has_it, monkeypatch):
    """auto: if the CPU has it and the model is wide enough to gain; catches small models that are slowed down."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    with precision(config_class({})(n_embd=width, dtype=dtype), torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") == (expected + has_it >= 2)


@pytest.mark.parametrize("make_base", [gpt2, pytest.param(llama, marks=only_with("pretrained/llama.py"))])
@pytest.mark.parametrize("name", ["compiled", "recompute", "fast"])
def test_the_gradients_are_the_same(name, make_base):
    """Catches weights whose gradient a compiler has lost."""
    if name == "compiled" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    torch.manual_seed(0)
    model, rows = Coconut(make_base()), some_rows(size=4)
    quick = copy.deepcopy(model)
    upstairs("speed", name).speed_up(quick)
    loss, expected = quick(*batch(rows))[1], model(*batch(rows))[1]
    loss.backward()
    expected.backward()
    assert_close(loss, expected, 1e-5)
    for p, theirs in zip(quick.parameters(), model.parameters(), strict=True):
        assert_close(p.grad, theirs.grad, 1e-4)


@pytest.mark.parametrize("names", ["fast,recompute", "recompute,fast", "fast,compiled", "compiled,fast"])
def test_fast_goes_with_nothing_else(names):
    """Catches torch's CheckpointError: what fast has put aside is not computed again."""
    model = Coconut(gpt2())
    with pytest.raises(UserError, match="fast.*: expected one of them"):
        for name in names.split(","):
            upstairs("speed", name).speed_up(model)


@only_with("methods/simcot.py")
@pytest.mark.parametrize("name", ["recompute", "fast"])
def test_a_second_model_stays_one(name, tmp_path, monkeypatch):
    """Catches a decoder, a copy of the model, that computes with the blocks of the model itself."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--dropout=0", "--method=simcot", "--steps=5"]
    plain = run_to_the_end([*flags, "--out_dir=plain"])
    other = run_to_the_end([*flags, "--out_dir=other", f"--speed={name}"])
    for p, theirs in zip(other.objective.parameters(), plain.objective.parameters(), strict=True):
        assert_close(p, theirs, 1e-3)
