"""
The proof that the fast code computes what the paper says.   python -m pytest test_latent.py

Each test names the mistake that it would catch. `naive_*` is the slow truth: one row at a time, no cache, no padding,
attention by hand, the whole sequence computed again for every thought. All of it runs with speed/fast.py and without,
and what does not depend on the base model with model.py and pretrained/llama.py.
"""

import copy
import gc
import math
import os
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import train
from batches import collate
from curriculum import Row
from losses import Objective
from model import GPT, GPTConfig
from pretrained.llama import Llama, LlamaConfig
from settings import TrainConfig
from speed import fast

VOCAB, BLOCK = 23, 40
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # also in the commands that tests run


@pytest.fixture(params=["plain", "fast"])
def tiny(request):
    """Makes random GPTs with weights large enough for every path to matter: biases and LayerNorms too."""

    def make(dtype=torch.float64, seed=0, n_layer=2, **settings):
        torch.manual_seed(seed)
        sizes = {"n_layer": n_layer, "n_embd": 24, "block_size": BLOCK, "vocab_size": VOCAB, **settings}
        if "llama" in request.param:  # two heads share their keys, whose width is not that of all heads together
            sizes |= {"n_head": 4, "n_kv_head": 2, "head_dim": 10, "n_inner": 40, "rope_theta": 50.0}
            model = Llama(LlamaConfig(qkv_bias=True, qk_norm=True, **sizes)).to(dtype)
        else:
            model = GPT(GPTConfig(n_head=3, **sizes)).to(dtype)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.2)
        return (fast.speed_up(model) if "fast" in request.param else model).eval()

    return make


BOTH = pytest.mark.parametrize("tiny", ["plain", "fast", "llama", "llama fast"], indirect=True)


def embeddings(model):
    return (model.wte if isinstance(model, GPT) else model.embed_tokens).weight


def naive_parallel(model, prefix, n, suffix, in_place=False):
    """What naive_row returns, of thoughts that come all at once: each pass reads everything anew."""
    E, P = embeddings(model), len(prefix)
    pause, vectors = E[model.config.pause], [0] * n if model.thought_vectors is None else model.thought_vectors
    thoughts = [pause + vectors[i] for i in range(n)]
    for _ in range(model.config.passes if n else 0):
        states = naive_states(model, torch.cat((E[prefix], torch.stack(thoughts))))
        fed = [model.feedback([h[k][None, None] for h in states], model)[0, 0] for k in range(P - 1, P + n)]
        thoughts = [(pause + fed[i + 1] if in_place else fed[i]) + vectors[i] for i in range(n)]
    x = torch.cat((E[prefix], *(t[None] for t in thoughts), E[suffix]))
    return naive_gpt(model, x)[P + n - 1 :] @ E.T, x[P : P + n]


def naive_gpt(model, x, fixed=slice(0)):
    """Hidden states after ln_f (T, C) of the input embeddings x (T, C)."""
    return naive_states(model, x, fixed)[-1]


def naive_states(model, x, fixed=slice(0)):
    """[the input, after each block, ...], and the last one after ln_f, (T, C) each, after the GPT-2 paper's code.

    No gradient goes into the keys and values of the `fixed` positions.
    """
    if isinstance(model, Llama):
        return naive_llama(model, x, fixed)
    T, C = x.shape
    nh = model.config.n_head

    def norm(x, ln):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * ln.weight + ln.bias

    x = x + model.wpe.weight[:T]
    states = [x]
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
        states.append(x)
    return [*states[:-1], norm(x, model.ln_f)]


def naive_llama(model, x, fixed):
    """The same for a Llama, with each head's keys looked up and each pair of numbers turned as one complex number."""
    c, states = model.config, [x]

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * weight

    def linear(x, layer):
        return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)

    def turn(x):  # angles are computed in float32, as in transformers
        angle = torch.arange(len(x))[:, None] * (1 / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim))
        z = torch.complex(*x.chunk(2, -1)) * torch.complex(angle.cos(), angle.sin())
        return torch.cat((z.real, z.imag), -1)

    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    free = torch.ones(len(x), 1, dtype=torch.bool)
    free[fixed] = False
    for block in model.layers:
        attn, u, heads = block.self_attn, norm(x, block.input_layernorm.weight), []
        for i in range(c.n_head):
            own, shared = (slice(j * c.head_dim, (j + 1) * c.head_dim) for j in (i, i * c.n_kv_head // c.n_head))
            q = turn(norm(linear(u, attn.q_proj)[:, own], attn.q_norm.weight))
            k = turn(norm(linear(u, attn.k_proj)[:, shared], attn.k_norm.weight))
            v = linear(u, attn.v_proj)[:, shared]
            k, v = torch.where(free, k, k.detach()), torch.where(free, v, v.detach())
            heads.append((q @ k.T / math.sqrt(c.head_dim)).masked_fill(~causal, -math.inf).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), attn.o_proj)
        u = norm(x, block.post_attention_layernorm.weight)
        gate = linear(u, block.mlp.gate_proj)
        x = x + linear(gate * gate.sigmoid() * linear(u, block.mlp.up_proj), block.mlp.down_proj)
        states.append(x)
    return [*states[:-1], norm(x, model.norm.weight)]


def naive_row(model, prefix, n, suffix, backprop_thoughts=None):
    """Logits (S+1, V) that predict suffix[0], suffix[1], ... and what follows, and the thoughts, for one row."""
    x = embeddings(model)[prefix]
    early = 0 if backprop_thoughts is None else max(0, n - backprop_thoughts)  # thoughts without gradient
    cut = slice(len(prefix), len(prefix) + early)
    for i in range(n):
        h = naive_gpt(model, x, cut)[-1:]
        h = h.detach() if 0 < i <= early else h
        x = torch.cat((x, h if model.thought_vectors is None else h + model.thought_vectors[i]))
    x = torch.cat((x, embeddings(model)[suffix]))
    h = naive_gpt(model, x, cut)[len(prefix) + n - 1 :]
    return h @ embeddings(model).T, x[len(prefix) : len(prefix) + n]


def naive_generate(model, prefix, n, suffix, max_new_tokens, eos):
    suffix, tokens = list(suffix), []
    while len(tokens) < max_new_tokens:
        tokens.append(naive_row(model, prefix, n, suffix)[0][-1].argmax().item())
        if tokens[-1] == eos or len(prefix) + n + len(suffix) == BLOCK:
            break
        suffix.append(tokens[-1])
    return tokens


def some_rows(seed=0, size=5):
    """Rows of uneven lengths, thoughts and scored places, one of each extreme."""
    g = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return torch.randint(low, high, (1,), generator=g).item()

    rows = []
    for i in range(size):
        prefix = torch.randint(0, VOCAB, (draw(1, 9),), generator=g).tolist()
        suffix = torch.randint(0, VOCAB, (draw(1, 7),), generator=g).tolist()
        labels = [t if draw(0, 3) else -100 for t in suffix[:-1]] + suffix[-1:]
        rows.append(Row(prefix, (0, 1, 4)[i] if i < 3 else draw(0, 6), suffix, labels))
    return rows


def batch(rows, extra_padding=0):
    """The rows as tensors for GPT.forward; padded with a token that would be noticed if it were read."""
    prefix, n, suffix, labels = zip(*(row[:4] for row in rows))

    def pad(lists, value):
        width = max(map(len, lists)) + extra_padding
        return torch.tensor([x + [value] * (width - len(x)) for x in lists])

    return pad(prefix, 7), torch.tensor([len(x) for x in prefix]), torch.tensor(n), pad(suffix, 7), pad(labels, -100)


def naive_loss(model, rows, **settings):
    logits = [naive_row(model, row.prefix, row.n, row.suffix, **settings)[0][:-1] for row in rows]
    return F.cross_entropy(torch.cat(logits), torch.tensor(sum((row.labels for row in rows), [])))


def gradients(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


def assert_close(a, b, tolerance):
    """Relative to the largest value: |a - b| <= tolerance * max |b|."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max(), f"off by {(a - b).abs().max() / b.abs().max():.1e}"


@BOTH
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_all_gradients_equal_the_naive_recomputation(dtype, tolerance, tiny):
    """Catches a detached thought, a wrong position or mask, a wrong predecessor of suffix[0], a missing 1/n_scored."""
    model, rows = tiny(dtype), some_rows()
    logits, loss = model(*batch(rows))
    expected = naive_loss(model, rows)
    assert logits.shape == (sum(label != -100 for row in rows for label in row.labels), VOCAB)
    assert_close(loss, expected, tolerance)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], tolerance)


@BOTH
def test_where_thoughts_stand(tiny):
    """Catches a suffix that goes on at the wrong place, another thought's vector, given thoughts placed otherwise."""
    model, rows = tiny(thought_positions="learned"), some_rows()
    inputs = batch(rows)
    expected, loss = naive_loss(model, rows), model(*inputs)[1]
    assert_close(loss, expected, 1e-10)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], 1e-10)
    assert abs(naive_loss(tiny(), rows) - expected) > 1e-3
    own = model.think(*inputs[:4])
    assert_close(model.think(*inputs[:4], given=own.fed).predicting, own.predicting, 1e-10)
    tokens = model.generate(*inputs[:3], max_new_tokens=50)
    for (prefix, n, *_), written in zip(rows[:3], tokens.tolist()):
        expected = naive_generate(model, prefix, n, [], 50, None)
        assert written[: len(expected)] == expected and not any(written[len(expected) :])


@BOTH
@pytest.mark.parametrize("settings", [{}, {"thought_positions": "learned"}, {"feedback": "soft+layer:-2"}])
def test_thoughts_at_once(settings, tiny):
    """Catches a thought from its neighbour's state or an earlier pass's, a pass too few, a prefix that is read anew.

    With as many passes as thoughts it is Coconut: loss, gradients, thoughts and what is written.
    """
    model, rows = tiny(pause=3, **settings), some_rows()
    most, shared = max(row.n for row in rows), [row._replace(shared=FIRST) for row in some_rows(8)]

    def look():
        inputs = batch(rows)
        sums = [Objective(model)(collate(some))["ce"][0] for some in (rows, shared)]
        written = model.generate(*inputs[:4], max_new_tokens=9, return_thoughts=True)
        return sums, [gradients(model, total) for total in sums], *written

    sequential, found = look(), {}
    for model.config.passes in (1, 2, most, most + 2):
        sums, grads, tokens, thoughts = found[model.config.passes] = look()
        logits, theirs = zip(*(naive_parallel(model, r.prefix, r.n, r.suffix) for r in rows))
        labels = torch.tensor(sum((r.labels for r in rows), []))
        expected = F.cross_entropy(torch.cat([each[:-1] for each in logits]), labels, reduction="sum")
        assert_close(sums[0], expected, 1e-10)
        for name, gradient in gradients(model, expected).items():
            assert_close(grads[0][name], gradient, 1e-10)
        for own, its, row in zip(thoughts, theirs, rows):
            assert not row.n or (own - its).abs().max() < 1e-10 * its.abs().max()
        if model.config.passes >= most:
            assert torch.equal(tokens, sequential[2])
            for total, same, grad, its in zip(sums, sequential[0], grads, sequential[1]):
                assert_close(total, same, 1e-10)
                for name, gradient in grad.items():
                    assert_close(gradient, its[name], 1e-10)
            for own, its in zip(thoughts, sequential[3]):
                assert not len(own) or (own - its).abs().max() < 1e-10 * its.abs().max()
    assert len({each[0][0].item() for each in (sequential, found[1], found[2])}) == 3


@BOTH
@pytest.mark.parametrize(
    "settings",
    [{"backprop_thoughts": m} for m in (1, 2, 3, 9)]
    + [{"gradient_checkpointing": True}, {"gradient_checkpointing": True, "backprop_thoughts": 2}],
)
def test_gradients_with_less_memory(settings, tiny):
    """Catches a block that finds later keys when it runs again, a cut thought that lets gradient through,
    or one that depends on the thoughts of its neighbours."""
    model, rows = tiny(), some_rows(size=4)
    expected = naive_loss(model, rows, backprop_thoughts=settings.get("backprop_thoughts"))
    for name, value in settings.items():
        setattr(model.config, name, value)
    loss = model(*batch(rows))[1]
    assert_close(loss, expected, 1e-10)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], 1e-10)


@BOTH
def test_thoughts_in_place(tiny):
    """Catches LOTUS's states added to the wrong thought, pads that get lost after a pass, or get no gradient, and a
    step's tokens that are asked for from the states of an earlier pass."""
    model, rows = tiny(passes=2, in_place=True, pause=3), some_rows()
    targets = [[None] + [[5 + i] if i % 3 else None for i in range(row.n)] for row in rows]
    rows = [row._replace(targets=targets) for row, targets in zip(rows, targets)]
    logits, theirs = zip(*(naive_parallel(model, r.prefix, r.n, r.suffix, in_place=True) for r in rows))
    labels = torch.tensor(sum((r.labels for r in rows), []))
    expected = F.cross_entropy(torch.cat([each[:-1] for each in logits]), labels, reduction="sum")
    for row, thoughts in zip(rows, theirs):
        E = embeddings(model)
        h = naive_gpt(model, torch.cat((E[row.prefix], thoughts)))[len(row.prefix) - 1 :]
        for state, target in zip(h, row.targets):
            expected = expected + (F.cross_entropy(state @ E.T, torch.tensor(target[0])) if target else 0)
    loss = sum(total for total, _ in Objective(model, ("ce", "thoughts"))(collate(rows)).values())
    assert_close(loss, expected, 1e-10)
    ours, expected = gradients(model, loss), gradients(model, expected)
    assert ours["thought_vectors"][: max(r.n for r in rows)].abs().sum(1).min() > 0
    for name, gradient in ours.items():
        assert_close(gradient, expected[name], 1e-10)
    _, thoughts = model.generate(*batch(rows)[:3], max_new_tokens=1, return_thoughts=True)
    for own, its, row in zip(thoughts, theirs, rows):
        assert not row.n or (own - its).abs().max() < 1e-10 * its.abs().max()


@BOTH
def test_gradients_in_bfloat16(tiny):
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


@BOTH
@pytest.mark.parametrize("names", ["ce thoughts members", "teacher distance distance_layers", "decoder", "stop ponder",
                                   "seq_vcr"])  # fmt: skip
def test_losses_in_bfloat16(names, tiny):
    """Catches a sum, a logarithm or a difference of large numbers in bfloat16, whose last digit is a 128th."""
    rows = {"ce": GRAPH_ROWS, "teacher": ROWS_WITH_TEACHER, "decoder": ROWS_WITH_STEPS}.get(names.split()[0], STOP_ROWS)
    torch.manual_seed(0)
    objective = Objective(tiny(torch.float32, stop="ponder" if "stop" in names else ""), names.split())
    exact = objective(collate(rows))
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(collate(rows))
    for name, (total, _) in found.items():
        assert total.dtype == torch.float32 and total.item() == pytest.approx(exact[name][0].item(), rel=0.02), name


@BOTH
def test_cutting_thoughts_off_frees_their_memory(tiny):
    """Catches graphs of cut thoughts that are kept alive by something that goes on."""
    model = tiny()

    def graph_size(backprop_thoughts):
        model.config.backprop_thoughts = backprop_thoughts
        nodes, left = set(), [model(*batch([Row([1, 2, 3], 8, [4], [4])]))[1].grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                left += [before for before, _ in node.next_functions]
        return len(nodes)

    assert graph_size(1) < 0.3 * graph_size(None)


@BOTH
@pytest.mark.parametrize("grad", [True, False])
def test_cached_equals_uncached_at_every_split(grad, tiny):
    """Catches masks aligned to the wrong corner, positions that restart, and buffers written at the wrong place."""
    model = tiny()
    x = torch.randn(2, 12, 24, dtype=torch.float64)
    expected = torch.stack([naive_gpt(model, row) for row in x])
    with torch.set_grad_enabled(grad):
        for first in range(1, 12):
            for second in range(first, 12):
                h, past = [], None
                for part in slice(0, first), slice(first, second), slice(second, 12):
                    if part.start < part.stop:
                        states, past = model.read(x[:, part], torch.ones(2, 12, dtype=torch.bool)[:, part], past)
                        h.append(states[-1])
                assert_close(torch.cat(h, 1), expected, 1e-10)


@BOTH
@pytest.mark.parametrize("extra_padding", [0, 5])
def test_a_row_does_not_depend_on_its_neighbours_or_padding(extra_padding, tiny):
    """Catches keys of padding or surplus thoughts that are attended to, in the forward and in the backward pass."""
    model, rows = tiny(), some_rows(seed=1, size=8)
    together = model(*batch(rows, extra_padding)[:-1])[0]
    for b, row in enumerate(rows):
        alone, loss = model(*batch([row])[:-1])[0], model(*batch([row]))[1]
        assert_close(together[b, : len(row.suffix)], alone[0], 1e-10)
        only_b = batch([r if i == b else r._replace(labels=[-100] * len(r.suffix)) for i, r in enumerate(rows)])
        expected = gradients(model, loss)
        for name, gradient in gradients(model, model(*only_b)[1]).items():
            assert_close(gradient, expected[name], 1e-10)


@BOTH
def test_without_thoughts_it_is_a_plain_gpt(tiny):
    """Catches any difference between reading a text in one piece and as prefix + suffix; n may be an int."""
    model = tiny()
    text = torch.randint(0, VOCAB, (3, 15))
    E = embeddings(model)
    expected = torch.stack([naive_gpt(model, E[row]) @ E.T for row in text])
    for P in (1, 7, 14):
        logits, loss = model(text[:, :P], torch.full((3,), P), 0, text[:, P:])
        assert loss is None
        assert_close(logits, expected[:, P - 1 : -1], 1e-10)


def test_gradient_reaches_the_question_through_the_last_thought(tiny):
    """Catches a thought that is detached: cutting the thoughts off must change the gradient of the question."""
    model, rows = tiny(), [Row([1, 2, 3], 3, [4], [4])]
    whole = gradients(model, model(*batch(rows))[1])["wte.weight"][1]
    read, calls = model.read, []

    def read_detached(x, *where):
        calls.append(x)
        return read(x if len(calls) == 1 else x.detach(), *where)

    model.read = read_detached
    cut = gradients(model, model(*batch(rows))[1])["wte.weight"][1]
    assert len(calls) == 4  # n thoughts cost n + 1 passes
    assert (whole - cut).abs().max() > 1e-3 * whole.abs().max()


@BOTH
def test_generation_batched_equals_single_equals_naive(tiny):
    """Catches rows that go on after eos, positions that drift, a suffix read at the wrong place, a wrong block_size."""
    model = tiny(seed=6)
    rows = [row._replace(suffix=[1, 2], labels=[0, 0]) for row in some_rows(seed=2, size=12)]
    eos = naive_generate(model, *rows[0][:3], 4, eos=None)[-1]  # a token that at least this row writes
    prefix, prefix_len, n, suffix, _ = batch(rows)
    together = model.generate(prefix, prefix_len, n, suffix, max_new_tokens=50, eos=eos)
    ends = set()
    for row, tokens in zip(rows, together.tolist()):
        expected = naive_generate(model, *row[:3], 50, eos)
        assert tokens == expected + [eos] * (len(tokens) - len(expected))
        p, p_len, m, s, _ = batch([row])
        assert model.generate(p, p_len, m, s, max_new_tokens=50, eos=eos).tolist() == [expected]
        ends.add(expected[-1] == eos)
    assert ends == {True, False}, "the test wants rows that end with eos and rows that fill the block"


@BOTH
def test_generation_returns_the_thoughts_and_can_sample(tiny):
    """Catches thoughts off by one, and top_k or temperature without effect."""
    model, rows = tiny(), some_rows(seed=4)
    prefix, prefix_len, n, _, _ = batch(rows)
    tokens, thoughts = model.generate(prefix, prefix_len, n, max_new_tokens=3, return_thoughts=True)
    assert tokens.shape == (5, 3) and [t.shape for t in thoughts] == [(n_b, 24) for n_b in n]
    for b, (p, n_b, *_) in enumerate(rows):
        if n_b:
            assert_close(thoughts[b], naive_row(model, p, n_b, [])[1], 1e-10)

    def draw(**sampling):
        return model.generate(prefix, prefix_len, n, max_new_tokens=1, **sampling)

    logits = torch.stack([naive_row(model, p, n_b, [])[0][-1] for p, n_b, *_ in rows])
    likely = logits.topk(2).indices
    assert torch.equal(draw(temperature=5.0, top_k=1), likely[:, :1])
    assert torch.equal(draw(temperature=1e-4), likely[:, :1])
    draws = torch.cat([draw(temperature=1e4, top_k=2) for _ in range(40)], 1)  # (5, 40): a coin between two tokens
    for row, pair in zip(draws, likely):
        assert set(row.tolist()) == set(pair.tolist())


def test_reads_past_block_size_are_refused(tiny):
    """Catches positions clamped in silence: padding takes up no position, but one thought too many does not fit."""
    model = tiny()
    fits = [Row([1] * 30, 4, [2] * 6, [2] * 6), Row([1], 0, [2], [2])]
    assert model(*batch(fits, extra_padding=20))[1].isfinite()
    with pytest.raises(IndexError):
        model(*batch([Row([1] * 30, 5, [2] * 6, [2] * 6)]))


@BOTH
def test_micro_batches_do_not_change_the_step(tiny):
    """Catches a mean of means: the micro-batches hold different numbers of scored tokens."""
    weights = []
    for size in (0, 1, 2, 3):
        model = tiny()
        cfg = TrainConfig(micro_batch_size=size, grad_clip=0.5)
        objective = Objective(model)
        loss = train.train_step(objective, torch.optim.SGD(model.parameters(), lr=1.0), some_rows(), cfg)["loss"]
        weights.append(torch.cat([loss[None], *(p.flatten() for p in model.parameters())]))
        assert_close(weights[-1], weights[0], 1e-10)
    assert (weights[0][1:] - torch.cat([p.flatten() for p in tiny().parameters()])).abs().max() > 1e-3


@BOTH
def test_a_past_can_be_kept_forked_and_read_on_from_twice(tiny):
    """Catches keys that a later pass overwrites, and a fork that shares what should be its own."""
    model, real = tiny(), torch.ones(2, 4, dtype=torch.bool)
    x = torch.randn(2, 12, 24, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            _, past = model.read(x[:, :4], real)
            _, past = model.read(x[:, 4:5], real[:, :1], past)
            once, after = model.read(x[:, 5:8], real[:, :3], past)
            model.read(x[:, 8:12], real, past)  # something else, from the same past
            again, _ = model.read(x[:, 5:8], real[:, :3], past)
            later, _ = model.read(x[:, 8:12], real, after)
            swapped, _ = model.read(x[[1, 1, 0], 5:8], real[[1, 1, 0], :3], past.select(torch.tensor([1, 1, 0])))
        assert all(torch.equal(a, b) for a, b in zip(once, again))
        assert_close(later[-1], torch.stack([naive_gpt(model, row[[*range(12)]])[8:] for row in x]), 1e-10)
        assert_close(swapped[-1], once[-1][[1, 1, 0]], 1e-10)


def test_states_of_all_layers(tiny):
    """Catches a layer too many or too few: the input, after each block, and in the last place after ln_f."""
    model = tiny(n_layer=3)
    states, _ = model.read(torch.randn(1, 5, 24, dtype=torch.float64), torch.ones(1, 5, dtype=torch.bool))
    x = states[0]
    for i, block in enumerate(model.h):
        x = block(x, None)[0]
        assert_close(states[i + 1], x if i < 2 else model.ln_f(x), 1e-10)
    assert len(states) == 4


def test_several_backward_passes_through_one_graph(tiny):
    """Catches products that are added twice: by a second pass, or one that did not ask for a weight's gradient."""
    model, rows = tiny(), some_rows(size=4)
    expected = gradients(model, naive_loss(model, rows))
    loss = model(*batch(rows))[1]
    torch.autograd.grad(loss, model.wte.weight, retain_graph=True)
    loss.backward(retain_graph=True)
    for name, p in model.named_parameters():
        assert_close(p.grad, expected[name], 1e-10)
        p.grad = None
    for name, gradient in gradients(model, loss).items():
        assert_close(gradient, expected[name], 1e-10)


def test_second_derivatives_are_right_or_an_error(tiny):
    """Catches a wrong number where speed/fast.py cannot differentiate twice."""
    model, rows = tiny(), some_rows(size=3)

    def twice(loss):
        weights = [model.wpe.weight, model.h[0].mlp.c_fc.weight]
        first = torch.autograd.grad(loss, weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the only one that can do it
        if isinstance(model, fast.FastThinking):
            with pytest.raises(RuntimeError, match="second derivatives"):
                twice(model(*batch(rows))[1])
        else:
            for ours, theirs in zip(twice(model(*batch(rows))[1]), twice(naive_loss(model, rows))):
                assert_close(ours, theirs, 1e-9)


def test_layers_can_be_watched_wrapped_and_without_bias(tiny):
    """Catches layers that are read around: hooks that do not fire in training, LoRA that only evaluation has."""
    model, rows = tiny(), some_rows(size=4)
    plain = model.h[0].mlp.c_fc

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a, self.b = (nn.Parameter(torch.randn(*s).double()) for s in ((3, 24), (96, 3)))

        def forward(self, x):
            return self.base(x) + x @ self.a.T @ self.b.T

    fired = []
    plain.register_forward_hook(lambda *_: fired.append(1))
    model(*batch(rows))[1].backward()
    model.zero_grad()
    assert len(fired) == 1 + max(row.n for row in rows)
    model.h[0].mlp.c_fc = lora = LoRA(plain)
    plain.bias = None
    loss = model(*batch(rows))[1]
    loss.backward()
    base, a, b = plain.weight.grad, lora.a.grad, lora.b.grad
    merged = nn.Linear(24, 96).double()
    with torch.no_grad():
        merged.weight.copy_(plain.weight + lora.b @ lora.a)
        merged.bias.zero_()
    model.h[0].mlp.c_fc = merged
    expected = naive_loss(model, rows)
    gradient = torch.autograd.grad(expected, merged.weight)[0]
    assert_close(loss, expected, 1e-10)
    assert_close(base, gradient, 1e-10)
    assert_close(a, lora.b.T @ gradient, 1e-10)
    assert_close(b, gradient @ lora.a.T, 1e-10)


def test_a_step_is_freed(tiny):
    """Catches graphs that refer to themselves, and so are never freed."""
    model, inputs = tiny(), batch(some_rows(size=4))[:4]
    thinking = model.think(*inputs)
    loss = model.head(thinking.predicting).square().mean()
    alive = [weakref.ref(k) for passes in thinking.past.layers for k, _ in passes]
    torch.autograd.grad(loss, model.h[0].mlp.c_fc.weight, retain_graph=True)
    del loss, thinking
    gc.collect()
    assert all(ref() is None for ref in alive) and fast.STEP is None
    copy.deepcopy(model)


@BOTH
def test_given_thoughts_are_read_at_once_and_equal_the_models_own(tiny):
    """Catches thoughts at the wrong place when they are given (teacher forcing), or states that are off by one."""
    model, rows = tiny(), some_rows(seed=6, size=6)
    prefix, prefix_len, n, suffix, labels = batch(rows)
    own = model.think(prefix, prefix_len, n, suffix)
    given = model.think(prefix, prefix_len, n, suffix, given=own.fed)
    assert_close(given.predicting, own.predicting, 1e-10)
    for b, row in enumerate(rows):
        assert_close(given.states[b, : row.n + 1], own.states[b, : row.n + 1], 1e-10)
        assert torch.equal(own.fed[b, : row.n], own.states[b, : row.n])  # with feedback=last


@BOTH
def test_the_loss_is_a_sum_and_a_count(tiny):
    """Catches an objective that differs from the model's own loss, or counts what is not scored."""
    model, rows = tiny(), some_rows()
    total, count = Objective(model)(collate(rows))["ce"]
    assert count == sum(label != -100 for row in rows for label in row.labels)
    assert_close(total / count, naive_loss(model, rows), 1e-10)


FIRST, SECOND = [8, 9, 10, 11], [12, 13]
GRAPH_ROWS = [  # two questions about each of two graphs; thoughts for which some sets are empty, or anything will do
    Row([1, 2], 2, [3, 4], [-100, 4], targets=[[5, 6], [7], None], shared=FIRST),
    Row([2], 2, [3, 5], [-100, 5], targets=[[5], [], [6, 7, 8]], shared=FIRST),
    Row([1, 3, 2], 1, [4], [4], targets=[[9], None], shared=SECOND),
    Row([1, 3], 0, [4], [4], targets=[None], shared=SECOND),
]


def naive_targets(model, rows, given):
    """Sums over all states of: cross-entropy to the uniform distribution over the set; of memberships."""
    soft, yes_or_no, E = 0, 0, embeddings(model)
    for row in rows:
        prefix = row.shared + row.prefix
        x = E[prefix]
        for i in range(row.n + 1):
            h = naive_gpt(model, x)[-1]
            target = torch.zeros(VOCAB, dtype=h.dtype)
            if row.targets[i] is not None:
                target[row.targets[i]] = 1
                p = (h @ E.T - 4).sigmoid()
                yes_or_no -= (target * p.log() + (1 - target) * (1 - p).log()).sum()
            if row.targets[i]:
                soft -= (h @ E.T).log_softmax(-1)[row.targets[i]].mean()
            if i < row.n:
                if given and model.config.feedback == "soft":
                    target = target / max(1, target.sum())
                x = torch.cat((x, (target @ E if given else model.feedback([h], model))[None]))
    return {"thoughts": soft, "members": yes_or_no}


@BOTH
@pytest.mark.parametrize(
    "feedback, given", [("last", False), ("soft", False), ("members", False), ("last", True), ("soft", True)]
)
def test_supervised_thoughts_equal_the_naive_recomputation(feedback, given, tiny):
    """Catches a target at the wrong state, an empty set that counts as none, a graph that is read for another row."""
    model = tiny(feedback=feedback)
    losses = Objective(model, ("ce", "thoughts", "members"))(
        collate([r._replace(given=0 if given else None) for r in GRAPH_ROWS])
    )
    expected = naive_targets(model, GRAPH_ROWS, given)
    assert [int(losses[name][1]) for name in ("ce", "thoughts", "members")] == [4, 5, 6]
    for name, total in expected.items():
        assert_close(losses[name][0], total, 1e-10)
        ours, theirs = (torch.autograd.grad(t, model.parameters(), retain_graph=True) for t in (losses[name][0], total))
        for a, b in zip(ours, theirs):
            assert_close(a, b, 1e-10)


@BOTH
@pytest.mark.parametrize("feedback", ["last", "members", "layer:-2"])
def test_given_thoughts_become_the_models_own_round_by_round(feedback, tiny):
    """Catches a thought that is fed back from the wrong place, or not at all."""
    model, losses = tiny(feedback=feedback), ("ce", "thoughts", "members")
    own, none, one, two = (
        Objective(model, losses)(collate([row._replace(given=given) for row in GRAPH_ROWS]))
        for given in (None, 0, 1, 2)
    )
    for name in losses:  # no row has more than two thoughts
        assert_close(two[name][0], own[name][0], 1e-10)
        ours, theirs = (torch.autograd.grad(x[name][0], model.parameters(), retain_graph=True) for x in (two, own))
        for a, b in zip(ours, theirs):
            assert_close(a, b, 1e-10)
        assert len({none[name][0].item(), one[name][0].item(), two[name][0].item()}) == 3


@BOTH
def test_a_shared_beginning_is_like_one_of_its_own(tiny):
    """Catches positions or masks that begin anew after what several rows read together, with their teachers."""
    model = tiny()
    taught = [
        row._replace(answer=i % 2, teacher=Row(row.prefix, 0, [5, 6, 7], [5, 6, 7], answer=2))
        for i, row in enumerate(GRAPH_ROWS)
    ]
    alone = [
        row._replace(
            shared=[], prefix=row.shared + row.prefix, teacher=row.teacher._replace(prefix=row.shared + row.prefix)
        )
        for row in taught
    ]
    objective = Objective(model, ("ce", "teacher", "distance"))
    theirs = gradients(model, expected := sum(total for total, _ in objective(collate(alone)).values()))
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3]):  # in other orders they do not share it, and are right, too
        total = sum(total for total, _ in objective(collate([taught[i] for i in order])).values())
        assert_close(total, expected, 1e-10)
        for name, gradient in gradients(model, total).items():
            assert_close(gradient, theirs[name], 1e-10)


def naive_top(p, share):
    """The likeliest tokens that have `share` of the probability together, renormalised; p (V,)."""
    kept, total = torch.zeros_like(p), 0.0
    for token in p.argsort(descending=True):
        if total < share:
            kept[token] = 1
        total += p[token].item()
    return p * kept / (p * kept).sum()


def naive_gate(h, model):
    gate, (p, E) = model.feedback, ((h[-1] @ model.wte.weight.T).softmax(-1), model.wte.weight)
    e, mean = E[p.argmax()], p @ E / (p**2).sum() ** 0.5
    r, i = (1 / (1 + (-(w.weight @ e + w.bias)).exp()) for w in (gate.r, gate.i))
    a = (-8 * (1 + (-gate.L).exp()).log() * r).exp()
    return a * e + (1 - a**2) ** 0.5 * i * mean


def naive_projection(h, model):
    _, first, _, second, norm = model.feedback.layers
    x = first.weight @ h[-1] + first.bias
    x = second.weight @ (x * (1 + torch.erf(x / 2**0.5)) / 2) + second.bias
    return (x - x.mean()) / (x.var(correction=0) + norm.eps) ** 0.5 * norm.weight + norm.bias


def naive_soft(h, model, temperature=1, share=1):
    return naive_top((h[-1] @ model.wte.weight.T / temperature).softmax(-1), share) @ model.wte.weight


NAIVE_FEEDBACKS = {  # what follows from the hidden states h, (C,) each, at the last position; a model of three layers
    "last": lambda h, m: h[3],
    "layer:-2": lambda h, m: h[2],
    "layer:-4": lambda h, m: h[0],
    "embedding": lambda h, m: h[0],
    "zero": lambda h, m: 0 * h[3],
    "suppressed:0.5": lambda h, m: h[3] * (h[3] - h[2] < -0.1),
    "suppressed:0": lambda h, m: sum(h[i + 1] * (h[i + 1] - h[i] < -0.1) for i in (0, 1, 2)),
    "suppressed:0.9": lambda h, m: 0 * h[3],
    "soft": naive_soft,
    "soft:0.5:0.7": lambda h, m: naive_soft(h, m, 0.5, 0.7),
    "fusion:0.6": lambda h, m: 0.6 * h[3] + 0.4 * naive_soft(h, m, 1, 0.9),
    "members": lambda h, m: (1 / (1 + (4 - h[3] @ m.wte.weight.T).exp())) @ m.wte.weight,
    "members:3": lambda h, m: (1 / (1 + (12 - 3 * h[3] @ m.wte.weight.T).exp())) @ m.wte.weight,
    "layer:-2+suppressed:0.5": lambda h, m: h[2] + h[3] * (h[3] - h[2] < -0.1),
    "projection": naive_projection,
    "gate": naive_gate,
}


@pytest.mark.parametrize("name", NAIVE_FEEDBACKS)
def test_what_is_fed_back(name, tiny):
    """Catches a layer that is off by one, a mask with a gradient, and weights that get none."""
    model, rows = tiny(n_layer=3, feedback=name), some_rows(size=4)
    logits = []
    for row in rows:
        x = model.wte.weight[row.prefix]
        for _ in range(row.n):
            h = [layer[-1] for layer in naive_states(model, x)]
            x = torch.cat((x, NAIVE_FEEDBACKS[name](h, model)[None]))
        h = naive_gpt(model, torch.cat((x, model.wte.weight[row.suffix])))[len(x) - 1 : -1]
        logits.append(h @ model.wte.weight.T)
    expected = F.cross_entropy(torch.cat(logits), torch.tensor(sum((row.labels for row in rows), [])))
    loss = model(*batch(rows))[1]
    assert_close(loss, expected, 1e-10)
    theirs = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    ours = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs):
        assert_close(a, b, 1e-10)


@pytest.mark.parametrize("tiny", ["plain", "llama"], indirect=True)
@pytest.mark.parametrize("settings", [*({"feedback": name} for name in NAIVE_FEEDBACKS), {"backprop_thoughts": 2},
    {"gradient_checkpointing": True}, {"passes": 2}, {"passes": 2, "in_place": True},
    {"thought_positions": "learned"}])  # fmt: skip
def test_thinking_never_waits_for_a_gpu(settings, tiny):
    """Catches what asks for a number between two thoughts, for which all work on a GPU has to come to its end, and
    most of what is made on the wrong device: on "meta" there are shapes, but no numbers."""
    model, (prefix, prefix_len, n, suffix, _) = tiny(n_layer=3, **settings).to("meta"), batch(some_rows())
    prefix, prefix_len, suffix = (x.to("meta") for x in (prefix, prefix_len, suffix))
    model.think(prefix, prefix_len, n, suffix).predicting.sum().backward()
    for wait in (lambda: int(prefix_len.max()), lambda: prefix[prefix > 3], lambda: bool((prefix > 3).all())):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()  # such a thing would have been noticed


ROWS_WITH_STEPS = [  # two thoughts a group; steps that were merged, groups that stand for nothing
    Row([1, 2], 4, [3, 4], [-100, 4], steps=[[5], [6, 7, 8, 9]]),
    Row([9], 0, [4, 8], [4, 8]),
    Row([3, 1, 2], 6, [5], [5], steps=[[10, 11], [], []]),
]


@BOTH
def test_the_decoder_writes_steps_from_thoughts(tiny):
    """Catches a group of the wrong thoughts, a mean over the wrong tokens, weights that the model and it share."""
    model, expected, n = tiny(thought_positions="learned", feedback="projection"), 0, 0
    objective = Objective(model, ("ce", "decoder"))
    decoder = objective.parts["decoder"].model
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            assert torch.equal(p, model.get_parameter(name)) and not name.startswith(model.OWN)
            p.add_(torch.randn_like(p) * 0.1)  # as if it had been trained for a while
    for row in ROWS_WITH_STEPS:
        x, E = embeddings(model)[row.prefix], embeddings(decoder)
        for i in range(row.n):
            thought = model.feedback([naive_gpt(model, x)[-1:]], model) + model.thought_vectors[i]
            x = torch.cat((x, thought))
        for k, step in enumerate(row.steps):
            group = x[len(row.prefix) + 2 * k :][:2]
            h = naive_gpt(decoder, torch.cat((group, E[step])))[1:-1]
            n, expected = n + bool(step), expected + (F.cross_entropy(h @ E.T, torch.tensor(step)) if step else 0)
    total, count = objective(collate(ROWS_WITH_STEPS))["decoder"]
    assert count == n == 3
    assert_close(total, expected, 1e-10)
    settings = {"retain_graph": True, "materialize_grads": True}
    ours, theirs = (torch.autograd.grad(x, list(objective.parameters()), **settings) for x in (total, expected))
    for a, b in zip(ours, theirs):
        assert_close(a, b, 1e-10)
    assert any(a.any() for a in ours[: len(list(model.parameters()))])
    for nothing in [], [[], [], []]:  # no thoughts at all, or such as stand for nothing
        total, count = objective(collate([row._replace(steps=nothing) for row in ROWS_WITH_STEPS]))["decoder"]
        assert (total, count) == (0, 0)
        total.backward()  # a batch's only loss has to have a gradient


ROWS_WITH_TEACHER = [
    Row([1, 2], 2, [3, 4, 5], [-100, 4, 5], answer=2, teacher=Row([1, 2], 0, [6, 7, 4, 5], [6, 7, 4, 5], answer=3)),
    Row([9], 0, [4, 8], [4, 8], answer=1, teacher=Row([9], 0, [4, 8], [4, 8], answer=1)),
    Row([3, 1, 2], 4, [5], [5], answer=0, teacher=Row([3, 1], 0, [5], [5], answer=0)),  # nothing marks the answer
]


@BOTH
@pytest.mark.parametrize("settings", [{}, {"passes": 2}])
def test_the_teacher_and_the_distance_to_it(settings, tiny):
    """Catches a state off by one, a layer too few, a gradient into the teacher, a deviation that rows share."""
    model, (ce, teacher, distance, layers) = tiny(n_layer=3, pause=6, **settings), (0, 0, 0, 0)
    for row in ROWS_WITH_TEACHER:
        think = naive_parallel if settings else naive_row
        logits, thoughts = think(model, row.prefix, row.n, row.suffix)
        ce = ce + F.cross_entropy(logits[:-1], torch.tensor(row.labels), reduction="sum")
        its = row.teacher
        logits, _ = naive_row(model, its.prefix, 0, its.suffix)
        teacher = teacher + F.cross_entropy(logits[:-1], torch.tensor(its.labels), reduction="sum")
        E, found = embeddings(model), []
        own = naive_states(model, torch.cat((E[row.prefix], thoughts, E[row.suffix])))
        for h, h_t in zip(own, naive_states(model, E[its.prefix + its.suffix])):
            s, t = h[len(row.prefix) + row.n + row.answer - 1], h_t[len(its.prefix) + its.answer - 1].detach()
            far = (s - t).abs()
            found.append(torch.where(far < 1, far**2 / 2, far - 0.5).mean() / t.var().sqrt())
        distance, layers = distance + sum(found) / 4, layers + sum(found[1:]) / 3
    losses = Objective(model, ("ce", "teacher", "distance", "distance_layers"))(collate(ROWS_WITH_TEACHER))
    assert [int(n) for _, n in losses.values()] == [5, 7, 3, 3]
    for (total, _), expected in zip(losses.values(), (ce, teacher, distance, layers)):
        assert_close(total, expected, 1e-10)
        settings = {"retain_graph": True, "materialize_grads": True}
        ours, theirs = (torch.autograd.grad(x, list(model.parameters()), **settings) for x in (total, expected))
        for a, b in zip(ours, theirs):
            assert_close(a, b, 1e-10)


STOP_ROWS = [Row([1, 2], 2, [3, 4], [-100, 4]), Row([5], 0, [3, 6, 7], [3, -100, 7]), Row([2, 9, 4], 4, [8], [8])]


def naive_stops(model, row):
    """The chances to stop after 0, 1, ..., n thoughts, if it has not stopped before."""
    x = model.wte.weight[row.prefix]
    chances = []
    for _ in range(row.n + 1):
        h = naive_gpt(model, x)[-1:]
        chances.append((h @ model.stop_head.weight.T + model.stop_head.bias)[0, 0].sigmoid())
        x = torch.cat((x, h))
    return chances


def test_when_to_stop(tiny):
    """Catches a state off by one, a chance of what comes after the stop, a prior not cut off, a missing gradient."""
    model = tiny(stop="ponder")
    ends, ponder = 0, 0
    for row in STOP_ROWS:
        chances, rest = naive_stops(model, row), 1
        priors = torch.tensor([0.2 * 0.8**k for k in range(row.n + 1)], dtype=torch.float64)
        for k, chance in enumerate(chances):
            p = rest * chance if k < row.n else rest
            if k == row.n:
                ends = ends - (rest * chance).log()
            rest = rest * (1 - chance)
            logits, scored = naive_row(model, row.prefix, k, row.suffix)[0][:-1], torch.tensor(row.labels)
            ponder = ponder + p * F.cross_entropy(logits, scored)
            ponder = ponder + 0.01 * p * (p / (priors[k] / priors.sum())).log()
    losses = Objective(model, ("stop", "ponder"))(collate(STOP_ROWS))
    for name, expected in (("stop", ends), ("ponder", ponder)):
        total, count = losses[name]
        assert count == 3
        assert_close(total, expected, 1e-10)
        ours, theirs = (torch.autograd.grad(x, list(model.parameters()), retain_graph=True) for x in (total, expected))
        for a, b in zip(ours, theirs):
            assert_close(a, b, 1e-10)


def test_rows_stop_one_by_one(tiny):
    """Catches a row that thinks on because its neighbours do, or stops with them; also where all stop at once."""
    model = tiny(stop="classifier")
    prefix, prefix_len, _, suffix, _ = batch(some_rows(seed=3, size=8))
    found = set()
    for bias in (-9.0, -2.0, -1.0, -0.5, 9.0):
        model.stop_head.bias.data.fill_(bias)
        n = []
        for p, length in zip(prefix.tolist(), prefix_len):
            chances = naive_stops(model, Row(p[:length], 5, [], []))
            rest = [math.prod(1 - c for c in chances[: k + 1]) for k in range(6)]
            n.append(next((k for k in range(5) if rest[k] <= 0.5), 5))
        settings = {"max_new_tokens": 3, "return_thoughts": True}
        together = model.generate(prefix, prefix_len, 5, suffix, may_stop=True, **settings)
        alone = model.generate(prefix, prefix_len, torch.tensor(n), suffix, **settings)
        assert torch.equal(together[0], alone[0]) and [len(t) for t in together[1]] == n
        for a, b in zip(together[1], alone[1]):
            assert torch.equal(a, b) or len(a) and (a - b).abs().max() < 1e-12
        found |= {*n}
    assert len(found) > 3


def test_seq_vcr_equals_its_formula(tiny):
    """Catches a thought that a row does not have, a variance of the wrong N, a diagonal among the covariances."""
    model, rows = tiny(), some_rows(size=6)
    objective, l_1, l_2 = Objective(model, ("seq_vcr",)).double(), 1, 0.004
    project, expected = objective.parts["seq_vcr"].project, 0
    assert not any(k.startswith("parts") for k in model.state_dict()) and len(objective.own_state()) == 2
    most = max(row.n for row in rows)
    for k in range(most + 1):
        states = []
        for row in rows:
            if row.n >= k:
                thoughts = naive_row(model, row.prefix, k + 1, [])[1]
                states.append(thoughts[k] @ project.weight.T + project.bias)
        C = torch.stack(states).T.cov() if len(states) > 1 else torch.zeros(2048, 2048, dtype=torch.float64)
        variance = (C.diagonal() + 0.001).sqrt()
        others = C.square().sum(1) - C.diagonal().square()
        expected = expected + (l_1 * (1 - variance).clamp(min=0) + l_2 * others).mean() / (most + 1)
    total, count = objective(collate(rows))["seq_vcr"]
    assert count == 1
    assert_close(total, expected, 1e-9)
    ours, theirs = gradients(model, total), gradients(model, expected)
    for key, gradient in ours.items():
        assert_close(gradient, theirs[key], 1e-9)
    assert torch.autograd.grad(objective(collate(rows))["seq_vcr"][0], project.weight)[0].norm() > 0
