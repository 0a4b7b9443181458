"""
Weights in and out, against transformers where it is installed, and against broken files.   python -m pytest

The models are random and tiny, the file formats are the true ones.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from helpers import HERE, local_hub, needs

import data
import sample
import train
from checkpoint import initial_model, load_checkpoint
from coconut import Coconut
from config import TrainConfig, UserError, parse
from curriculum import config_class, make_prompt
from evaluate import solve
from model import DTYPES, GPT, SIZES, GPTConfig, is_projection, read_safetensors
from pretrained import export
from pretrained.export import write_safetensors
from pretrained.gpt2 import read_gpt2
from pretrained.hf_tokenizer import write_tokenizer_json
from pretrained.weights import load_tokenizer
from tokenizer import make_tokenizer
from train import Run

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


def random_gpt(n_layer=2, n_head=2, n_embd=8, vocab_size=61, block_size=32):
    """Biases and LayerNorms, too, are random, and large enough to notice when one is lost."""
    torch.manual_seed(n_layer)
    model = GPT(GPTConfig(n_layer, n_head, n_embd, block_size, vocab_size))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model.eval()


def openai_state(model, prefix=""):
    """The model's weights as OpenAI keeps them: projections (in, out), and a mask buffer in each layer."""
    state = {prefix + k: (t.T if is_projection(k) else t).contiguous().clone() for k, t in model.state_dict().items()}
    buffers = {f"{prefix}h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in range(model.config.n_layer)}
    return state | buffers


def logits_of(model):
    text = torch.arange(20).view(2, 10) % model.config.vocab_size
    with torch.no_grad():
        return Coconut(model)(text[:, :4], torch.tensor([4, 4]), 2, text[:, 4:])[0]


@pytest.fixture
def gpt2():
    try:
        return make_tokenizer("gpt2")
    except UserError:
        pytest.skip("GPT-2's vocabulary is neither cached nor can it be downloaded")


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("form", ["safetensors", "folder", "shards", "bin", "official", "other"])
def test_all_kinds_of_files_load(form, tmp_path):
    """Catches a prefix, buffer, copy of the head, shard or transposition that is treated wrongly."""
    model = random_gpt()
    state, source = openai_state(model), tmp_path
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
    if form in ("safetensors", "folder"):
        write_safetensors(tmp_path / "model.safetensors", state)
        source = tmp_path / "model.safetensors" if form == "safetensors" else tmp_path
    elif form == "shards":
        names = sorted(state)
        shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
        for file, part in shards.items():
            write_safetensors(tmp_path / file, {k: state[k] for k in part})
        index = {"weight_map": {k: file for file, part in shards.items() for k in part}}
        json.dump(index, open(tmp_path / "model.safetensors.index.json", "w"))
    elif form == "bin":
        torch.save(
            openai_state(model, "transformer.") | {"lm_head.weight": state["wte.weight"]},
            tmp_path / "pytorch_model.bin",
        )
    elif form == "official":
        copies = {"base_causallm.lm_head.weight": state["wte.weight"], "embedding.weight": state["wte.weight"]}
        torch.save(openai_state(model, "base_causallm.transformer.") | copies, tmp_path / "checkpoint_33")
        source = tmp_path / "checkpoint_33"
    else:
        torch.save(openai_state(model, "module.transformer."), tmp_path / "model.pt")
        source = tmp_path / "model.pt"
    loaded = read_gpt2(str(source)).eval()
    assert loaded.config == model.config
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "nothing"])
def test_a_model_from_the_hub(form, tmp_path, monkeypatch):
    """Catches wrong URLs, and a missing file that is taken for a broken connection (or the other way round)."""
    model, folder = random_gpt(), tmp_path / "me" / "model" / "resolve" / "v1"
    state = openai_state(model)
    folder.mkdir(parents=True)
    json.dump({"n_head": 2}, open(folder / "config.json", "w"))
    if form == "safetensors":
        write_safetensors(folder / "model.safetensors", state)
    elif form == "shards":
        write_safetensors(folder / "all.safetensors", state)
        json.dump(
            {"weight_map": dict.fromkeys(state, "all.safetensors")}, open(folder / "model.safetensors.index.json", "w")
        )
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")

    with local_hub(tmp_path, monkeypatch):
        if form == "nothing":
            with pytest.raises(UserError, match="none of model.safetensors"):
                read_gpt2("hf:me/model@v1")
        else:
            assert torch.equal(logits_of(read_gpt2("hf:me/model@v1").eval()), logits_of(model))
        with pytest.raises(UserError, match="answers 404"):
            read_gpt2("hf:me/model@v2")


def test_heads_follow_from_openais_sizes(tmp_path):
    """Catches a size table that is not OpenAI's: nothing in the weights tells how many heads there are."""
    for layers, heads, width in SIZES.values():
        state = {"wte.weight": torch.zeros(3, width), "wpe.weight": torch.zeros(2, width)}
        state |= {f"h.{i}.ln_1.weight": torch.zeros(1) for i in range(layers)}
        torch.save(state, tmp_path / "model.pt")
        with pytest.raises(
            UserError, match=r"Missing key.*h.0.ln_1.bias"
        ):  # so far it got: the number of heads was known
            read_gpt2(str(tmp_path / "model.pt"))
        assert width // heads == 64
    torch.save(openai_state(random_gpt()), tmp_path / "model.pt")
    with pytest.raises(UserError, match="n_head is None.*config.json"):
        read_gpt2(str(tmp_path / "model.pt"))


def test_other_tensors_are_refused_by_name(tmp_path):
    """Catches weights that are left random, or ignored, in silence."""
    model = random_gpt()
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))

    def load(change):
        state = openai_state(model)
        change(state)
        write_safetensors(tmp_path / "model.safetensors", state)
        with pytest.raises(UserError) as e:
            read_gpt2(str(tmp_path))
        assert str(tmp_path) in str(e.value)
        return str(e.value)

    assert 'Missing key(s) in state_dict: "h.1.mlp.c_fc.bias"' in load(lambda state: state.pop("h.1.mlp.c_fc.bias"))
    assert 'Unexpected key(s) in state_dict: "h.0.attn.rotary"' in load(
        lambda state: state.update({"h.0.attn.rotary": torch.ones(2)})
    )
    assert "size mismatch for ln_f.bias" in load(lambda state: state.update({"ln_f.bias": torch.ones(9)}))
    assert "lm_head.weight differs" in load(lambda state: state.update({"lm_head.weight": torch.ones(61, 8)}))
    text = load(lambda state: state.pop("wpe.weight"))
    assert "expected one wpe.weight, found 0" in text and "h.0.attn.c_attn.weight [8, 24], " in text
    assert "a matrix wte.weight" in load(lambda state: state.pop("wte.weight"))
    assert "a matrix wte.weight" in load(lambda state: state.update({"wte.weight": torch.ones(0, 8)}))
    assert "wpe.weight, found 2 behind , a.;" in load(lambda state: state.update({"a.wpe.weight": torch.ones(2, 2)}))
    text = load(lambda state: state.update({"h.1.mlp.c_fc.weight": torch.ones(8, 31)}))
    assert "mismatch for h.1.mlp.c_fc.weight" in text and "[31, 8]" in text and "[32, 8]" in text


def test_other_architectures_are_refused(tmp_path):
    """Catches a model that has the tensors of a GPT-2, but computes something else with them."""
    write_safetensors(tmp_path / "model.safetensors", openai_state(random_gpt()))
    for change in (
        {"activation_function": "gelu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 1e-6},
    ):
        json.dump({"n_head": 2} | change, open(tmp_path / "config.json", "w"))
        with pytest.raises(UserError, match=f"config.json: {[*change][0]} is"):
            read_gpt2(str(tmp_path))
    for config in ([], 3, None, {"n_head": 3}, {"n_head": "2"}, {"n_head": 0}):
        json.dump(config, open(tmp_path / "config.json", "w"))
        for read in read_gpt2, GPT.from_pretrained:
            with pytest.raises(ValueError, match="config.json|n_head"):
                read(str(tmp_path))


@pytest.mark.parametrize(
    "change, found",
    [
        ({"n_head": 4, "n_embd": 999, "n_layer": 12}, "n_layer is 12, expected 2"),
        ({"n_embd": 768}, "n_embd is 768, expected 8"),
        ({"vocab_size": 50257}, "vocab_size is 50257, expected 61"),
        ({"n_positions": 1024}, "n_positions is 1024, expected 32"),
        ({"n_layer": "2"}, "n_layer is '2', expected 2"),
    ],
)
def test_a_config_of_another_model_is_refused(change, found, tmp_path):
    """Catches a number of heads that is believed though it is said of another model: loads, and writes nonsense."""
    write_safetensors(tmp_path / "model.safetensors", openai_state(random_gpt()))
    json.dump({"n_head": 2} | change, open(tmp_path / "config.json", "w"))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError) as e:
            read_gpt2(str(source))
        assert str(e.value).startswith(f"{tmp_path}/config.json: ") and found in str(e.value)


@pytest.mark.parametrize(
    "data, found",
    [(b"\xef\xbb\xbf" + b'{"n_head": 2}\r\n', ""), (b'{"by": "Ren\xe9", "n_head": 2}', "line 1: expected UTF-8"),
     (b"", "an empty file"), (b"[" * 100_000, "not JSON"), ('{"n_head": 2}'.encode("utf-16"), "expected UTF-8")],
)  # fmt: skip
def test_a_config_is_read_as_other_text_is(data, found, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", openai_state(random_gpt()))
    (tmp_path / "config.json").write_bytes(data)
    if not found:
        assert loads(random_gpt(), tmp_path / "model.safetensors", n_head=None)
    else:
        with pytest.raises(UserError, match=f"config.json.*{found}"):
            read_gpt2(str(tmp_path))


def loads(model, source, n_head=2):
    """Whether a file or folder is this model."""
    if n_head:
        json.dump({"n_head": n_head}, open(source.parent / "config.json", "w"))
    return torch.equal(logits_of(read_gpt2(str(source)).eval()), logits_of(model))


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.transformer.", "module._orig_mod.transformer.", "_orig_mod.module.transformer.", "model.transformer.",
     "base_model.model.transformer.", "module.base_causallm.transformer.", "base_causallm._orig_mod.transformer.",
     "_fsdp_wrapped_module.a.module.b._orig_mod.", "net.gpt2.", "wpe.wte."],
)  # fmt: skip
@pytest.mark.parametrize("tied", ["wte", "lm_head", "both"])
def test_whatever_stands_before_the_names(prefix, tied, tmp_path, capsys):
    """Catches a list of prefixes, or an order of them; a head in whose place another one is looked for."""
    model = random_gpt()
    state = openai_state(model, prefix)
    outer = prefix.removesuffix("transformer.")
    if tied != "wte":
        state[f"{outer}lm_head.weight"] = state[f"{prefix}wte.weight"]
    if tied == "lm_head":
        del state[f"{prefix}wte.weight"]
    torch.save(state, tmp_path / "model.pt")
    write_safetensors(tmp_path / "model.safetensors", state)
    assert loads(model, tmp_path / "model.pt") and loads(model, tmp_path / "model.safetensors")
    assert capsys.readouterr().out == ""


def test_a_word_within_the_names(tmp_path):
    """Blocks that were compiled or wrapped one by one; and two models that only such a word tells apart."""
    state = openai_state(random_gpt())
    inner = {k.replace("h.1.", "h.1._orig_mod._checkpoint_wrapped_module."): t for k, t in state.items()}
    torch.save(inner, tmp_path / "model.pt")
    assert loads(random_gpt(), tmp_path / "model.pt")
    torch.save(state | {"module.wte.weight": state["wte.weight"]}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="the same name but for a prefix; in the file: "):
        read_gpt2(str(tmp_path / "model.pt"))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module", "twice"])
def test_state_dicts_in_checkpoints_of_others(wrapper, tmp_path):
    """Catches weights that are there, but one level deeper than expected."""
    state = openai_state(random_gpt(), "transformer.")
    saved = {"model": {"state_dict": state}} if wrapper == "twice" else {wrapper: state}
    torch.save(saved | {"epoch": 3, "optimizer": {"state": {}}, "config": {"lr": 1e-3}}, tmp_path / "model.pt")
    assert loads(random_gpt(), tmp_path / "model.pt")


@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_of_nanogpt(bias, tmp_path, capsys):
    """Catches a forgotten transposition (c_proj is square), its config beside model_args, and rows without a token."""
    model = random_gpt(vocab_size=67)
    if not bias:
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.zeros_(p)
    state = {f"_orig_mod.transformer.{k}": t for k, t in model.state_dict().items() if bias or not k.endswith(".bias")}
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 32, "bias": bias, "vocab_size": 67, "dropout": 0.0}
    saved = {"model": state, "optimizer": {}, "model_args": sizes, "iter_num": 7, "config": {"n_head": 12}}
    torch.save(saved | {"best_val_loss": torch.tensor(2.5)}, tmp_path / "ckpt.pt")
    json.dump({"n_head": 4, "n_layer": 12}, open(tmp_path / "config.json", "w"))  # another one's: the file has its own
    assert loads(model, tmp_path / "ckpt.pt", n_head=None)
    assert "GELU" in capsys.readouterr().err
    torch.save(saved | {"model_args": sizes | {"n_layer": 3}}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="ckpt.pt: n_layer is 3, expected 2"):
        read_gpt2(str(tmp_path / "ckpt.pt"))
    torch.save(saved | {"model_args": sizes | {"use_relu": True, "use_rmsnorm": False}}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="ckpt.pt: model_args has use_relu, which nanoGPT has not"):
        read_gpt2(str(tmp_path / "ckpt.pt"))
    if not bias:  # without its word for it, the biases may as well have been lost
        torch.save(state, tmp_path / "ckpt.pt")
        json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
        with pytest.raises(UserError, match="Missing .*h.0.attn.c_attn.bias.*in the file: _orig_mod.transformer.wte"):
            read_gpt2(str(tmp_path / "ckpt.pt"))


def test_our_own_checkpoint_as_weights(checkpoint):
    """Catches an orientation that is said by the format instead of the shapes."""
    model = load_checkpoint(checkpoint[0])[0].base
    loaded = read_gpt2(checkpoint[0])
    assert loaded.config == model.config
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_other_modules_beside_the_base(tmp_path, capsys):
    """A checkpoint of SIM-CoT: the base is taken, the decoder named, and not one of its tensors gets in."""
    state, other = openai_state(random_gpt(), "base_causallm.transformer."), random_gpt(3)
    state |= openai_state(other, "expainable_llm.transformer.") | {"embedding.weight": other.wte.weight.detach()}
    state |= {"base_causallm.lm_head.weight": state["base_causallm.transformer.wte.weight"]}
    state |= {"expainable_llm.lm_head.weight": other.wte.weight.detach(), "base_causallm.step": torch.tensor(7)}
    torch.save(state, tmp_path / "checkpoint_33")
    assert loads(random_gpt(), tmp_path / "checkpoint_33")
    out = capsys.readouterr().err
    assert "left out" in out and "expainable_llm.transformer.wte.weight" in out and out.count("\n") == 1
    torch.save({**state, "base_causallm.lm_head.weight": torch.ones(61, 8)}, tmp_path / "checkpoint_33")
    with pytest.raises(UserError, match="base_causallm.lm_head.weight differs from wte.weight"):
        read_gpt2(str(tmp_path / "checkpoint_33"))


def test_what_is_no_weight_is_left_out_and_named(tmp_path, capsys):
    """Catches buffers that stop the weights from being read, or quantised weights that are read as numbers."""
    state = openai_state(random_gpt(), "transformer.")
    others = {"transformer.position_ids": torch.arange(9), "seen": torch.tensor(7), "transformer.h.0.attn.on": None,
              "extra": "text", "score.weight": torch.ones(2, 8)}  # fmt: skip
    torch.save(state | others, tmp_path / "model.pt")
    assert loads(random_gpt(), tmp_path / "model.pt")
    out = capsys.readouterr().err
    assert all(name.removeprefix("transformer.") in out for name in others) and "ln_1" not in out
    torch.save(state | {"transformer.ln_f.bias": torch.ones(8, dtype=torch.int8)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r'Missing .*"ln_f.bias".; in the file: transformer.ln_f.bias \[8\] of int8, '):
        read_gpt2(str(tmp_path / "model.pt"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pickled_objects_are_named(tmp_path):
    """Catches torch's sentences: two hundred words, with an escape code in them, and advice to run the file's code."""
    state, path = openai_state(random_gpt()), tmp_path / "model.pt"
    for new in (True, False):
        for saved, found in (
            (
                random_gpt(),
                r"a pickled model.GPT is in it; save the model's state_dict\(\) alone",
            ),
            (
                {"model": state, "args": argparse.Namespace(lr=1)},
                "a pickled argparse.Namespace is in it; save the model's",
            ),
            ([state], "expected a state dict, names and tensors, found a list"),
            (state["wte.weight"], "expected a state dict, names and tensors, found a Tensor"),
            ({"epoch": 3, "net": {}}, "expected a state dict, names and tensors, found the keys epoch, net"),
        ):
            torch.save(saved, path, _use_new_zipfile_serialization=new)
            with pytest.raises(UserError, match=f"^{path}: {found}") as e:
                read_gpt2(str(path))
            assert str(e.value).isprintable()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UserError, match="model.pt: a TorchScript program"):
        read_gpt2(str(path))


def test_another_vocabulary_is_warned_of(tmp_path, gpt2, capsys):
    """syvb's addition checkpoints know 50,261 tokens: <bot>, <sep>, <eot>, <act> after GPT-2's."""
    torch.save(openai_state(random_gpt(vocab_size=50261, n_embd=4), "transformer."), tmp_path / "model.pt")
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
    cfg = TrainConfig(tokenizer="gpt2", init_from=str(tmp_path / "model.pt"))
    model, cfg = initial_model(cfg, gpt2)
    assert "WARNING" in capsys.readouterr().out and model.config.vocab_size == 50261 and cfg.block_size == 32


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", b"not a checkpoint"])
def test_broken_checkpoints_are_one_line(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    for load in (load_checkpoint, read_gpt2):
        with pytest.raises(UserError, match="model.pt: (not a|expected)"):
            load(str(tmp_path / "model.pt"))


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"wte.weight": Intruder(str(tmp_path / "intruded"))}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="model.pt"):
        read_gpt2(str(tmp_path / "model.pt"))
    assert not (tmp_path / "intruded").exists()


def test_vocabulary_grows_with_the_head():
    """Catches a head that keeps the old rows, and new rows that are not what was asked for."""
    model = random_gpt()
    old = model.wte.weight.detach().clone()
    model.grow_vocab(64, like=7)
    assert torch.equal(model.wte.weight[:61], old) and torch.equal(model.wte.weight[61:], old[7].expand(3, -1))
    model.grow_vocab(65)
    assert torch.allclose(model.wte.weight[64], model.wte.weight[:64].mean(0))
    assert logits_of(model).shape[-1] == 65 and model.wte.weight.requires_grad and model.config.vocab_size == 65


# ---------------------------------------------------------------- what else a folder may hold


def own_tokenizer(folder, vocab_size=300):
    """A tokenizer.json of a GPT-2's own, in a folder."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["1 + 2 = 3 and so on"] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_a_gpt2_with_a_tokenizer_of_its_own(tmp_path, monkeypatch, capsys):
    """Catches GPT-2's numbers for words, which mean others to these weights: silently wrong."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs = own_tokenizer(folder)
    model = random_gpt(vocab_size=theirs.get_vocab_size() + 5)
    write_safetensors(folder / "model.safetensors", openai_state(model))
    json.dump({"n_head": 2, "model_type": "gpt2"}, open(folder / "config.json", "w"))
    tok = load_tokenizer(str(folder))
    assert tok.encode_ordinary("3 and so on") == theirs.encode("3 and so on").ids and tok.name == "source"
    cfg = TrainConfig(tokenizer="source", init_from=str(folder))
    loaded, _ = initial_model(cfg, tok)
    rows, first = loaded.base.wte.weight, theirs.get_vocab_size()
    assert torch.equal(rows[:first], model.wte.weight[:first]) and len(rows) == len(model.wte.weight)
    assert torch.allclose(rows[tok.added], model.wte.weight.mean(0)) and tok.added == [first, first + 1, first + 2]
    assert "WARNING" not in capsys.readouterr().out
    with pytest.raises(UserError, match="a tokenizer of its own, which is not GPT-2's: --tokenizer=source"):
        initial_model(TrainConfig(tokenizer="gpt2", init_from=str(folder)), tok)
    monkeypatch.chdir(tmp_path)
    problems = [{"question": "1 + 2", "steps": ["3"], "answer": "3"}] * 4
    json.dump(problems, open("test.json", "w"))
    train.main(["--eval_only=theirs", "--eval_file=test.json", "--max_new_tokens=2", "--device=cpu"])
    assert "on 4 problems" in capsys.readouterr().out


def test_gpt2s_own_tokenizer_in_a_folder_is_gpt2s(tmp_path, gpt2):
    """As it is in distilgpt2's: tokenizer=gpt2 and source are the same. One token more, and it is another one."""
    write_tokenizer_json(gpt2, tmp_path)
    write_safetensors(tmp_path / "model.safetensors", openai_state(random_gpt(vocab_size=50257, n_embd=4)))
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
    tok = load_tokenizer(str(tmp_path))
    assert tok.name == "gpt2" and tok.added == [50257, 50258, 50259]
    initial_model(TrainConfig(tokenizer="gpt2", init_from=str(tmp_path)), tok)
    spec = json.load(open(tmp_path / "tokenizer.json"))
    spec["model"]["vocab"] |= {"<|more|>": 50260}
    json.dump(spec, open(tmp_path / "tokenizer.json", "w"))
    assert load_tokenizer(str(tmp_path)).name == "source"


@pytest.mark.parametrize("model_type", ["phi3", "gemma2", "gpt_neox", "qwen2_moe"])
def test_other_models_are_named(model_type, tmp_path):
    """Catches "not the weights of a GPT-2" for weights that nobody has said to be a GPT-2's."""
    write_safetensors(tmp_path / "model.safetensors", {"model.norm.weight": torch.ones(3)})
    json.dump({"model_type": model_type}, open(tmp_path / "config.json", "w"))
    for use in load_tokenizer, read_gpt2:
        with pytest.raises(
            UserError, match=f"model_type is '{model_type}', expected 'gpt2' or .* smollm2-135m, .* load"
        ):
            use(str(tmp_path))


def test_a_llama_without_its_config(tmp_path):
    tensors = {
        "model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2),
        "model.embed_tokens.weight": torch.ones(2, 2),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    for config in None, {"hidden_size": 2}:
        if config:
            json.dump(config, open(tmp_path / "config.json", "w"))
        with pytest.raises(UserError, match="named as a Llama's, of which a config.json should say the model_type"):
            read_gpt2(str(tmp_path))


def test_adapters_gguf_and_quantized_weights_are_named(tmp_path):
    """Each says what it is, and what would do. Catches a merged one refused for an old adapter_config.json."""
    folder, model = tmp_path / "adapter", random_gpt()
    folder.mkdir()
    json.dump({"base_model_name_or_path": "me/base", "peft_type": "LORA"}, open(folder / "adapter_config.json", "w"))
    lora = {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": torch.ones(2, 8)}
    write_safetensors(folder / "adapter_model.safetensors", lora)
    for source in folder, folder / "adapter_model.safetensors":
        with pytest.raises(
            UserError, match=r"a LoRA adapter, changes to another model \((me/base|its base)\): merge them"
        ):
            read_gpt2(str(source))
    torch.save(openai_state(model, "base_model.model.transformer.") | lora, tmp_path / "model.pt")
    with pytest.raises(UserError, match="model.pt: a LoRA adapter"):
        read_gpt2(str(tmp_path / "model.pt"))
    write_safetensors(folder / "model.safetensors", openai_state(model))
    assert loads(model, folder / "model.safetensors")
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF\x03\0\0\0")
    for source in folder, folder / "model-Q4_K_M.gguf":
        with pytest.raises(UserError, match="GGUF, weights for llama.cpp, mostly quantized; the safetensors that they"):
            read_gpt2(str(source))
    json.dump(
        {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, open(folder / "config.json", "w")
    )
    write_safetensors(folder / "model.safetensors", lora)
    with pytest.raises(UserError, match="quantized weights; those that they were made from would do"):
        read_gpt2(str(folder))


def test_shards_of_torch(tmp_path):
    """pytorch_model.bin.index.json. Catches one that is left out, or read although it is a path to elsewhere."""
    model = random_gpt()
    state = openai_state(model)
    names = sorted(state)
    for file, part in {"a.bin": names[:9], "b.bin": names[9:]}.items():
        torch.save({name: state[name] for name in part}, tmp_path / file)
    index = {name: "a.bin" if name in names[:9] else "b.bin" for name in names}
    json.dump({"weight_map": index}, open(tmp_path / "pytorch_model.bin.index.json", "w"))
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
    assert torch.equal(logits_of(read_gpt2(str(tmp_path)).eval()), logits_of(model))
    json.dump({"weight_map": index | {"x": "../a.bin"}}, open(tmp_path / "pytorch_model.bin.index.json", "w"))
    with pytest.raises(UserError, match="a shard's name is a path"):
        read_gpt2(str(tmp_path))


def test_export_says_what_it_does_not_know(tmp_path, monkeypatch):
    """Catches "expected two arguments" for two of them."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("out")
    open("out/best.pt", "w").close()
    for argv, said in (
        (["-out/best.pt", "folder"], "-out/best.pt: there are no options, .*; did you mean out/best.pt?"),
        (
            ["out/best.pt", "--out_dir=folder"],
            "--out_dir=folder: there are no options, only a checkpoint and a folder$",
        ),
        (["out/best.pt"], "expected two arguments, a checkpoint and a folder: python -m pretrained.export --help"),
    ):
        with pytest.raises(UserError, match=said):
            export.main(argv)


# ---------------------------------------------------------------- safetensors


def test_safetensors_of_all_dtypes_and_shapes(tmp_path):
    """Catches wrong bytes per value, scalars and empty tensors; the file is written by hand here."""
    tensors = {
        "a": torch.randn(3, 5), "b": torch.randn(7).half(), "c": torch.randn(2, 1, 3).bfloat16(),
        "d": torch.zeros(0, 4), "e": torch.tensor(2.5), "f": torch.randn(3).double(), "g": torch.tensor([2**60 + 1]),
    }  # fmt: skip
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name in "cadgbfe":
        t = tensors[name]
        raw = t.contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else struct.pack("<f", t.item())
        dtype = {v: k for k, v in DTYPES.items()}[t.dtype]
        header[name] = {"dtype": dtype, "shape": [*t.shape], "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode() + b" "
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    read = read_safetensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, t in tensors.items():
        assert read[name].dtype == t.dtype and torch.equal(read[name], t)


def test_double_precision_and_counters_in_safetensors(tmp_path, capsys):
    """Catches valid files that are called "not sound", and a dtype that is not said."""
    model, path = random_gpt(), tmp_path / "model.safetensors"
    state = openai_state(model)

    def write(dtype, of=torch.float64):
        header, body = {}, b""
        for name, t in {**state, "step": torch.tensor(7)}.items():
            raw = (t.long() if name == "step" else t.to(of)).numpy().tobytes()
            kind = "I64" if name == "step" else dtype
            header[name] = {"dtype": kind, "shape": [*t.shape], "data_offsets": [len(body), len(body) + len(raw)]}
            body += raw
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)

    write("F64")
    assert loads(model, path) and capsys.readouterr().err.endswith("no such parts: step\n")
    assert all(t.dtype == torch.float32 for t in read_gpt2(str(path)).state_dict().values())
    write("F8_E4M3")
    with pytest.raises(UserError, match="wte.weight has the dtype 'F8_E4M3', expected F64 or F32"):
        read_gpt2(str(path))


def mutations(rng, good, n_header):
    """Endless broken versions of a file's bytes; the data bytes themselves stay as they are."""

    def numbers_changed():
        header = json.loads(good[8 : 8 + n_header])
        info = header[rng.choice([k for k in header if k != "__metadata__"])]
        bad = rng.choice([-1, 0, 1, 4, 2**31, 2**63, 10**30, 1.5, None, "4", True, [], {}])
        where = rng.choice(["shape", "data_offsets"])
        if info[where] and rng.random() < 0.8:
            info[where][rng.randrange(len(info[where]))] = bad
        else:
            info[where] = bad
        if rng.random() < 0.2:
            info["dtype"] = rng.choice(["F64", "I8", "F16", "", None, 3])
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + n_header :]

    def bits_flipped():
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(8, 8 + n_header)] ^= 1 << rng.randrange(8)
        return bytes(data)

    def entries_swapped():
        header = json.loads(good[8 : 8 + n_header])
        a, b = rng.sample([k for k in header if k != "__metadata__"], 2)
        header[a]["data_offsets"], header[b]["data_offsets"] = header[b]["data_offsets"], header[a]["data_offsets"]
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + n_header :]

    def length_changed():
        length = rng.choice([0, 1, n_header - 1, n_header + 1, 10**11, 2**63, 2**64 - 1, rng.randrange(2**64)])
        return length.to_bytes(8, "little") + good[8:]

    def doubled():
        text = good[8 : 8 + n_header].replace(b'"b"', b'"a"', 1)
        return len(text).to_bytes(8, "little") + text + good[8 + n_header :]

    changes = [numbers_changed, bits_flipped, entries_swapped, length_changed, doubled,
               lambda: good[: rng.randrange(len(good))], lambda: good + bytes(rng.randrange(1, 9))]  # fmt: skip
    while True:
        yield rng.choice(changes)()


def test_broken_safetensors_files(tmp_path):
    """Catches tracebacks, memory for sizes that a header only claims, and wrong values under a right name."""
    tensors = {"a": torch.randn(4, 3), "b": torch.randn(5), "c": torch.randn(2, 2, 2)}  # all of different sizes
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors)
    good = path.read_bytes()
    broken = mutations(random.Random(0), good, int.from_bytes(good[:8], "little"))
    n, n_loaded = 5000 if os.environ.get("TRUST") == "long" else 1500, 0
    for _ in range(n):
        path.write_bytes(next(broken))
        try:
            read = read_safetensors(path)
        except ValueError as e:
            assert "x.safetensors" in str(e)
            continue
        n_loaded += 1
        for name in read.keys() & tensors.keys():  # a flipped bit may rename a tensor or reshape it: GPT notices both
            assert torch.equal(read[name].flatten(), tensors[name].flatten())
    assert n_loaded < n / 2


def test_500_broken_checkpoints(tmp_path, capsys):
    """Catches tracebacks, and weights that get into a model in another place, or not whole."""
    rng, model, path = random.Random(0), random_gpt(1), tmp_path / "model.pt"
    state, n_loaded = openai_state(model, "transformer."), 0
    odd = [None, 3, "text", {}, [], torch.ones(0), torch.tensor(1), torch.ones(61, 9).half(), torch.ones(3, 3).int(),
           torch.ones(8, device="meta"), torch.ones(8, 8).to_sparse(), torch.ones(8, dtype=torch.cfloat)]  # fmt: skip
    for _ in range(500):
        saved = dict(state)
        for _ in range(rng.randrange(3)):
            name = rng.choice([*saved])
            new = rng.choice([name, f"{name}x", f"{name}".replace("0", "1"), f"module.{name}", "lm_head.weight", 7])
            saved[new] = rng.choice([saved[name], *odd])
            saved.pop(name, None) if rng.random() < 0.3 else None
        saved = rng.choice([saved, {"model": saved}, {"state_dict": saved, "model": 3}])
        saved = {"config": rng.choice([3, {"n_head": 2}, {"n_head": 0}, {"n_head": 2, "n_layer": None}])} | saved
        torch.save(saved, path)
        if rng.random() < 0.2:
            path.write_bytes(path.read_bytes()[: rng.randrange(9000)])
        try:
            loaded = read_gpt2(str(path))
        except UserError as e:
            assert str(path) in str(e) and str(e).isprintable() and len(str(e)) < 1000
            continue
        n_loaded += 1
        assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())
    assert 30 < n_loaded < 400


# ---------------------------------------------------------------- transformers


@needs_transformers
def test_models_of_transformers_however_they_are_saved(tmp_path, capsys):
    """Compiled, wrapped, saved as safetensors saves a tied pair, in double precision, pickled: all were refused."""
    import safetensors.torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=128, vocab_size=61)
    m = transformers.GPT2LMHeadModel(config).eval()
    text, n = torch.arange(20)[None], torch.tensor([4])
    with torch.no_grad():
        expected = m(text).logits[:, 3:-1]
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))

    def right(source):
        with torch.no_grad():
            logits = Coconut(read_gpt2(str(source))).eval()(text[:, :4], n, 0, text[:, 4:])[0]
        return (logits - expected).abs().max() <= 1e-4 * expected.abs().max()

    path = tmp_path / "model.pt"
    torch.save(torch.compile(m).state_dict(), path)
    assert right(path)
    for prefix in ("module._orig_mod.", "_orig_mod.module.", "model.", "base_model.model."):
        torch.save({prefix + k: t for k, t in m.state_dict().items()}, path)
        assert right(path)
    safetensors.torch.save_model(m, tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as f:
        assert "lm_head.weight" in f.keys() and "transformer.wte.weight" not in f.keys()
    assert right(tmp_path / "model.safetensors")
    double = {k: t.double() for k, t in m.transformer.state_dict().items()} | {"steps": torch.tensor(9)}
    safetensors.torch.save_file(double, tmp_path / "model.safetensors")
    assert right(tmp_path / "model.safetensors") and "steps" in capsys.readouterr().err
    torch.save(m, path)
    with pytest.raises(UserError, match="a pickled transformers.models.gpt2.* is in it; save the model's state_dict"):
        read_gpt2(str(path))


@needs_transformers
@pytest.mark.parametrize("layers, heads, width", [(n, h, 2 * h) for n, h, _ in SIZES.values()])
def test_weights_written_by_transformers_give_its_logits(layers, heads, width, tmp_path):
    """Catches a forgotten transposition (attn.c_proj is square), a wrong GELU or eps, a mask. OpenAI's sizes, thin."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=layers, n_head=heads, n_embd=width, vocab_size=61, n_positions=32)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    theirs.save_pretrained(tmp_path)
    text = torch.randint(0, 61, (3, 20))
    with torch.no_grad():
        expected = theirs(text).logits[:, 6:-1]
        ours = [Coconut(cls(str(tmp_path))).eval() for cls in (read_gpt2, GPT.from_pretrained)]
        logits, same = (model(text[:, :7], torch.tensor([7] * 3), 0, text[:, 7:])[0] for model in ours)
    assert torch.equal(logits, same)
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


MODEL_ALONE = """
import json, sys, torch
from model import GPT

gpt = GPT.from_pretrained("saved").eval()
with torch.no_grad():
    states, past = gpt.read(gpt.embed(torch.tensor(json.loads(sys.argv[1]))))
    logits = gpt.head(states[-1])
    thought = states[-1][:, -1:]
    after = gpt.head(gpt.read(thought, past=past)[0][-1])
files = [getattr(module, "__file__", None) for module in sys.modules.values()]
print(json.dumps([logits.tolist(), after.tolist(), [file for file in files if file]]))
"""


@needs_transformers
def test_model_py_alone(tmp_path):
    """Copied into an empty folder it loads what transformers has saved, and thinks. Catches whatever else it needs."""
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=61)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "saved")
    shutil.copy(os.path.join(HERE, "model.py"), tmp_path)
    text = torch.arange(20).view(2, 10) * 7 % 61
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [sys.executable, "-c", MODEL_ALONE, json.dumps(text.tolist())]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    logits, after, files = json.loads(done.stdout)
    assert os.path.join(tmp_path, "model.py") in files and not [
        file for file in files if file.startswith(HERE + os.sep)
    ]
    with torch.no_grad():
        said = theirs(text, output_hidden_states=True)
        x = torch.cat((theirs.transformer.wte(text), said.hidden_states[-1][:, -1:]), 1)
        thought = theirs(inputs_embeds=x).logits[:, -1:]
    assert torch.allclose(torch.tensor(logits), said.logits, atol=1e-5)
    assert torch.allclose(torch.tensor(after), thought, atol=1e-5)


@pytest.fixture
def make_checkpoint(tmp_path, monkeypatch, gpt2):
    """A function: a checkpoint of this project with GPT-2's tokenizer, and the problems that it was made for."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    problems = []
    for _ in range(20):
        a, b = rng.randrange(2, 50), rng.randrange(2, 50)
        question = f"Tom has {a} {rng.choice(['cats', 'apples', 'red hats'])} and {b} dogs. How many in all?"
        problems.append({"question": question, "steps": [f"<<{a}+{b}={a + b}>>"], "answer": str(a + b)})
    os.makedirs("data")
    for split in ("train", "valid", "test"):
        json.dump(problems, open(f"data/{split}.json", "w"))
    flags = "--data_dir=data --tokenizer=gpt2 --n_layer=2 --n_head=2 --n_embd=16 --out_dir=run --device=cpu".split()

    def make(*more):
        run = Run(parse(config_class, [*flags, *more], ""))
        with torch.no_grad():
            for p in run.model.parameters():
                p.add_(torch.randn_like(p) * 0.3)
        run.progress["index"] = len(run.plan)  # as if it had come to its end
        run.save(run.best)
        return run.best, problems

    return make


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint()


@needs_transformers
def test_what_we_export_thinks_the_same_in_transformers(checkpoint, gpt2, tmp_path):
    """Catches a wrong name, orientation or setting, and another meaning of a thought than in model cards."""
    import transformers

    path, problems = checkpoint
    os.mkdir("exported")
    for name in ("thinking.safetensors", "vocab.json", "notes.txt"):  # of another model's export, but for the notes
        open(os.path.join("exported", name), "w").close()
    export.main([path, "exported"])
    assert {"thinking.safetensors", "vocab.json", "notes.txt"} & {*os.listdir("exported")} == {"notes.txt"}
    theirs = transformers.GPT2LMHeadModel.from_pretrained("exported").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("exported")
    model, cfg, tok, _ = load_checkpoint(path)
    assert torch.equal(read_gpt2("exported").state_dict()["h.1.attn.c_proj.weight"], model.base.h[1].attn.c_proj.weight)
    prompts = [make_prompt(p.question, 4, cfg, tok) for p in data.encode(problems, cfg, tok)]
    ours = [text for text, *_ in solve(model, prompts, cfg, tok, 8)]
    embed = theirs.transformer.wte
    with torch.no_grad():
        for p, text in zip(problems, ours):
            ids = tokenizer(p["question"] + "\n<|start-latent|>", return_tensors="pt").input_ids
            x = embed(ids)
            for _ in range(4):
                h = theirs(inputs_embeds=x, output_hidden_states=True).hidden_states[-1]
                x = torch.cat((x, h[:, -1:]), 1)
            x, tokens = torch.cat((x, embed(torch.tensor([[50258]]))), 1), []
            while len(tokens) < 8 and 50256 not in tokens:
                tokens.append(theirs(inputs_embeds=x).logits[0, -1].argmax().item())
                x = torch.cat((x, embed(torch.tensor([[tokens[-1]]]))), 1)
            assert tok.decode(tokens).replace("<|endoftext|>", "") == text


def test_an_export_that_fails_leaves_the_old_one(checkpoint):
    """A disk that is full. Catches half a new model.safetensors over the old one, and an error without its name."""
    path, _ = checkpoint
    export.main([path, "exported"])
    before = {name: open(f"exported/{name}", "rb").read() for name in os.listdir("exported")}
    limited = f"ulimit -f 8; exec {sys.executable} -m pretrained.export {path} exported"
    env = {**os.environ, "PYTHONPATH": HERE}
    done = subprocess.run(["bash", "-c", limited], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "exported/model.safetensors" in done.stderr and done.stderr.count("\n") == 1
    assert {name: open(f"exported/{name}", "rb").read() for name in os.listdir("exported")} == before


@needs_transformers
def test_exported_tokenizer_is_gpt2s(tmp_path, gpt2):
    """Catches a wrong merge, byte or id among 50,260."""
    import transformers

    write_tokenizer_json(gpt2, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == gpt2.n_vocab
    for i in random.Random(0).sample(range(50257), 3000):
        assert theirs.decode([i]) == gpt2.decode([i])
    for text in ("Hello world", " <<48/2=24>>\n### 24", "naïve 猫\t\x00\x7f  x", "it's  we'll\n\n\n12345"):
        assert theirs(text).input_ids == gpt2.encode_ordinary(text)
    assert theirs("<|start-latent|><|end-latent|><|latent|>").input_ids == [50257, 50258, 50259]


def test_sample_from_weights_of_others(checkpoint, capsys):
    """Catches defaults that only fit a run of our own."""
    path, _ = checkpoint
    export.main([path, "exported"])
    question = ["--init_from=exported", "--question=Tom has 3 cats.", "--max_new_tokens=4", "--device=cpu"]
    sample.main([*question, "--latent=3"])
    out = capsys.readouterr().out
    assert "thought 3" in out and "between <bot> and <eot>" in out and "WARNING" not in out
    sample.main(question)
    assert "plain text" in capsys.readouterr().out
    sample.main(["--init_from=exported", "--file=data/test.json", "--count=2", "--max_new_tokens=4", "--device=cpu"])
    assert capsys.readouterr().out.count("question ") == 2
    with pytest.raises(UserError, match="--question or --file"):
        sample.main(["--init_from=exported"])


@pytest.mark.parametrize(
    "method, feedback", [("coconut+stop", "gate"), ("lotus", "last"), ("pccot", "projection+vector"), ("codi", "last")]
)
def test_how_a_model_thinks_comes_back(method, feedback, make_checkpoint, capsys):
    """Catches a folder that is evaluated, asked or trained as if it thought in the usual way."""
    needs(method)
    if method in ("lotus", "pccot") and os.environ.get("TRUST") != "long":
        pytest.skip("as with codi and stop: TRUST=long")
    path, _ = make_checkpoint(f"--method={method}", f"--feedback={feedback}", "--max_latent_stage=2")

    def says(main, *argv):
        main([*argv])
        return capsys.readouterr().out

    assert ("thinking.safetensors" in says(export.main, path, "exported")) == (method != "codi")
    config = json.load(open("exported/config.json"))["nanococonut"]
    assert (config["method"], config["feedback"]) == (method, feedback)
    flags = "--data_dir=data", "--max_new_tokens=4", "--device=cpu"
    evaluate = "--eval_only=exported", "--max_latent_stage=2", *flags
    ours, theirs = says(train.main, f"--eval_only={path}", *flags), says(train.main, *evaluate)
    assert f"exported: {method}, stage" in theirs and "was trained" not in theirs
    assert ours.splitlines()[-1].rpartition("(")[0] == theirs.splitlines()[-1].rpartition("(")[0]
    ask = "--question=Tom has 3 cats.", "--latent=2", "--max_new_tokens=4", "--json", "--device=cpu"
    ours, theirs = (json.loads(says(sample.main, *which, *ask)) for which in ([path], ["--init_from=exported"]))
    assert ours["questions"] == theirs["questions"] and len(ours["questions"][0]["thoughts"]) == 2
    with pytest.raises(UserError, match="not trained to stop"):
        sample.main(["--init_from=exported", ask[0], "--latent=auto", "--device=cpu"])
    train_it = "--tokenizer=gpt2", "--data_dir=data", "--init_from=exported", "--max_latent_stage=2", "--device=cpu"
    run = Run(parse(config_class, [*train_it, f"--method={method}", f"--feedback={feedback}", "--out_dir=same"], ""))
    old = load_checkpoint(path)[0].state_dict()
    assert all(torch.equal(t, old[name]) for name, t in run.model.state_dict().items())
    assert "was trained" not in capsys.readouterr().out
    Run(parse(config_class, [*train_it, "--out_dir=other"], ""))
    said = capsys.readouterr().out
    assert f"was trained to think with method={method}, and goes on with coconut" in said
    config["feedback"] = 3
    json.dump(json.load(open("exported/config.json")) | {"nanococonut": config}, open("exported/config.json", "w"))
    with pytest.raises(UserError, match="exported/config.json: feedback = 3, expected str"):
        train.main([*evaluate])


def test_training_goes_on_from_weights(checkpoint, capsys):
    """Catches weights that are loaded and then replaced, or sizes in the checkpoint that are not the model's."""
    path, _ = checkpoint
    flags = f"--data_dir=data --tokenizer=gpt2 --init_from={path} --out_dir=more --device=cpu".split()
    run = Run(parse(config_class, flags, ""))
    saved = torch.load(path)["model"]
    assert all(torch.equal(t, saved[k]) for k, t in run.model.state_dict().items())
    run.save(run.best)
    assert load_checkpoint(run.best)[1].n_layer == 2
    with pytest.raises(UserError, match="its tokenizer is 'gpt2', that of this run 'words'"):
        Run(parse(config_class, [*flags, "--tokenizer=words", "--out_dir=other"], ""))


@pytest.mark.network
def test_golden_text(gpt2):
    """OpenAI's smallest GPT-2, downloaded: python -m pytest -m network"""
    model = GPT.from_pretrained("gpt2").eval()
    prompt = gpt2.encode_ordinary("Alan Turing theorized that computers would one day become")
    tokens = model.generate(torch.tensor([prompt]), torch.tensor([len(prompt)]), 0, max_new_tokens=8)
    assert gpt2.decode(tokens[0].tolist()) == " the most powerful machines on the planet."
