"""
What other thoughts mean for a model that pauses (lab/questions.py), and that reading pauses in turn changes nothing.
"""

import pytest
import torch
from helpers import FORMATS, hops_flags, only_with, run_to_the_end, words

import data
import prepare_hops
from checkpoint import new_base
from coconut import Coconut
from config import UserError
from curriculum import make_prompt, make_task
from evaluate import most_tokens, solve
from lab import analyze
from lab.questions import LookConfig, Questions, load
from tokenizer import PAUSE, make_tokenizer

RAW = [{"question": "a b b c c d d a start a", "steps": ["b", "c"], "answer": "c"},
       {"question": "a c c b b d d a start b", "steps": ["d", "a"], "answer": "a"},
       {"question": "b a a d d c c b start c", "steps": ["b", "a"], "answer": "a"}]  # fmt: skip


def pausing(**settings):
    """(random model in float64, Questions about RAW)."""
    cfg, _, _ = words(n_layer=3, n_head=2, n_embd=16, **settings)
    tok = make_tokenizer("words", data.find_pieces(RAW, cfg))
    torch.manual_seed(0)
    model = Coconut(new_base(cfg, tok)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model, Questions(model, make_task(cfg, tok), RAW, "raw.json", cfg.max_latent_stage + 1)


@torch.no_grad()
def test_pauses_in_turn_and_pauses_at_once_are_the_same_function():
    """Pause tokens read one after the other, all at once, and as thoughts that are always the same vector: one model.

    Catches a claim that passes alone make a difference: with a causal mask and fixed inputs they cannot.
    """
    model, asked = pausing(method="pause_as_thought")
    cfg, tok = asked.task.cfg, asked.task.tok
    pause = tok.encode_single_token(PAUSE)
    prompts = [make_prompt(p.question, 4, cfg, tok) for p in asked.problems]
    prefix, eot = (torch.tensor([getattr(prompt, name) for prompt in prompts]) for name in ("prefix", "eot"))
    length = torch.full((3,), prefix.size(1))
    at_once = model.think(prefix, length, 0, eot).predicting[:, -1]
    states, past = model.read(model.embed(prefix[:, :-4]))
    for tokens in (*prefix[:, -4:].unbind(1), eot[:, 0]):
        states, past = model.read(model.embed(tokens[:, None]), past=past)
    assert (states[-1][:, 0] - at_once).abs().max() < 1e-10
    vectors = Coconut(model.base, "vector").double()
    vectors.feedback.parts[0].weight.copy_(model.base.wte.weight[pause].expand_as(vectors.feedback.parts[0].weight))
    thought = vectors.think(prefix[:, :-4], length - 4, 4, eot)
    assert (thought.predicting[:, -1] - at_once).abs().max() < 1e-10
    assert asked.model.may_stop is False and torch.equal(thought.fed[0, 0], model.base.wte.weight[pause])
    held = asked.model.think(prefix[:, :-4], length - 4, 4, eot)
    assert (held.predicting[:, -1] - at_once).abs().max() < 1e-10 and held.fed.shape == (3, 4, 6, 2, 8)


@pytest.mark.parametrize("method", ["pause", "pause_as_thought"])
@torch.no_grad()
def test_what_pauses_hold_can_be_given(method):
    """Catches keys where values belong, those of another layer, head or place, and a last pause that keeps its own."""
    model, asked = pausing(method=method)
    cfg, tok, n = asked.task.cfg, asked.task.tok, 2
    prompts = [make_prompt(p.question, n, cfg, tok) for p in asked.problems]
    plain = solve(model, prompts, cfg, tok, most_tokens(asked.problems, cfg))
    own = asked.answer([n] * 3)
    assert [answer.text for answer in own] == [text for text, *_ in plain]
    held = torch.stack([answer.held for answer in own])
    assert held.shape == (3, n if method == "pause_as_thought" else n - 1, 6, 2, 8)
    again = asked.answer([n] * 3, held)
    assert [answer.text for answer in again] == [answer.text for answer in own]
    prompts = [asked.prompt(p, n) for p in asked.problems]
    batch = data.collate([data.Row(*prompt, labels=[]) for prompt in prompts])
    segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
    swapped = asked.model.think(*segments, given=held[[1, 2, 0]].double()).predicting[:, -1]
    for i, other in enumerate((1, 2, 0)):  # by hand: the question's own past, then that of the other's pauses
        P = len(prompts[i].prefix)
        (_, past), pauses = model.read(model.embed(batch.prefix[i : i + 1])), held.size(1)
        tokens = torch.full((1, pauses), tok.encode_single_token(PAUSE))
        _, theirs = model.read(model.embed(torch.cat((batch.prefix[other : other + 1], tokens), 1)))
        layers = [(*own_kv, (k[:, :, P:], v[:, :, P:])) for own_kv, ((k, v),) in zip(past.layers, theirs.layers)]
        real = torch.ones(1, P + pauses, dtype=torch.bool)
        states, _ = model.read(
            model.embed(batch.suffix[i : i + 1]), past=past._replace(real=real, layers=tuple(layers))
        )
        assert (states[-1][0, -1] - swapped[i]).abs().max() < 1e-6


def test_unknown_words_are_said_to_be_unknown(tmp_path, monkeypatch, capsys):
    """Catches "lower --max_thoughts" for a file about something else, whose words are spelt in bytes."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
    flags = [*hops_flags(), *(f"--{k}={v}" for k, v in FORMATS.items()), "--block_size=24"]
    run_to_the_end([*flags, "--steps=1", "--out_dir=out"])
    capsys.readouterr()
    long = {"question": "elephants follow giraffes start elephants", "steps": ["giraffes"], "answer": "giraffes"}
    data.write_files(".", {"long": [long] * 5, "short": [{**p, "question": p["question"] + " zz"} for p in RAW]})
    with pytest.raises(UserError, match="long.json: .* does not know, such as 'elephants', 'follow'"):
        analyze.main(["out", "long.json"])
    load(LookConfig(ckpt="out", data="short.json"))
    said = capsys.readouterr().out
    assert "WARNING: 3 problems of short.json have words that the model does not know, such as 'zz'" in said
    with pytest.raises(UserError, match="lower --max_thoughts"):
        analyze.main(["out", "--max_thoughts=30"])


@only_with("methods/lotus.py")
def test_losses_on_thoughts_are_known(tmp_path, monkeypatch):
    """Catches thoughts that were told what to name, and pass for free ones."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=2 --train=50 --valid=9 --test=9 --out_dir=data".split())
    for method, told in (("lotus", True), ("coconut", False)):
        run_to_the_end([*hops_flags(), "--steps=1", f"--method={method}", f"--out_dir=out/{method}"])
        assert load(LookConfig(ckpt=f"out/{method}"))[0].told == told
