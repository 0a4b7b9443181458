"""
The proof that the fast code computes what the paper says.   python -m pytest

Each test names the mistake that it would catch. `naive_*` is the slow truth: one row at a time, no cache, no padding,
attention by hand, the whole sequence computed again for every thought.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from model import GPT, GPTConfig, KVCache

VOCAB, BLOCK = 23, 40


def tiny(dtype=torch.float64, seed=0, n_layer=2, **kwargs):
    """A random GPT with weights large enough for every path to matter: biases and LayerNorms too."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(n_layer=n_layer, n_head=3, n_embd=24, block_size=BLOCK, vocab_size=VOCAB, **kwargs)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


def naive_gpt(model, x):
    """Hidden states after ln_f (T, C) of the input embeddings x (T, C), written out after the GPT-2 paper's code."""
    T, C = x.shape
    nh = model.config.n_head

    def norm(x, ln):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * ln.weight + ln.bias

    x = x + model.wpe.weight[:T]
    for block in model.h:
        q, k, v = (norm(x, block.ln_1) @ block.attn.c_attn.weight.T + block.attn.c_attn.bias).split(C, -1)
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


def naive_row(model, prefix, n, suffix):
    """Logits (S+1, V) that predict suffix[0], suffix[1], ... and what follows, and the thoughts, for one row."""
    x = model.wte.weight[prefix]
    for _ in range(n):
        x = torch.cat((x, naive_gpt(model, x)[-1:]))
    x = torch.cat((x, model.wte.weight[suffix]))
    h = naive_gpt(model, x)[len(prefix) + n - 1 :]
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


def naive_loss(model, rows):
    logits = [naive_row(model, prefix, n, suffix)[0][:-1] for prefix, n, suffix, _ in rows]
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
    """Catches a broken chain: at first nothing else connects question and answer, as attention sees one position."""
    model = tiny(n_layer=1)
    prefix = torch.randn(1, 3, 24, dtype=torch.float64, requires_grad=True)

    def answer(n_thoughts):
        h = model.read(prefix, torch.ones(1, 3, dtype=torch.bool), KVCache(1, size=3))[:, -1:]
        for _ in range(n_thoughts):  # a new cache each time: the thought is all that is left of the question
            h = model.read(h, torch.ones(1, 1, dtype=torch.bool), KVCache(1, size=1))
        return torch.autograd.grad(model.head(h)[0, 0, 5], prefix)[0]

    assert answer(3).abs().max() > 0
    # and in the model as it is: cutting the thoughts off changes the gradient of the question's token
    rows = [([1, 2, 3], 3, [4], [4])]
    whole = gradients(model, model(*batch(rows))[1])["wte.weight"][1]
    read, calls = model.read, []

    def detached(x, real, cache):
        calls.append(x)
        return read(x if len(calls) == 1 else x.detach(), real, cache)

    model.read = detached
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
    assert torch.equal(tokens, model.generate(prefix, prefix_len, n, max_new_tokens=3, temperature=9.0, top_k=1))
    torch.manual_seed(0)
    hot = [model.generate(prefix, prefix_len, n, max_new_tokens=3, temperature=9.0) for _ in range(9)]
    assert len({str(tokens) for tokens in hot}) > 1


def test_reads_past_block_size_are_refused():
    """Catches positions clamped in silence: padding takes up no position, but one thought too many does not fit."""
    model = tiny()
    fits = [([1] * 30, 4, [2] * 6, [2] * 6), ([1], 0, [2], [2])]
    assert model(*batch(fits, extra_padding=20))[1].isfinite()
    with pytest.raises(IndexError):
        model(*batch([([1] * 30, 5, [2] * 6, [2] * 6)]))
