"""
Weights in and out, against transformers where it is installed, and against broken files.   python -m pytest

The models are random and tiny, the file formats are the true ones.
"""

import http.server
import importlib.util
import json
import os
import random
import struct
import threading

import pytest
import torch

import data
import export
import sample
import weights
from config import TrainConfig, UserError, parse
from evaluate import solve
from model import GPT, GPTConfig
from run import Run, load_checkpoint, pretrained_model
from tokenizer import make_tokenizer
from weights import SIZES, is_projection, read_safetensors, write_safetensors

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
        return model(text[:, :4], torch.tensor([4, 4]), 2, text[:, 4:])[0]


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
    loaded = GPT.from_pretrained(str(source)).eval()
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

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(weights, "HUB", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NANOCOCONUT_CACHE", str(tmp_path / "cache"))
    try:
        if form == "nothing":
            with pytest.raises(UserError, match="none of model.safetensors"):
                GPT.from_pretrained("hf:me/model@v1")
        else:
            assert torch.equal(logits_of(GPT.from_pretrained("hf:me/model@v1").eval()), logits_of(model))
        with pytest.raises(UserError, match="answers 404"):
            GPT.from_pretrained("hf:me/model@v2")
    finally:
        server.shutdown()
        server.server_close()


def test_heads_follow_from_openais_sizes(tmp_path):
    """Catches a size table that is not OpenAI's: nothing in the weights tells how many heads there are."""
    for layers, heads, width in SIZES.values():
        state = {"wte.weight": torch.zeros(3, width), "wpe.weight": torch.zeros(2, width)}
        state |= {f"h.{i}.ln_1.weight": torch.zeros(1) for i in range(layers)}
        torch.save(state, tmp_path / "model.pt")
        with pytest.raises(UserError, match="no h.0.ln_1.bias"):  # so far it got: the number of heads was known
            GPT.from_pretrained(str(tmp_path / "model.pt"))
        assert width // heads == 64
    torch.save(openai_state(random_gpt()), tmp_path / "model.pt")
    with pytest.raises(UserError, match="n_head is None.*config.json"):
        GPT.from_pretrained(str(tmp_path / "model.pt"))


def test_other_tensors_are_refused_by_name(tmp_path):
    """Catches weights that are left random, or ignored, in silence."""
    model = random_gpt()
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))

    def load(change):
        state = openai_state(model)
        change(state)
        write_safetensors(tmp_path / "model.safetensors", state)
        with pytest.raises(UserError) as e:
            GPT.from_pretrained(str(tmp_path))
        assert str(tmp_path) in str(e.value)
        return str(e.value)

    assert "no h.1.mlp.c_fc.bias" in load(lambda state: state.pop("h.1.mlp.c_fc.bias"))
    assert "unknown h.0.attn.rotary" in load(lambda state: state.update({"h.0.attn.rotary": torch.ones(2)}))
    assert "ln_f.bias is [9]" in load(lambda state: state.update({"ln_f.bias": torch.ones(9)}))
    assert "lm_head.weight differs" in load(lambda state: state.update({"lm_head.weight": torch.ones(61, 8)}))
    assert "no matrices wte.weight" in load(lambda state: state.pop("wpe.weight"))


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
            GPT.from_pretrained(str(tmp_path))
    for config in ([], 3, None, {"n_head": 3}, {"n_head": "2"}, {"n_head": 0}):
        json.dump(config, open(tmp_path / "config.json", "w"))
        with pytest.raises(UserError, match="config.json|n_head"):
            GPT.from_pretrained(str(tmp_path))


def test_another_vocabulary_is_warned_of(tmp_path, gpt2, capsys):
    """syvb's addition checkpoints know 50,261 tokens: <bot>, <sep>, <eot>, <act> after GPT-2's."""
    torch.save(openai_state(random_gpt(vocab_size=50261, n_embd=4), "transformer."), tmp_path / "model.pt")
    json.dump({"n_head": 2}, open(tmp_path / "config.json", "w"))
    cfg = TrainConfig(tokenizer="gpt2")
    model, cfg = pretrained_model(str(tmp_path / "model.pt"), cfg, gpt2)
    assert "WARNING" in capsys.readouterr().out and model.config.vocab_size == 50261 and cfg.block_size == 32


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", b"not a checkpoint"])
def test_broken_checkpoints_are_one_line(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    for load in (load_checkpoint, GPT.from_pretrained):
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
        GPT.from_pretrained(str(tmp_path / "model.pt"))
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
        dtype = {v: k for k, v in weights.DTYPES.items()}[t.dtype]
        header[name] = {"dtype": dtype, "shape": [*t.shape], "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode() + b" "
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    read = read_safetensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, t in tensors.items():
        assert read[name].dtype == t.dtype and torch.equal(read[name], t)


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


def test_5000_broken_safetensors_files(tmp_path):
    """Catches tracebacks, memory for sizes that a header only claims, and wrong values under a right name."""
    tensors = {"a": torch.randn(4, 3), "b": torch.randn(5), "c": torch.randn(2, 2, 2)}  # all of different sizes
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors)
    good = path.read_bytes()
    broken = mutations(random.Random(0), good, int.from_bytes(good[:8], "little"))
    n_loaded = 0
    for _ in range(5000):
        path.write_bytes(next(broken))
        try:
            read = read_safetensors(path)
        except UserError as e:
            assert "x.safetensors" in str(e)
            continue
        n_loaded += 1
        for name in read.keys() & tensors.keys():  # a flipped bit may rename a tensor or reshape it: GPT notices both
            assert torch.equal(read[name].flatten(), tensors[name].flatten())
    assert n_loaded < 2500


# ---------------------------------------------------------------- transformers


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
        logits = GPT.from_pretrained(str(tmp_path)).eval()(text[:, :7], torch.tensor([7] * 3), 0, text[:, 7:])[0]
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, gpt2):
    """A checkpoint of this project with GPT-2's tokenizer, and the problems that it was made for."""
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
    run = Run(parse(TrainConfig, flags, ""))
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    run.save(run.best)
    return run.best, problems


@needs_transformers
def test_what_we_export_thinks_the_same_in_transformers(checkpoint, gpt2, tmp_path):
    """Catches a wrong name, orientation or setting, and another meaning of a thought than in model cards."""
    import transformers

    path, problems = checkpoint
    export.main([path, "exported"])
    theirs = transformers.GPT2LMHeadModel.from_pretrained("exported").eval()
    tokenizer = transformers.GPT2Tokenizer.from_pretrained("exported")
    model, cfg, tok, _ = load_checkpoint(path)
    assert torch.equal(
        GPT.from_pretrained("exported").state_dict()["h.1.attn.c_proj.weight"], model.h[1].attn.c_proj.weight
    )
    prompts = [data.make_prompt(p.question, 4, cfg, tok) for p in data.encode(problems, cfg, tok)]
    ours = [text for text, *_ in solve(model, prompts, tok, 8, batch_size=7)]
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


@needs_transformers
def test_exported_tokenizer_is_gpt2s(tmp_path, gpt2):
    """Catches a wrong merge, byte or id among 50,260."""
    import transformers

    export.write_tokenizer(tmp_path, context=64)
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
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


def test_training_goes_on_from_weights(checkpoint, capsys):
    """Catches weights that are loaded and then replaced, or sizes in the checkpoint that are not the model's."""
    path, _ = checkpoint
    flags = f"--data_dir=data --tokenizer=gpt2 --init_from={path} --out_dir=more --device=cpu --n_layer=7".split()
    run = Run(parse(TrainConfig, flags, ""))
    saved = torch.load(path)["model"]
    assert all(torch.equal(t, saved[k]) for k, t in run.model.state_dict().items())
    run.save(run.best)
    assert load_checkpoint(run.best)[1].n_layer == 2
    run.lock.close()
    with pytest.raises(UserError, match="its tokenizer is 'gpt2', that of this run 'words'"):
        Run(parse(TrainConfig, [*flags, "--tokenizer=words"], ""))


@pytest.mark.network
def test_golden_text(gpt2):
    """OpenAI's smallest GPT-2, downloaded: python -m pytest -m network"""
    model = GPT.from_pretrained("gpt2").eval()
    prompt = gpt2.encode_ordinary("Alan Turing theorized that computers would one day become")
    tokens = model.generate(torch.tensor([prompt]), torch.tensor([len(prompt)]), 0, max_new_tokens=8)
    assert gpt2.decode(tokens[0].tolist()) == " the most powerful machines on the planet."
