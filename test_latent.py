"""
The proof that the fast code computes what the paper says.   python -m pytest test_latent.py

Each test names the mistake that it would catch. `naive_*` is the slow truth: one row at a time, no cache, no padding,
attention by hand, the whole sequence computed again for every thought. Later methods, other base models and faster ways
to compute the same are held against the same truth in tests/methods, tests/pretrained and tests/speed.
"""

import math
import os

import pytest
import torch
from torch.nn import functional as F

import train
from checkpoint import induction
from coconut import Coconut
from config import TrainConfig
from curriculum import Objective, Row
from data import collate
from feedback import Vector
from model import GPT, GPTConfig

VOCAB, BLOCK = 23, 40
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # also in the commands that tests run


@pytest.fixture
def tiny():
    """Makes random models whose weights are large enough for every path to matter: biases and LayerNorms too."""

    def make(dtype=torch.float64, seed=0, n_layer=2, feedback="last"):
        torch.manual_seed(seed)
        base = GPT(GPTConfig(n_layer=n_layer, n_head=3, n_embd=24, block_size=BLOCK, vocab_size=VOCAB))
        return enlarge(Coconut(base, feedback).to(dtype)).eval()

    return make


def enlarge(model):
    """Add random numbers to all weights."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def objective_of(model):
    return Objective(model, TrainConfig(), None)


def embeddings(model):
    return model.embed(torch.arange(model.config.vocab_size))


def naive_gpt(model, x, fixed=slice(0)):
    """Hidden states after ln_f (T, C) of the input embeddings x (T, C)."""
    return naive_states(model, x, fixed)[-1]


def naive_states(model, x, fixed=slice(0)):
    """[the input, after each block, ...], and the last one after ln_f, (T, C) each, after the GPT-2 paper's code.

    No gradient goes into the keys and values of the `fixed` positions.
    """
    base, (T, C), nh = model.base, x.shape, model.config.n_head
    if type(base) in NAIVE_BASES:
        return NAIVE_BASES[type(base)](base, x, fixed)

    def norm(x, ln):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * ln.weight + ln.bias

    x = x + base.wpe.weight[:T]
    states = [x]
    for block in base.h:
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
    return [*states[:-1], norm(x, base.ln_f)]


NAIVE_BASES = {}  # {class: the same for another base model}


def naive_row(model, prefix, n, suffix, cut=0):
    """Logits (S+1, V) that predict suffix[0], suffix[1], ... and what follows, and the thoughts, for one row.

    For feedback=last, with a learned vector or without. cut: so many of its thoughts get no gradient.
    """
    vectors = [part.weight for part in model.feedback.parts if isinstance(part, Vector)]
    x, fixed = embeddings(model)[prefix], slice(len(prefix), len(prefix) + cut)
    for i in range(n):
        h = naive_gpt(model, x, fixed)[-1:]
        h = h.detach() if 0 < i <= cut else h
        x = torch.cat((x, sum((weight[i] for weight in vectors), h)))
    x = torch.cat((x, embeddings(model)[suffix]))
    h = naive_gpt(model, x, fixed)[len(prefix) + n - 1 :]
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
    """The rows as tensors for Coconut.forward; padded with a token that would be noticed if it were read."""
    prefix, n, suffix, labels = zip(*(row[:4] for row in rows))

    def pad(lists, value):
        width = max(map(len, lists)) + extra_padding
        return torch.tensor([x + [value] * (width - len(x)) for x in lists])

    return pad(prefix, 7), torch.tensor([len(x) for x in prefix]), torch.tensor(n), pad(suffix, 7), pad(labels, -100)


def naive_loss(model, rows):
    logits = [naive_row(model, row.prefix, row.n, row.suffix)[0][:-1] for row in rows]
    return F.cross_entropy(torch.cat(logits), torch.tensor(sum((row.labels for row in rows), [])))


def gradients(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


def assert_close(a, b, tolerance):
    """Relative to the largest value: |a - b| <= tolerance * max |b|."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max(), f"off by {(a - b).abs().max() / b.abs().max():.1e}"


def assert_same_gradients(model, loss, expected, tolerance=1e-10):
    """Of two losses, for all weights of a module; where one has none, the other must have zeros."""
    settings = {"retain_graph": True, "materialize_grads": True}
    ours, theirs = (torch.autograd.grad(x, list(model.parameters()), **settings) for x in (loss, expected))
    for a, b in zip(ours, theirs):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_all_gradients_equal_the_naive_recomputation(dtype, tolerance, tiny):
    """Catches a detached thought, a wrong position or mask, a wrong predecessor of suffix[0], a missing 1/n_scored."""
    model, rows = tiny(dtype=dtype), some_rows()
    logits, loss = model(*batch(rows))
    expected = naive_loss(model, rows)
    assert logits.shape == (sum(label != -100 for row in rows for label in row.labels), VOCAB)
    assert_close(loss, expected, tolerance)
    assert_same_gradients(model, loss, expected, tolerance)


def test_where_thoughts_stand(tiny):
    """Catches a suffix that goes on at the wrong place, another thought's vector, given thoughts placed otherwise."""
    model, rows = tiny(feedback="last+vector"), some_rows()
    inputs = batch(rows)
    expected, loss = naive_loss(model, rows), model(*inputs)[1]
    assert_close(loss, expected, 1e-10)
    assert_same_gradients(model, loss, expected)
    assert abs(naive_loss(tiny(), rows) - expected) > 1e-3
    own = model.think(*inputs[:4])
    assert_close(model.think(*inputs[:4], given=own.fed).predicting, own.predicting, 1e-10)
    tokens = model.generate(*inputs[:3], max_new_tokens=50)
    for (prefix, n, *_), written in zip(rows[:3], tokens.tolist()):
        expected = naive_generate(model, prefix, n, [], 50, None)
        assert written[: len(expected)] == expected and not any(written[len(expected) :])


def test_gradients_in_bfloat16(tiny):
    """Catches products of different types, which autocast does not put right in a backward pass."""
    model, rows = tiny(dtype=torch.float32), some_rows(size=4)
    expected = gradients(model, naive_loss(model, rows))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*batch(rows))[1]
    for name, gradient in gradients(model, loss).items():
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), expected[name].flatten(), 0) > 0.98, name


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
    whole = gradients(model, model(*batch(rows))[1])["base.wte.weight"][1]
    read, calls = model.read, []

    def read_detached(x, *where):
        calls.append(x)
        return read(x if len(calls) == 1 else x.detach(), *where)

    model.read = read_detached
    cut = gradients(model, model(*batch(rows))[1])["base.wte.weight"][1]
    assert len(calls) == 4  # n thoughts cost n + 1 passes
    assert (whole - cut).abs().max() > 1e-3 * whole.abs().max()


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


def test_micro_batches_do_not_change_the_step(tiny):
    """Catches a mean of means: the micro-batches hold different numbers of scored tokens."""
    weights = []
    for size in (0, 1, 2, 3):
        model = tiny()
        cfg = TrainConfig(micro_batch_size=size, grad_clip=0.5)
        objective = objective_of(model)
        loss = train.train_step(objective, torch.optim.SGD(model.parameters(), lr=1.0), some_rows(), cfg)["loss"]
        weights.append(torch.cat([loss[None], *(p.flatten() for p in model.parameters())]))
        assert_close(weights[-1], weights[0], 1e-10)
    assert (weights[0][1:] - torch.cat([p.flatten() for p in tiny().parameters()])).abs().max() > 1e-3


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
    for i, block in enumerate(model.base.h):
        x = block(x, None)[0]
        assert_close(states[i + 1], x if i < 2 else model.base.ln_f(x), 1e-10)
    assert len(states) == 4


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


def test_the_loss_is_a_sum_and_a_count(tiny):
    """Catches an objective that differs from the model's own loss, or counts what is not scored."""
    model, rows = tiny(), some_rows()
    objective, inputs = objective_of(model), collate(rows)
    total, count = objective(inputs)["ce"], objective.counts(inputs)["ce"]
    assert count == sum(label != -100 for row in rows for label in row.labels)
    assert_close(total / count, naive_loss(model, rows), 1e-10)


def test_going_on_from_a_past_is_like_reading_it_all(tiny):
    """Catches positions or masks that begin anew after what several rows have read together."""
    model, rows, first = tiny(), some_rows(seed=5, size=6), [8, 9, 10, 11]
    expected = naive_loss(model, [row._replace(prefix=first + row.prefix) for row in rows])
    prefix, prefix_len, n, suffix, labels = batch(rows)
    _, past = model.read(model.embed(torch.tensor([first])))
    past = past.select(torch.zeros(len(rows), dtype=torch.int64))
    thinking = model.think(prefix, prefix_len, n, suffix, past=past)
    scored = labels != -100
    loss = F.cross_entropy(model.head(thinking.predicting[:, :-1][scored]), labels[scored])
    assert_close(loss, expected, 1e-10)
    assert_same_gradients(model, loss, expected)


def naive_top(p, share):
    """The likeliest tokens that have `share` of the probability together, renormalised; p (V,)."""
    kept, total = torch.zeros_like(p), 0.0
    for token in p.argsort(descending=True):
        if total < share:
            kept[token] = 1
        total += p[token].item()
    return p * kept / (p * kept).sum()


def naive_soft(h, model, i, temperature=1, share=1):
    E = embeddings(model)
    return naive_top((h[-1] @ E.T / temperature).softmax(-1), share) @ E


NAIVE_FEEDBACKS = {  # thought i, from the hidden states h, (C,) each, at the last position; a model of three layers
    "last": lambda h, m, i: h[3],
    "layer:-2": lambda h, m, i: h[2],
    "layer:-4": lambda h, m, i: h[0],
    "layer:-2+embedding": lambda h, m, i: h[2] + h[0],
    "embedding": lambda h, m, i: h[0],
    "zero": lambda h, m, i: 0 * h[3],
    "soft": naive_soft,
    "soft:0.5:0.7": lambda h, m, i: naive_soft(h, m, i, 0.5, 0.7),
    "vector": lambda h, m, i: m.feedback.parts[0].weight[i],
    "soft+vector": lambda h, m, i: naive_soft(h, m, i) + m.feedback.parts[1].weight[i],
}


@pytest.mark.parametrize("name", NAIVE_FEEDBACKS)
def test_what_is_fed_back(name, tiny):
    """Catches a layer that is off by one, a mask with a gradient, and weights that get none."""
    check_feedback(tiny(n_layer=3, feedback=name), NAIVE_FEEDBACKS[name])


def check_feedback(model, thought):
    """Loss and gradients against naive thoughts, thought(h, model, i)."""
    rows, logits, E = some_rows(size=4), [], embeddings(model)
    for row in rows:
        x = E[row.prefix]
        for i in range(row.n):
            h = [layer[-1] for layer in naive_states(model, x)]
            x = torch.cat((x, thought(h, model, i)[None]))
        h = naive_gpt(model, torch.cat((x, E[row.suffix])))[len(x) - 1 : -1]
        logits.append(h @ E.T)
    expected = F.cross_entropy(torch.cat(logits), torch.tensor(sum((row.labels for row in rows), [])))
    loss = model(*batch(rows))[1]
    assert_close(loss, expected, 1e-10)
    assert_same_gradients(model, loss, expected)


@pytest.mark.parametrize("name", NAIVE_FEEDBACKS)
def test_thinking_never_waits_for_a_gpu(name, tiny):
    """Catches what asks for a number between two thoughts, for which all work on a GPU has to come to its end, and
    most of what is made on the wrong device: on "meta" there are shapes, but no numbers."""
    think_without_numbers(tiny(n_layer=3, feedback=name))


def think_without_numbers(model):
    model, (prefix, prefix_len, n, suffix, _) = model.to("meta"), batch(some_rows())
    prefix, prefix_len, suffix = (x.to("meta") for x in (prefix, prefix_len, suffix))
    model.think(prefix, prefix_len, n, suffix).predicting.sum().backward()
    for wait in (lambda: int(prefix_len.max()), lambda: prefix[prefix > 3], lambda: bool((prefix > 3).all())):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()  # such a thing would have been noticed


def test_more_thoughts_than_vectors_share_the_last_one(tiny):
    """Catches an index past the end, and a thought whose vector is not taken off before it is read by the head."""
    model = tiny(feedback="last+vector")
    weight, thoughts = model.feedback.parts[1].weight, torch.randn(70, 24, dtype=torch.float64)
    assert torch.equal(model.feedback.vectors(60, 10)[4:], weight[-1].expand(6, -1))
    assert_close(model.bare(thoughts)[:64], thoughts[:64] - weight, 1e-12)
    assert torch.equal(tiny().bare(thoughts), thoughts)


def attention(block, x, head):
    """Where each position looks (T, T), with one head of a block that gets x (T, C)."""
    (T, C), hs = x.shape, x.size(1) // block.attn.n_head
    q, k, _ = block.attn.c_attn(block.ln_1(x)).split(C, 1)
    part = slice(head * hs, (head + 1) * hs)
    scores = q[:, part] @ k[:, part].T / hs**0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(1)


@torch.no_grad()
def test_what_follows_a_token_is_found_at_once():
    """Catches a rotation the wrong way round, heads that are mixed up, and keys that do not fit what was written."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(2, 2, 128, 100, 60))
    induction(model)
    names, ranks = torch.randperm(50), []
    for place in range(0, 50, 2):  # pairs "a b", and in the end somebody asks for an a
        x = model.wte(torch.cat((names, names[place : place + 1]))) + model.wpe.weight[:51]
        after = model.h[0](x[None], None)[0][0]
        found = sum(attention(model.h[1], after, head)[-1, :50] for head in (0, 1))
        ranks.append((found > found[place + 1]).sum().item())
    back = attention(model.h[0], x, 0)
    assert back.diagonal(-1)[1:].mean() > 0.7  # head 0 of the first layer looks at the place before
    assert attention(model.h[0], x, 1).diagonal(-1).mean() < 0.2  # the other one does not
    assert sum(ranks) / 25 < 12 and ranks.count(0) > 2, ranks  # untrained; by chance 24.5, and half a one


def test_weights_that_look_facts_up_stay_as_they_are():
    """Catches a change of the weights that hops begins with: the README's figures were made with them."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(2, 4, 32, 16, 20))
    induction(model)
    total = torch.cat([p.detach().flatten() for p in model.parameters()]).double().abs().sum().item()
    assert total == pytest.approx(1656.56504, rel=1e-6)  # QR differs from one CPU to another
