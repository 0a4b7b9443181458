"""
The proof that the fast code computes what the paper says.   python -m pytest

Each test names the mistake that it would catch. `naive_*` is the slow truth: one row at a time, no cache, no padding,
attention by hand, the whole sequence computed again for every thought.
"""

import dataclasses
import gc
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import batches
import bench
import cache
import config
import data
import evaluate
import graphs
import prepare_gsm8k
import prepare_hops
import sample
import train
from config import TrainConfig, UserError, cli, parse
from model import GPT, GPTConfig, KVCache
from run import Run, load_checkpoint, new_model
from tokenizer import BOT, EOS, EOT, PAUSE, SPECIALS, make_tokenizer

VOCAB, BLOCK = 23, 40
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # also in the commands that tests run


def tiny(dtype=torch.float64, seed=0, n_layer=2, **kwargs):
    """A random GPT with weights large enough for every path to matter: biases and LayerNorms too."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(n_layer=n_layer, n_head=3, n_embd=24, block_size=BLOCK, vocab_size=VOCAB, **kwargs)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def naive_gpt(model, x, fixed=slice(0)):
    """Hidden states after ln_f (T, C) of the input embeddings x (T, C), written out after the GPT-2 paper's code.

    No gradient goes into the keys and values of the `fixed` positions.
    """
    T, C = x.shape
    nh = model.config.n_head

    def norm(x, ln):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * ln.weight + ln.bias

    x = x + model.wpe.weight[:T]
    for block in model.h:
        q, k, v = (norm(x, block.ln_1) @ block.attn.c_attn.weight.T + block.attn.c_attn.bias).split(C, -1)
        free = torch.ones(T, 1, dtype=torch.bool)
        free[fixed] = False
        k, v = torch.where(free, k, k.detach()), torch.where(free, v, v.detach())
        heads = []
        for s in (slice(i * C // nh, (i + 1) * C // nh) for i in range(nh)):
            scores = q[:, s] @ k[:, s].T / math.sqrt(C // nh)
            scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
            heads.append(scores.softmax(-1) @ v[:, s])
        x = x + torch.cat(heads, -1) @ block.attn.c_proj.weight.T + block.attn.c_proj.bias
        u = norm(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + u @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    return norm(x, model.ln_f)


def naive_row(model, prefix, n, suffix, backprop_thoughts=None):
    """Logits (S+1, V) that predict suffix[0], suffix[1], ... and what follows, and the thoughts, for one row."""
    x = model.wte.weight[prefix]
    early = 0 if backprop_thoughts is None else max(0, n - backprop_thoughts)  # thoughts without gradient
    for i in range(n):
        h = naive_gpt(model, x, slice(len(prefix), len(prefix) + early))[-1:]
        x = torch.cat((x, h.detach() if 0 < i <= early else h))
    x = torch.cat((x, model.wte.weight[suffix]))
    h = naive_gpt(model, x, slice(len(prefix), len(prefix) + early))[len(prefix) + n - 1 :]
    return h @ model.wte.weight.T, x[len(prefix) : len(prefix) + n]


def naive_generate(model, prefix, n, suffix, max_new_tokens, eos):
    suffix, tokens = list(suffix), []
    while len(tokens) < max_new_tokens:
        tokens.append(naive_row(model, prefix, n, suffix)[0][-1].argmax().item())
        if tokens[-1] == eos or len(prefix) + n + len(suffix) == BLOCK:
            break
        suffix.append(tokens[-1])
    return tokens


def some_rows(seed=0, size=5):
    """Rows (prefix, n, suffix, labels) of uneven lengths, thoughts and scored places, one of each extreme."""
    g = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return torch.randint(low, high, (1,), generator=g).item()

    rows = []
    for i in range(size):
        prefix = torch.randint(0, VOCAB, (draw(1, 9),), generator=g).tolist()
        suffix = torch.randint(0, VOCAB, (draw(1, 7),), generator=g).tolist()
        labels = [t if draw(0, 3) else -100 for t in suffix[:-1]] + suffix[-1:]
        rows.append((prefix, (0, 1, 4)[i] if i < 3 else draw(0, 6), suffix, labels))
    return rows


def batch(rows, extra_padding=0):
    """The rows as tensors for GPT.forward; padded with a token that would be noticed if it were read."""
    prefix, n, suffix, labels = zip(*rows)

    def pad(lists, value):
        width = max(map(len, lists)) + extra_padding
        return torch.tensor([x + [value] * (width - len(x)) for x in lists])

    return pad(prefix, 7), torch.tensor([len(x) for x in prefix]), torch.tensor(n), pad(suffix, 7), pad(labels, -100)


def naive_loss(model, rows, **settings):
    logits = [naive_row(model, prefix, n, suffix, **settings)[0][:-1] for prefix, n, suffix, _ in rows]
    return F.cross_entropy(torch.cat(logits), torch.tensor(sum((labels for *_, labels in rows), [])))


def gradients(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


def assert_close(a, b, tolerance):
    """Relative to the largest value: |a - b| <= tolerance * max |b|."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max(), f"off by {(a - b).abs().max() / b.abs().max():.1e}"


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_all_gradients_equal_the_naive_recomputation(dtype, tolerance):
    """Catches a detached thought, a wrong position or mask, a wrong predecessor of suffix[0], a missing 1/n_scored."""
    model, rows = tiny(dtype), some_rows()
    logits, loss = model(*batch(rows))
    expected = naive_loss(model, rows)
    assert logits.shape == (sum(label != -100 for *_, labels in rows for label in labels), VOCAB)
    assert_close(loss, expected, tolerance)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], tolerance)


@pytest.mark.parametrize("settings", [{"backprop_thoughts": m} for m in (1, 2, 3, 9)]
                         + [{"gradient_checkpointing": True}, {"gradient_checkpointing": True, "backprop_thoughts": 2}]
                         + [{"compile": True}])  # fmt: skip
def test_gradients_with_less_memory_and_compiled(settings):
    """Catches a block that finds later keys in the cache when it runs again, a cut thought that lets gradient through,
    or one that depends on the thoughts of its neighbours; and weights whose gradient a compiler has lost."""
    if "compile" in settings and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    small = {"dtype": torch.float32, "n_layer": 1} if "compile" in settings else {}  # compiling takes its time
    model, rows = tiny(**small), some_rows(size=4)
    expected = naive_loss(model, rows, backprop_thoughts=settings.get("backprop_thoughts"))
    for name, value in settings.items():
        setattr(model.config, name, value)
    loss = model(*batch(rows))[1]
    tolerance = 1e-5 if "compile" in settings else 1e-10
    assert_close(loss, expected, tolerance)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], tolerance)


def test_gradients_in_bfloat16():
    """Catches products of different types, which autocast does not put right in a backward pass."""
    model, rows = tiny(torch.float32), some_rows(size=4)
    expected = gradients(model, naive_loss(model, rows))
    for settings in ({}, {"gradient_checkpointing": True}):
        for name, value in settings.items():
            setattr(model.config, name, value)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*batch(rows))[1]
        for name, gradient in gradients(model, loss).items():
            assert gradient.dtype == torch.float32
            assert F.cosine_similarity(gradient.flatten(), expected[name].flatten(), 0) > 0.98, name


def test_a_step_is_freed():
    """Catches graphs that refer to themselves and so are never freed; and products that are added twice."""
    model, rows = tiny(), some_rows(size=4)
    alive = []
    product = cache.Shared.product

    def watched(self, x):
        alive.append(weakref.ref(self.aside_holder))
        return product(self, x)

    class Holder(list):
        pass

    def init(self, w):
        self.aside = self.aside_holder = Holder()
        self.w = cache.Gathered.apply(w, self.aside)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache.Shared, "__init__", init)
        patch.setattr(cache.Shared, "product", watched)
        loss = model(*batch(rows))[1]
        once = torch.autograd.grad(loss, model.h[0].mlp.c_fc.weight, retain_graph=True)[0]
        again = torch.autograd.grad(loss, model.h[0].mlp.c_fc.weight)[0]
        assert torch.equal(once, again)
        del loss
    gc.collect()
    assert alive and all(ref() is None for ref in alive)


def test_cutting_thoughts_off_frees_their_memory():
    """Catches graphs of cut thoughts that are kept alive by something that goes on."""
    model = tiny()

    def graph_size(backprop_thoughts):
        model.config.backprop_thoughts = backprop_thoughts
        nodes, left = set(), [model(*batch([([1, 2, 3], 8, [4], [4])]))[1].grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                left += [before for before, _ in node.next_functions]
        return len(nodes)

    assert graph_size(1) < 0.3 * graph_size(None)


@pytest.mark.parametrize("grad", [True, False])
def test_cached_equals_uncached_at_every_split(grad):
    """Catches masks aligned to the wrong corner, positions that restart, and buffers written at the wrong place."""
    model = tiny()
    x = torch.randn(2, 12, 24, dtype=torch.float64)
    expected = torch.stack([naive_gpt(model, row) for row in x])
    with torch.set_grad_enabled(grad):
        for first in range(1, 12):
            for second in range(first, 12):
                cache, real = KVCache(2, size=12), torch.ones(2, 12, dtype=torch.bool)
                parts = [slice(0, first), slice(first, second), slice(second, 12)]
                h = torch.cat([model.read(x[:, s], real[:, s], cache) for s in parts if s.start < s.stop], 1)
                assert_close(h, expected, 1e-10)


@pytest.mark.parametrize("extra_padding", [0, 5])
def test_a_row_does_not_depend_on_its_neighbours_or_padding(extra_padding):
    """Catches keys of padding or surplus thoughts that are attended to, in the forward and in the backward pass."""
    model, rows = tiny(), some_rows(seed=1, size=8)
    together = model(*batch(rows, extra_padding)[:-1])[0]
    for b, row in enumerate(rows):
        alone, loss = model(*batch([row])[:-1])[0], model(*batch([row]))[1]
        assert_close(together[b, : len(row[2])], alone[0], 1e-10)
        only_b = batch([(p, n, s, labels if i == b else [-100] * len(s)) for i, (p, n, s, labels) in enumerate(rows)])
        expected = gradients(model, loss)
        for name, gradient in gradients(model, model(*only_b)[1]).items():
            assert_close(gradient, expected[name], 1e-10)


def test_without_thoughts_it_is_a_plain_gpt():
    """Catches any difference between reading a text in one piece and as prefix + suffix; n may be an int."""
    model = tiny()
    text = torch.randint(0, VOCAB, (3, 15))
    expected = torch.stack([naive_gpt(model, model.wte.weight[row]) @ model.wte.weight.T for row in text])
    for P in (1, 7, 14):
        logits, loss = model(text[:, :P], torch.full((3,), P), 0, text[:, P:])
        assert loss is None
        assert_close(logits, expected[:, P - 1 : -1], 1e-10)


def test_gradient_reaches_the_question_through_the_last_thought():
    """Catches a thought that is detached: cutting the thoughts off must change the gradient of the question."""
    model, rows = tiny(), [([1, 2, 3], 3, [4], [4])]
    whole = gradients(model, model(*batch(rows))[1])["wte.weight"][1]
    read, calls = model.read, []

    def read_detached(x, real, cache, **only):
        calls.append(x)
        return read(x if len(calls) == 1 else x.detach(), real, cache, **only)

    model.read = read_detached
    cut = gradients(model, model(*batch(rows))[1])["wte.weight"][1]
    assert len(calls) == 4  # n thoughts cost n + 1 passes
    assert (whole - cut).abs().max() > 1e-3 * whole.abs().max()


def test_generation_batched_equals_single_equals_naive():
    """Catches rows that go on after eos, positions that drift, a suffix read at the wrong place, a wrong block_size."""
    model = tiny(seed=3)
    rows = [(prefix, n, [1, 2]) for prefix, n, *_ in some_rows(seed=2, size=12)]
    eos = naive_generate(model, *rows[0], 4, eos=None)[-1]  # a token that at least this row writes
    prefix, prefix_len, n, suffix, _ = batch([(*row, [0]) for row in rows], extra_padding=0)
    together = model.generate(prefix, prefix_len, n, suffix, max_new_tokens=50, eos=eos)
    ends = set()
    for row, tokens in zip(rows, together.tolist()):
        expected = naive_generate(model, *row, 50, eos)
        assert tokens == expected + [eos] * (len(tokens) - len(expected))
        p, p_len, m, s, _ = batch([(*row, [0])])
        assert model.generate(p, p_len, m, s, max_new_tokens=50, eos=eos).tolist() == [expected]
        ends.add(expected[-1] == eos)
    assert ends == {True, False}, "the test wants rows that end with eos and rows that fill the block"


def test_generation_returns_the_thoughts_and_can_sample():
    """Catches thoughts off by one, and top_k or temperature without effect."""
    model, rows = tiny(), some_rows(seed=4)
    prefix, prefix_len, n, _, _ = batch(rows)
    tokens, thoughts = model.generate(prefix, prefix_len, n, max_new_tokens=3, return_thoughts=True)
    assert tokens.shape == (5, 3) and thoughts.shape == (5, n.max(), 24)
    for b, (p, n_b, _, _) in enumerate(rows):
        if n_b:
            assert_close(thoughts[b, :n_b], naive_row(model, p, n_b, [])[1], 1e-10)

    def draw(**sampling):
        return model.generate(prefix, prefix_len, n, max_new_tokens=1, **sampling)

    logits = torch.stack([naive_row(model, p, n_b, [])[0][-1] for p, n_b, *_ in rows])
    likely = logits.topk(2).indices
    assert torch.equal(draw(temperature=5.0, top_k=1), likely[:, :1])
    assert torch.equal(draw(temperature=1e-4), likely[:, :1])
    draws = torch.cat([draw(temperature=1e4, top_k=2) for _ in range(40)], 1)  # (5, 40): a coin between two tokens
    for row, pair in zip(draws, likely):
        assert set(row.tolist()) == set(pair.tolist())


def test_reads_past_block_size_are_refused():
    """Catches positions clamped in silence: padding takes up no position, but one thought too many does not fit."""
    model = tiny()
    fits = [([1] * 30, 4, [2] * 6, [2] * 6), ([1], 0, [2], [2])]
    assert model(*batch(fits, extra_padding=20))[1].isfinite()
    with pytest.raises(IndexError):
        model(*batch([([1] * 30, 5, [2] * 6, [2] * 6)]))


# ---------------------------------------------------------------- data


LONG = {"question": "a" + " a" * 79, "steps": ["c", "d e", "f"], "answer": "g"}
PROBLEM = {"question": "a b", "steps": ["c", "d e", "f"], "answer": "g"}
FORMATS = dict(question_format=" {}", step_format=" {}", answer_format=" = {}")


def words(**settings):
    """(cfg, tokenizer, the problem in tokens) for the problem above."""
    cfg = TrainConfig(tokenizer="words", **{**FORMATS, "max_latent_stage": 2, **settings})
    tok = make_tokenizer("words", data.find_pieces([PROBLEM], cfg))
    return cfg, tok, data.encode([PROBLEM], cfg, tok)[0]


@pytest.mark.parametrize(
    "settings, stage, expected",
    [  # prefix | number of thoughts | suffix; tokens in [] are not scored
        ({}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({}, 1, " a b <bot> | 1 | [<eot>] d e f = g <eos>"),
        ({}, 2, " a b <bot> | 2 | [<eot>] f = g <eos>"),
        ({}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),  # the final stage: no step left, no more thoughts
        ({"c_thought": 2}, 2, " a b <bot> | 4 | [<eot>] f = g <eos>"),
        ({"max_latent_stage": 5}, 4, " a b <bot> | 3 | [<eot>] = g <eos>"),  # a problem shorter than the stage
        ({"max_latent_stage": 5, "pad_latent_to_max": True}, 4, " a b <bot> | 4 | [<eot>] = g <eos>"),
        ({"markers": "bot"}, 1, " a b <bot> | 1 | d e f = g <eos>"),
        ({"markers": "none"}, 1, " a b | 1 | d e f = g <eos>"),
        ({"remove_from": "back"}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({"remove_from": "back"}, 1, " a b c d e <bot> | 1 | [<eot>] = g <eos>"),
        ({"remove_from": "back"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        ({"target": "next"}, 0, " a b <bot> | 0 | [<eot>] c <eos>"),
        ({"target": "next"}, 1, " a b <bot> | 1 | [<eot>] d e <eos>"),
        ({"target": "next"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        # every other row of the paper's table 1, at each stage that it has
        ({"method": "cot"}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "no_cot"}, 3, " a b | 0 | = g <eos>"),
        ({"method": "pause"}, 3, " a b <pause> <pause> | 0 | = g <eos>"),
        ({"method": "no_curriculum"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        ({"method": "pause_as_thought"}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({"method": "pause_as_thought"}, 1, " a b <bot> <pause> | 0 | [<eot>] d e f = g <eos>"),
        ({"method": "pause_as_thought"}, 2, " a b <bot> <pause> <pause> | 0 | [<eot>] f = g <eos>"),
        ({"method": "pause_as_thought"}, 3, " a b <bot> <pause> <pause> | 0 | [<eot>] = g <eos>"),
        ({"method": "no_thought"}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "no_thought"}, 1, " a b | 0 | d e f = g <eos>"),
        ({"method": "no_thought"}, 2, " a b | 0 | f = g <eos>"),
        ({"method": "no_thought"}, 3, " a b | 0 | = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 1, " a b | 0 | d e f = g <eos>"),
        ({"method": "icot", "icot_tokens": 3, "max_latent_stage": 3}, 1, " a b | 0 | f = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 2, " a b | 0 | = g <eos>"),  # the last stage removes what is left
    ],
)
def test_segments(settings, stage, expected):
    """Catches any error in what a method shows and scores at a stage."""
    cfg, tok, problem = words(**settings)
    assert spell(data.segments(problem, stage, cfg, tok), tok) == expected


def spell(row, tok):
    """A row as text: prefix | number of thoughts | suffix; tokens that are not scored stand in []."""
    prefix, n, suffix, labels = row
    assert all(label in (token, -100) for token, label in zip(suffix, labels))
    scored = "".join(
        tok.decode([t]) if t == label else f" [{tok.decode([t]).strip()}]" for t, label in zip(suffix, labels)
    )
    text = f"{tok.decode(prefix)} | {n} |{scored}"
    for token, name in ((BOT, "<bot>"), (EOT, "<eot>"), (PAUSE, "<pause>"), (EOS, "<eos>")):
        text = text.replace(token, " " + name).replace("[ ", "[")
    return text


def test_methods_are_those_of_the_settings():
    """Catches a method that --help offers and data.py does not know, or the other way round."""
    assert set(data.METHODS) == set(config.METHODS)


def test_icot_removes_some_more_tokens_now_and_then():
    """Catches an offset that is not drawn by P(o) = (1 - e^-4) e^-4o, in evaluation too, or at the last stage."""
    cfg, tok, problem = words(method="icot", icot_tokens=1)
    rng, size = np.random.default_rng(0), 20_000
    lengths = [len(data.segments(problem, 0, cfg, tok, rng)[2]) for _ in range(size)]
    assert set(lengths) >= {7, 6, 5}  # c d e f = g <eos>, and what is left after one or two more
    assert abs(lengths.count(6) / size - (1 - math.exp(-4)) * math.exp(-4)) < 0.003
    assert spell(data.segments(problem, 2, cfg, tok, rng), tok) == " a b | 0 | = g <eos>"


GRAPH = {"question": "1 2 1 3 2 4 3 5 4 6 to 6 or 5 from 1", "steps": ["2", "4", "6"], "answer": "6"}


def graph_words(**settings):
    cfg = TrainConfig(tokenizer="words", max_latent_stage=3, names=r" \d+", **FORMATS, **settings)
    tok = make_tokenizer("words", data.find_pieces([GRAPH], cfg))
    return cfg, tok, data.encode([GRAPH], cfg, tok)[0]


def test_augmenting_keeps_the_graph():
    """Catches a renaming that is not one-to-one, edges torn apart, and an order or names that never change."""
    cfg, tok, problem = graph_words()
    texts, rng = set(), np.random.default_rng(0)
    for _ in range(50):
        question, steps, answer = graphs.augment(problem, cfg, tok, rng)
        edges, asked = graphs.read_graph(question, cfg, tok)
        end, other, start = (tok.decode([t]) for t in asked[[1, 3, 5]])
        (two,), (four,), (six,) = steps
        one = int(asked[5])
        (three,) = {b for a, b in edges.tolist() if a == one} - {two}
        five = int(asked[3])
        assert {(one, two), (one, three), (two, four), (three, five), (four, six)} == set(map(tuple, edges.tolist()))
        assert len({one, two, three, four, five, six}) == 6
        assert tok.decode(asked.tolist()) == f" to{end} or{other} from{start}"
        assert tok.decode(answer[:-1]) == " =" + end and answer[-1] == problem.answer[-1]
        texts.add(tok.decode(question))
    assert len(texts) == 50


def test_the_frontier_is_what_is_as_far_away():
    """Catches a wrong distance, a wrong root, and an answer that counts as right though it is not as far away."""
    cfg, tok, problem = graph_words(target=("frontier",), method="coconut")
    for stage, right in enumerate(({" 2", " 3"}, {" 4", " 5"}, {" 6"})):
        drawn = {spell(data.segments(problem, stage, cfg, tok, np.random.default_rng(i)), tok) for i in range(30)}
        begin = f" {GRAPH['question']} <bot> | {stage} | [<eot>]"
        assert drawn == {f"{begin}{node} <eos>" for node in right}
        assert {t for t in " 1, 2, 3, 4, 5, 6".split(",") if data.is_right(t, problem, stage, cfg, tok)} == right
    assert data.is_right(" = 6", problem, 3, cfg, tok) and not data.is_right(" = 5", problem, 3, cfg, tok)
    mixed = dataclasses.replace(cfg, target=("rest", "frontier"))
    assert data.split(problem, 0, mixed, tok)[1] == sum(problem.steps, []) + problem.answer
    assert data.is_right(" 5", problem, 1, mixed, tok) and not data.is_right(" 5", problem, 0, mixed, tok)
    with pytest.raises(
        UserError, match="not at distance 2 from the root"
    ):  # such as in a question that is worded otherwise
        data.split(problem._replace(question=problem.question + problem.steps[0]), 1, cfg, tok)


def test_peek_scores_the_place_before_eot_with_what_comes_after_it():
    cfg, tok, problem = words(peek=True)
    _, _, suffix, labels = data.segments(problem, 1, cfg, tok)
    assert labels[0] == suffix[1] and labels[1:] == suffix[1:]
    assert data.split(problem, 1, cfg, tok)[0][2] == suffix[:1]  # and <eot> is still what the model is given


def test_stages_of_each_method():
    """Catches a final stage that is forgotten (steps remain) or superfluous (none do)."""
    for method, longest, expected in (
        ("coconut", 2, [0, 1, 2]), ("coconut", 3, [0, 1, 2, 3]), ("pause_as_thought", 3, [0, 1, 2, 3]),
        ("cot", 3, [0]), ("no_cot", 3, [3]),
    ):  # fmt: skip
        assert data.stages(TrainConfig(method=method, max_latent_stage=2), longest)[0] == expected


@pytest.mark.parametrize("kind", ["words", "chars", "gpt2"])
def test_tokenizers_give_back_any_text_and_control_tokens_stay_text(kind):
    """Catches text lost between words, and a user's "<|latent|>" that becomes a control token."""
    try:
        tok = make_tokenizer(kind, [" every", " rempus", "é", ".", "<"])
    except UserError:
        pytest.skip("GPT-2's vocabulary is neither cached nor can it be downloaded")
    for text in ("every rempus. 12\n\n+ é  \t<|latent|> 猫🙂<|endoftext|>", " ", ""):
        tokens = tok.encode_ordinary(text)
        assert tok.decode(tokens) == text
        assert all(t < tok.n_vocab - 4 for t in tokens)
    ids = [tok.encode_single_token(name) for name in SPECIALS]
    assert ids == list(range(tok.n_vocab - 4, tok.n_vocab)) and (kind != "gpt2" or ids[0] == 50256)


def test_a_word_is_one_token_wherever_it_stands():
    """Catches formats in which the node of a step is another token than the same node in the question."""
    cfg, tok, problem = words()
    assert [len(x) for x in (problem.question, *problem.steps, problem.answer)] == [2, 1, 2, 1, 3]
    assert data.encode([{"question": "g", "steps": [], "answer": "a"}], cfg, tok)[0].question == problem.answer[1:2]


def some_problems(lengths):
    """Problems of the given lengths (question, step, ..., answer), whatever their tokens."""
    sizes = np.array([n for lens in lengths for n in lens])
    first = np.cumsum([0, *map(len, lengths)])
    return data.Problems(np.zeros(sizes.sum(), np.uint16), np.cumsum([0, *sizes]), first)


def test_order_depends_on_seed_stage_and_epoch_alone():
    """Catches a global random state, lost or doubled examples, and a wrong share or range of mixed stages."""
    g = np.random.default_rng(0)
    problems = some_problems([g.integers(1, 90, 5).tolist() for _ in range(2000)])
    for window in (1, 7):
        cfg = TrainConfig(uniform_prob=(0.4,), sort_window=window, batch_size=32)
        order = batches.epoch_order(problems, 2, 5, cfg)
        torch.manual_seed(5)
        assert order == batches.epoch_order(problems, 2, 5, cfg)
        assert sorted(i for i, _ in order) == list(range(2000))
        others = [(3, 5, cfg), (2, 6, cfg), (2, 5, dataclasses.replace(cfg, seed=2))]
        assert all([i for i, _ in order] != [i for i, _ in batches.epoch_order(problems, *other)] for other in others)
        share = [sum(stage == s for _, stage in order) / 2000 for s in range(4)]
        assert all(abs(x - y) < 0.04 for x, y in zip(share, (0.1, 0.1, 0.7, 0.1)))


def padding(rows, batch_size):
    """The share of positions that are padding, in batches of the rows in their order."""
    cells = real = 0
    for start in range(0, len(rows), batch_size):
        lengths = np.array([(len(prefix), n, len(suffix)) for prefix, n, suffix, _ in rows[start : start + batch_size]])
        cells, real = cells + len(lengths) * lengths.max(0).sum(), real + lengths.sum()
    return 1 - real / cells


@pytest.mark.parametrize("stage", [0, 3])
def test_sorting_by_length_leaves_little_padding(stage):
    """Catches sorting by the wrong lengths: real rows of GSM8K, at most 15 % of all positions are padding."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../shared/data/gsm8k/openai_train.jsonl")
    if not os.path.exists(path):
        pytest.skip("GSM8K is not in ../shared/data/gsm8k")
    cfg = TrainConfig(
        tokenizer="gpt2", block_size=1024, c_thought=2, max_latent_stage=3, batch_size=32, sort_window=100
    )
    tok = make_tokenizer("gpt2")
    problems = data.encode(prepare_gsm8k.read_lines(path, prepare_gsm8k.parse_openai), cfg, tok)

    def rows(cfg):
        return [data.segments(problems[i], k, cfg, tok) for i, k in batches.epoch_order(problems, stage, 0, cfg)]

    assert padding(rows(cfg), 32) <= 0.15 < 0.45 < padding(rows(dataclasses.replace(cfg, sort_window=1)), 32)


def test_micro_batches_keep_to_their_limits():
    """Catches rows that are lost, and micro-batches that are larger than what was asked for."""
    g = np.random.default_rng(0)
    rows = [([0] * g.integers(1, 50), int(g.integers(0, 6)), [i] * g.integers(1, 20), []) for i in range(200)]
    for size, tokens in (0, 0), (16, 0), (0, 300), (3, 300):
        cfg = TrainConfig(micro_batch_size=size, micro_batch_tokens=tokens)
        parts = list(batches.micro_batches(rows, cfg))
        assert sorted(suffix[0] for part in parts for _, _, suffix, _ in part) == list(range(200))
        for part in parts:
            assert len(part) <= (cfg.micro_batch_size or 200)
            width = sum(max(lengths) for lengths in zip(*((len(p), n, len(s)) for p, n, s, _ in part)))
            assert not cfg.micro_batch_tokens or width * len(part) <= cfg.micro_batch_tokens
        assert len(parts) < 80 or cfg.micro_batch_size == 3


def test_read_answer():
    cfg = TrainConfig()
    for text, answer in (
        ("<<1+1=2>>\n### 2", "2"),
        ("### 1\n### Tom is a cat. ", "Tom is a cat."),
        ("2", None),
        ("###", ""),
    ):
        assert data.read_answer(text, cfg) == answer


# ---------------------------------------------------------------- training


def test_evaluate_counts_what_is_right():
    """Catches answers held against the wrong problem, an uneven last batch that is lost, and miscounted tokens."""
    cfg, tok, _ = words(eval_batch_size=3, max_new_tokens=6, n_embd=24, n_head=3)
    model = new_model(cfg, tok).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    equals, eos = tok.encode_ordinary(" =")[0], tok.encode_single_token(EOS)
    problems, n_right, n_tokens = [], 0, 0
    for i in range(7):
        question, steps = tok.encode_ordinary(" a b"[: 2 + 2 * (i % 2)] + " c" * i), [[1]] * (i % 3)
        (prefix, n, forced), _ = data.split(data.Problem(question, steps, []), 2, cfg, tok)
        text = naive_generate(model, prefix, n, forced, 6, eos)
        n_tokens += len(text)
        if i % 2:  # what follows the mark in an answer that contains no mark is never right
            problems.append(data.Problem(question, steps, tok.encode_ordinary(" = never") + [eos]))
        else:  # no random model writes a mark: so let anything that it writes be its answer
            problems.append(data.Problem(question, steps, text + [eos]))
            n_right += 1
    assert equals not in sum((p.answer for p in problems[::2]), [])
    result = evaluate.evaluate(model, problems, 2, cfg, tok)
    assert result["accuracy"] == n_right / 7 and result["tokens"] == n_tokens / 7
    assert result["thoughts"] == sum(i % 3 for i in range(7)) / 7 and result["thought_norm"] > 0


def test_micro_batches_do_not_change_the_step():
    """Catches a mean of means: the micro-batches hold different numbers of scored tokens."""
    weights = []
    for size in (0, 1, 2, 3):
        model = tiny()
        cfg = TrainConfig(micro_batch_size=size, grad_clip=0.5)
        loss = train.train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), some_rows(), cfg)
        weights.append(torch.cat([loss[None], *(p.flatten() for p in model.parameters())]))
        assert_close(weights[-1], weights[0], 1e-10)
    assert (weights[0][1:] - torch.cat([p.flatten() for p in tiny().parameters()])).abs().max() > 1e-3


def test_single_stage_methods_train_as_long_as_the_curriculum():
    """Catches baselines that get more or fewer steps than the method that they are compared with."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name, lengths in (("gsm8k", [6, 3, 3, 3, 35]), ("gsm8k_cot", [50]), ("gsm8k_no_cot", [50])):
        run = Run.__new__(Run)  # the plan alone: the problems' numbers are all that it needs
        run.cfg = parse(
            TrainConfig, [os.path.join(here, "configs", f"{name}.py"), "--batch_size=1"], "", takes_file=True
        )
        run.problems = {"train": data.Problems(np.zeros(8), np.arange(9), np.array([0, 8]))}  # one problem of six steps
        run.make_plan()
        assert run.lengths == lengths


def test_learning_rate():
    """Catches warm-up that starts at zero or never ends, decay that misses its end, and stages mixed up."""
    cfg = TrainConfig(lr=(1.0, 0.5), warmup_steps=4, min_lr_ratio=0.1)
    rates = [train.learning_rate(cfg, 0, step, 104) for step in range(105)]
    assert 0 < rates[0] < rates[3] < 1 == rates[4] > rates[5]
    assert rates[54] == pytest.approx(0.55) and rates[103] == pytest.approx(0.1, abs=1e-3)
    assert train.learning_rate(cfg, 1, 4, 104) == train.learning_rate(cfg, 7, 4, 104) == 0.5
    assert train.learning_rate(TrainConfig(lr=(0.3,)), 2, 77, 99) == 0.3


TINY = (
    "--data_dir=data --n_layer=1 --n_head=2 --n_embd=16 --device=cpu --eval_every=5 --log_every=5 --dropout=0.1".split()
)


def command(cwd, script, *args, **kwargs):
    """Run one of the project's scripts in cwd as a user would."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
    return subprocess.run([sys.executable, path, *args], cwd=cwd, capture_output=True, text=True, timeout=100, **kwargs)


def hops_flags():
    formats = [f"--{name}={value}" for name, value in FORMATS.items()]
    return [*TINY, *formats, "--max_latent_stage=2", "--steps=20", "--batch_size=8", "--peek"]


def test_prepare_train_sample_as_a_user_would(tmp_path):
    """Catches whatever falls between the parts."""
    sizes = ["--train=200", "--valid=20", "--test=30", "--hops=3", "--nodes=7", "--out_dir=data"]
    assert command(tmp_path, "prepare_hops.py", *sizes).returncode == 0
    files = {name: data.load_json(tmp_path / "data" / f"{name}.json") for name in ("train", "valid", "test")}
    assert [len(problems) for problems in files.values()] == [200, 20, 30]
    seen = []
    for p in sum(files.values(), []):
        *nodes, _, node = p["question"].split()
        arrows = dict(zip(nodes[::2], nodes[1::2]))
        for step in p["steps"]:
            assert arrows[node] == step
            node = step
        assert p["answer"] == node and len(p["steps"]) == 3
        seen.append((frozenset(arrows.items()), p["question"].split()[-1]))
    assert len(set(seen)) == 250, "a circle with the same start occurs twice"

    trained = command(tmp_path, "train.py", *hops_flags(), "--out_dir=out/run")
    assert trained.returncode == 0, trained.stderr
    assert "stage 3 of 3: 2 continuous thoughts" in trained.stdout and "test accuracy" in trained.stdout
    progress = [line for line in trained.stdout.splitlines() if "ms/step" in line]
    assert len(progress) == 16 and max(map(len, progress)) <= 120
    log = [line.split() for line in (tmp_path / "out/run/log.txt").read_text().splitlines()]
    assert all(len(line) == 3 for line in log)
    assert [(int(step), float(value)) for step, stream, value in log if stream == "stage"] == [
        (0, 0), (20, 1), (40, 2), (60, 3)]  # fmt: skip
    assert {stream for _, stream, _ in log} >= {"train/loss", "valid/accuracy", "valid/tokens", "test/accuracy"}

    sampled = command(tmp_path, "sample.py", "--count=2")  # the latest run, as many thoughts as trained
    assert sampled.stdout.count("question") == 2 and sampled.stdout.count("thought 2") == 2, sampled.stderr
    sampled = command(tmp_path, "sample.py", "--out_dir=out/run", "--question", "a b b a start a", "--latent", "5")
    assert "thought 5" in sampled.stdout and "WARNING" in sampled.stdout
    again = command(tmp_path, "train.py", *hops_flags(), "--out_dir=out/run")
    assert again.returncode == 2 and "--resume" in again.stderr and "--overwrite" in again.stderr


def run_to_the_end(flags, stop_at=()):
    """A run in this process, stopped after each of the given numbers of steps and resumed; returns it, finished."""
    run = Run(parse(TrainConfig, flags, ""))
    for total in (*stop_at, None):
        while run.at["index"] < len(run.plan) and run.at["total"] != total:
            train.train_stage(run, stop=lambda at=run.at, total=total: at["total"] == total)
        if total:
            run.save_last()
            run.log("junk", 0.0)  # something that was logged after the checkpoint, before the lights went out
            torch.manual_seed(12345)
            run.lock.close()  # as if the process had ended
            run = Run(parse(TrainConfig, [*flags, "--resume"], ""))
            assert run.at["total"] == total
    return run


def test_resumed_equals_never_stopped(tmp_path, monkeypatch):
    """Catches whatever is missing from the checkpoint: moments, place in the data, random state, best score, log."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--uniform_prob=0.3", "--reset_optimizer=epoch"]
    whole = run_to_the_end([*flags, "--out_dir=whole"])
    parts = run_to_the_end([*flags, "--out_dir=parts"], stop_at=(3, 27, 40, 66))
    saved = [torch.load(run.last) for run in (whole, parts)]
    for weights in (
        [run.model.state_dict() for run in (whole, parts)],
        [torch.load(run.best)["model"] for run in (whole, parts)],
    ):
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [{**s["at"], "seconds": 0, "results": [r[:2] for r in s["at"]["results"]]} for s in saved][0] == [
        {**s["at"], "seconds": 0, "results": [r[:2] for r in s["at"]["results"]]} for s in saved
    ][1]
    assert open("whole/log.txt").read() == open("parts/log.txt").read()


def test_the_seed_decides_everything(tmp_path, monkeypatch):
    """Catches a random number from elsewhere: the same seed gives the same weights, another one other weights."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=3", "--uniform_prob=0.3"]
    runs = [run_to_the_end([*flags, f"--out_dir=out{i}", f"--seed={seed}"]) for i, seed in enumerate((1, 1, 2))]
    weights = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_two_processes_equal_one(tmp_path):
    """Catches gradients or losses averaged the wrong way, examples done twice, an evaluation that loses its order."""
    assert command(tmp_path, "prepare_hops.py", "--train=50", "--valid=9", "--test=9", "--out_dir=data").returncode == 0
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
    flags = [
        *hops_flags(),
        "--dropout=0",
        "--batch_size=7",
        "--micro_batch_size=3",
        "--uniform_prob=0.3",
        "--log_every=1",
    ]
    flags += ["--steps=30,20", "--eval_every=10", "--device=cpu"]  # 50 problems: an epoch's last batch is a single row
    assert command(tmp_path, "train.py", *flags, "--out_dir=one").returncode == 0

    def torchrun(*more):
        argv = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", script, *flags, *more]
        done = subprocess.run(argv, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test accuracy") == 1  # only one of them talks

    torchrun("--out_dir=two")
    torchrun("--out_dir=parts", "--shard")
    one = [line.split() for line in open(tmp_path / "one" / "log.txt")]
    for name in ("two", "parts"):
        log = [line.split() for line in open(tmp_path / name / "log.txt")]
        assert len(log) == len(one) > 110 and all(a[:2] == b[:2] for a, b in zip(log, one))
        assert all(abs(float(a[2]) - float(b[2])) <= 1e-5 * max(1, abs(float(a[2]))) for a, b in zip(log, one))
        weights = [load_checkpoint(tmp_path / run / "ckpt.pt")[0].wte.weight for run in ("one", name)]
        assert_close(*weights, 1e-3)  # AdamW divides by small numbers, and so makes small differences large


def test_another_run_is_where_a_run_can_begin(tmp_path, monkeypatch):
    """Catches words that get the embedding of others when there are new ones, and longer problems that do not fit."""
    monkeypatch.chdir(tmp_path)
    for nodes, name in ((5, "few"), (7, "more")):
        prepare_hops.main([f"--nodes={nodes}", "--train=50", "--valid=9", "--test=9", f"--out_dir={name}"])
    first = run_to_the_end([*hops_flags(), "--data_dir=few", "--out_dir=out/few", "--block_size=24"])
    flags = [*hops_flags(), "--data_dir=more", "--out_dir=out/more", "--init_from=out/few/best.pt", "--n_embd=99"]
    second = Run(parse(TrainConfig, flags, ""))
    assert second.cfg.n_embd == 16 and second.model.config.block_size == 64 and second.model.config.dropout == 0.1
    old = load_checkpoint("out/few/best.pt")[0]
    for word in (" a", " =", EOT):
        new_id, old_id = (r.tok.encode(word, allowed_special="all")[0] for r in (second, first))
        assert torch.equal(second.model.wte.weight[new_id], old.wte.weight[old_id])
    assert torch.equal(second.model.wpe.weight[:24], old.wpe.weight)
    assert torch.equal(second.model.h[0].mlp.c_fc.weight, old.h[0].mlp.c_fc.weight)
    assert second.model.wte.weight[second.tok.encode_ordinary(" g")].norm() > 0


def test_fixed_positions_are_alike_and_stay(tmp_path, monkeypatch):
    """Catches places that are not alike wherever they stand, places that are trained, or lost on the way."""
    monkeypatch.chdir(tmp_path)
    wpe = GPT(GPTConfig(2, 4, 128, 200, VOCAB, fixed_positions=True)).wpe.weight.double()
    near = wpe @ wpe.T
    assert (near[1:, 1:] - near[:-1, :-1]).abs().max() < 1e-5  # the product depends on the distance alone
    assert near[0, 0] > near[0, 1] + 0.03 and near[0, 1] > near[0, 2:].max() + 0.05
    prepare_hops.main(["--nodes=6", "--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    run = run_to_the_end([*hops_flags(), "--data_dir=data", "--out_dir=out", "--fixed_positions"], stop_at=(3,))
    longer = [*hops_flags(), "--data_dir=data", "--out_dir=on", "--block_size=99", "--init_from=out/best.pt"]
    on = run_to_the_end(longer, stop_at=(3,))  # fixed positions come with the weights
    first = GPT(GPTConfig(1, 1, run.cfg.n_embd, 99, 9, fixed_positions=True))
    assert torch.equal(run.model.wpe.weight, first.wpe.weight[: run.cfg.block_size])
    assert torch.equal(on.model.wpe.weight, first.wpe.weight) and on.cfg.fixed_positions


def test_a_checkpoint_is_evaluated_on_any_file(tmp_path):
    """Catches an evaluation with other settings than those of the training."""
    prepare = ("prepare_hops.py", "--nodes=6", "--hops=2", "--train=50", "--valid=20", "--test=9", "--out_dir=data")
    assert command(tmp_path, *prepare).returncode == 0
    assert command(tmp_path, "train.py", *hops_flags(), "--out_dir=out").returncode == 0
    evaluated = command(tmp_path, "train.py", "--eval_only=out/best.pt", "--eval_file=data/valid.json")
    valid = [line.split()[2] for line in open(tmp_path / "out/log.txt") if " valid/accuracy " in line]
    best = max(float(v) for v in valid[-4:])  # of the last stage's four evaluations
    assert f"test accuracy {best:.1%} on 20 problems" in evaluated.stdout and "20 of 20 questions" in evaluated.stdout


def test_the_benchmark_measures(tmp_path):
    """Catches a benchmark that does not run, or that counts padding where there is none."""
    done = command(tmp_path, "bench.py", "--parts=step,memory", "--thoughts=0,2", "--batch_size=2", "--rounds=1")
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines() if line.startswith("step_over_plain"))
    assert values.keys() == {"step_over_plain_n0", "step_over_plain_n2"} and min(map(float, values.values())) > 0
    cfg = TrainConfig(batch_size=2, sort_window=1)
    bounds, first = np.array([0, 4, 7, 11, 12]), np.array([0, 2, 4])  # two problems: 4 + 3 and 4 + 1 tokens
    two = data.Problems(np.arange(12), bounds, first)
    assert bench.padding_share(two, 0, cfg) == pytest.approx(
        2 / 18
    )  # prefixes of 5, suffixes of 4 and 2 with their markers


def test_only_the_same_run_is_resumed(tmp_path, monkeypatch):
    """Catches a checkpoint that goes on with other settings or other data, or is replaced by them."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--out_dir=out"]
    run = Run(parse(TrainConfig, flags, ""))
    train.train_stage(run, stop=lambda: run.at["total"] == 5)
    run.save_last()
    run.lock.close()
    before = open(run.last, "rb").read()

    def refused(*more):
        with pytest.raises(UserError) as e:
            Run(parse(TrainConfig, [*flags, *more, "--resume"], ""))
        assert open(run.last, "rb").read() == before
        message = str(e.value)
        del e  # holds the refused run, and that its lock
        gc.collect()
        return message

    assert "n_layer was 1, now 2; lr was (0.001,), now (0.5,)" in refused("--lr=0.5", "--n_layer=2")
    assert "method was 'coconut', now 'no_cot'" in refused("--method=no_cot")
    saved = torch.load(run.last)
    torch.save(saved | {"format": 99}, run.last)
    before = open(run.last, "rb").read()
    assert "format 99, expected 2" in refused()
    torch.save(saved, run.last)
    before = open(run.last, "rb").read()
    prepare_hops.main(["--train=40", "--valid=9", "--test=9", "--out_dir=data", "--seed=3"])
    assert "the files in data are others" in refused()


def test_two_runs_in_one_folder_are_refused(tmp_path, monkeypatch):
    """Catches two processes that overwrite each other's checkpoints."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--out_dir=out"]
    first = Run(parse(TrainConfig, flags, ""))
    with pytest.raises(UserError, match="out: another run is writing here"):
        Run(parse(TrainConfig, flags, ""))
    first.lock.close()
    Run(parse(TrainConfig, flags, ""))


@pytest.mark.parametrize("what", ["weights", "gradient"])
def test_numbers_that_are_not_finite_stop_the_run_at_once(what, tmp_path, monkeypatch):
    """Catches a run that goes on with NaN, or that saves it: the checkpoint on disk is the last good one."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    run = Run(parse(TrainConfig, [*hops_flags(), "--out_dir=out"], ""))
    train.train_stage(run, stop=lambda: run.at["total"] == 12)
    run.save_last()
    if what == "weights":
        run.model.wpe.weight.data[3, 0] = math.inf
    else:  # the loss is finite, its gradient is not
        run.model.ln_f.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(UserError, match=r"stage 0, step 13, training examples \[\d+(, \d+){7}\]; out.ckpt.pt holds"):
        train.train_stage(run, stop=lambda: False)
    model, _, _, saved = load_checkpoint(run.last)
    assert saved["at"]["total"] == 12 and all(p.isfinite().all() for p in model.parameters())


def test_a_stage_is_left_when_mastered_or_with_a_warning(tmp_path, monkeypatch, capsys):
    """Catches stages that go on after they are mastered, or that end in silence when they are not."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--nodes=3", "--hops=1", "--train=2", "--valid=2", "--test=2", "--out_dir=data"])
    flags = [*hops_flags(), "--max_latent_stage=1", "--dropout=0", "--lr=0.01", "--steps=500,10", "--master_at=0.5"]
    run = run_to_the_end([*flags, "--out_dir=out"])
    (_, steps, *_, valid), (_, limit, *_) = run.at["results"]
    assert steps < 500 and valid["accuracy"] >= 0.5 and steps % 5 == 0
    text = capsys.readouterr().out
    assert ("WARNING" in text) == (limit == 10 and run.at["valid"]["accuracy"] < 0.5)
    run = run_to_the_end([*flags, "--out_dir=out2", "--steps=5"])
    assert [r[1] for r in run.at["results"]] == [5, 5] and "WARNING: 5 steps were not enough" in capsys.readouterr().out


def test_interrupting_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    """Catches a ^C that loses work, and a command to go on with that does not work when pasted into a shell."""
    assert command(tmp_path, "prepare_hops.py", "--train=50", "--valid=9", "--test=9", "--out_dir=data").returncode == 0
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
    argv = [sys.executable, "-u", script, *hops_flags(), "--steps=100000,5", "--out_dir=out"]
    with subprocess.Popen(argv, cwd=tmp_path, text=True, stdout=subprocess.PIPE) as p:
        for line in p.stdout:
            if line.startswith("stage 0  "):
                p.send_signal(signal.SIGINT)
                break
        rest = p.stdout.read()
    assert p.returncode == 130
    again = shlex.split(rest[rest.index("to go on: ") :])[3:]
    assert again == ["python", "train.py", *argv[3:], "--resume"]
    assert load_checkpoint(tmp_path / "out/ckpt.pt")[3]["at"]["total"] >= 5
    changed = command(tmp_path, "train.py", *argv[3:], "--resume", "--n_layer=2")
    assert changed.returncode == 2 and "n_layer was 1, now 2" in changed.stderr
    fresh = command(tmp_path, "train.py", *argv[3:], "--overwrite", "--steps=5")
    assert fresh.returncode == 0 and "test accuracy" in fresh.stdout


# ---------------------------------------------------------------- bad input: one line that helps, exit code 2


def fails(main, argv, capsys, monkeypatch):
    """The one line that a script ends with."""
    monkeypatch.setattr(sys, "argv", ["script", *argv])
    with pytest.raises(SystemExit) as e:
        cli(main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


def splits(folder, *problems):
    return {f"{folder}/{split}.json": json.dumps(problems) for split in ("train", "valid", "test")}


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["--batchsize=3"], ["batchsize", "did you mean batch_size?"]),
        (["--batch_size=lots"], ["batch_size", "'lots'", "int"]),
        (["--batch_size=2.5"], ["batch_size", "2.5", "int"]),
        (["--lr"], ["--lr", "missing"]),
        (["--lr=1e-3,high"], ["lr", "float"]),
        (["--method=coconuts"], ["coconuts", "pause_as_thought", "did you mean coconut?"]),
        (["--target=rest,frontiers"], ["target", "'frontiers'", "did you mean frontier?"]),
        (["--peek=maybe"], ["peek", "maybe", "bool"]),
        (["--steps=0"], ["steps", "at least 1"]),
        (["configs/nothing.py"], ["configs/nothing.py", "no such config file"]),
        (["typo.py"], ["typo.py, line 2", "batch_sise", "did you mean batch_size?"]),
        (["code.py"], ["code.py, line 1", "name = value"]),
        (["broken.py"], ["broken.py", "line 1"]),
        (["typed.py"], ["typed.py, line 1", "n_layer", "int"]),
        (["--data_dir=nowhere"], ["nowhere/train.json", "no such file"]),
        (["--data_dir=broken"], ["broken/train.json", "not JSON", "line 2 column 13"]),
        (["--data_dir=keyless"], ["keyless/train.json", "example 1", "'answer'"]),
        (["--data_dir=mistyped"], ["mistyped/train.json", "example 0", "'steps'"]),
        (["--data_dir=empty"], ["empty/train.json", "not empty"]),
        (["--data_dir=long"], ["long/train.json", "example 1", "82 + 0 + 11 positions", "block_size is 64"]),
        (
            ["--data_dir=long", "--max_latent_stage=6", "--c_thought=5", "--block_size=101", "--pad_latent_to_max"],
            ["example 1", "82 + 20 + ", "at stage 4", "block_size is 101, 1"],
        ),
        (["--data_dir=marked"], ["marked/train.json", "example 0", "'###'", "answer_format"]),
        (["--data_dir=half", "--tokenizer=chars"], ["half/train.json", "example 0", "no character"]),
        (["--data_dir=good", "--n_head=3"], ["n_embd=128", "n_head=3"]),
        (["--data_dir=good", "--device=gpu"], ["--device=gpu", "does not work here"]),
        (["--dropout=1.5"], ["dropout", "at most 1"]),
        (["--lr=()"], ["lr", "at least one value"]),
        (["--lr={[]:1}"], ["lr", "float"]),
        (["--answer_format=###"], ["answer_format", "{}"]),
        (["--answer_format={}"], ["answer_format", "mark"]),
        (["--names=[a-"], ["names", "regular expression"]),
        (["--data_dir=good", "--names=[a-j]", "--steps=1"], ["names", "does not match"]),
        (["--resume", "--overwrite"], ["expected one of them"]),
        (["--resume", "--data_dir=good"], ["out/hops/ckpt.pt", "no such checkpoint"]),
    ],
)
def test_training_refuses_bad_input(argv, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "typo.py": '"""A config."""\nbatch_sise = 3\n', "code.py": "import os\n", "broken.py": "lr = = 3\n",
        "typed.py": "n_layer = 'two'\n",
        **dict.fromkeys(splits("broken"), '[{"question": "",\n  "steps": [}]'), **splits("empty"),
        **splits("keyless", PROBLEM, {"question": "q", "steps": []}), **splits("good", PROBLEM),
        **splits("mistyped", {**PROBLEM, "steps": ["a", 1]}), **splits("long", PROBLEM, LONG),
        **splits("marked", {**PROBLEM, "answer": "a ### b"}), **splits("half", {**PROBLEM, "question": "\ud83d"}),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    error = fails(train.main, argv, capsys, monkeypatch)
    assert all(part in error for part in parts), error


def test_sampling_refuses_bad_input(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no checkpoint" in fails(sample.main, [], capsys, monkeypatch)
    (tmp_path / "ckpt.pt").write_text("not a checkpoint")
    assert "ckpt.pt: not a checkpoint" in fails(sample.main, ["--out_dir=."], capsys, monkeypatch)
