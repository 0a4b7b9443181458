"""
Weights that look up facts in sentences from the beginning, and how far away they find them (tasks/facts.py).
"""

import pytest
import torch
from helpers import FORMATS, hops_flags

import train
from checkpoint import induction
from config import parse
from curriculum import Problem, config_class
from model import GPT, GPTConfig
from tasks import facts, prepare_family
from test_latent import attention


@torch.no_grad()
@pytest.mark.parametrize("distance", [1, 4, -1, -5])
def test_facts_in_sentences_are_found_at_once(distance):
    """Catches a distance in the wrong direction, and a head that finds the right place but says something else.

    Nine sentences of seven tokens: five are always the same, and two are names, one `distance` after the other.
    """
    back, found, said = [], 0, 0
    for seed in range(12):  # of untrained weights some draws are lucky
        torch.manual_seed(seed)
        model = GPT(GPTConfig(2, 4, 128, 100, 60))
        facts.induction(model, distance)
        key, value = (0, distance) if distance > 0 else (-distance, 0)  # where one looks up by, and what one looks up
        there = 7 * torch.arange(9) + max(key, value)  # the later of the two knows both
        for _ in range(20):
            names, text = torch.randperm(40)[:18].view(9, 2), torch.arange(50, 57).repeat(9, 1)
            text[:, key], text[:, value] = names.T
            x = model.wte(torch.cat((text.flatten(), names[4, :1]))) + model.wpe.weight[:64]  # who belongs to this one?
            after, second = model.h[0](x[None], None)[0][0], model.h[1]
            back.append(attention(model.h[0], x, 0).diagonal(-abs(distance))[7:].mean().item())
            looks = sum(attention(second, after, head)[-1, :63] for head in range(4))
            found += looks[there].argmax().item() == 4
            v = second.attn.c_attn(second.ln_1(after[there[4]]))[256:]
            said += (model.wte.weight[:40] @ second.attn.c_proj(v)).argmax().item() == names[4, 1].item()
    assert sum(back) / len(back) > 0.4
    assert found > 36 and said > 36, (found, said)  # of 240, by chance 27 and 6


@torch.no_grad()
@pytest.mark.parametrize("distance", [2, 4])
def test_a_sign_behind_the_name_asks_for_it(distance):
    """Catches a "?" that is told the name before it, but asks in other words than those in which keys answer."""
    torch.manual_seed(2)
    model = GPT(GPTConfig(2, 4, 128, 100, 60))
    facts.induction(model, distance)
    (C, hs), first = (128, 32), model.h[0].attn
    v, says = first.c_attn.weight[2 * C :], first.c_proj.weight
    told, known = (model.wte.weight @ (says[:, part] @ v[part]).T for part in (slice(hs, 2 * hs), slice(hs)))  # (V, C)
    q, k, _ = model.h[1].attn.c_attn.weight.split(C)
    found = ((told @ q.T) @ (known @ k.T).T).argmax(1)
    assert (found == torch.arange(60)).float().mean() > 0.9


def test_the_distance_of_one_is_the_ground_floors():
    """Catches two ways to draw the same weights that have come apart."""
    weights = []
    for draw in induction, lambda model: facts.induction(model, 1):
        torch.manual_seed(3)
        model = GPT(GPTConfig(2, 4, 32, 16, 20))
        draw(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_how_far_from_a_step_the_next_one_stands():
    """Catches a distance in the wrong direction, steps of several tokens, and one that holds for too few pairs."""
    after = Problem([1, 2, 0, 2, 3, 0, 3, 4], [[2], [3], [4]], [9])
    before = Problem([2, 7, 1, 0, 3, 7, 2, 0, 4, 7, 3], [[2], [3], [4]], [9])
    long = Problem([1, 2, 0, 2, 3], [[1, 2], [2, 3]], [9])
    assert facts.step_distance([after]) == 1 and facts.step_distance([before]) == -2
    assert facts.step_distance([long]) is None and facts.step_distance([]) is None
    assert facts.step_distance([after] * 9 + [before] * 2) is None


@pytest.mark.parametrize("init", ["induction", "gpt2"])
def test_a_run_begins_with_weights_that_fit_its_task(init, tmp_path, monkeypatch, capsys):
    """Catches weights for another distance, or a GPT-2's that are drawn anew although nobody asked for it."""
    monkeypatch.chdir(tmp_path)
    prepare_family.main(["--train=60", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), *(f"--{k}={v}" for k, v in FORMATS.items()), "--block_size=99", f"--init={init}"]
    drawn = []
    monkeypatch.setattr(facts, "induction", lambda model, distance: drawn.append((type(model), distance)))
    run = train.Run(parse(config_class, [*flags, "--n_layer=2", "--n_head=2", "--n_embd=32"], ""))
    distance = facts.step_distance(run.problems["train"])
    assert distance not in (None, 1) and drawn == ([(GPT, distance)] if init == "induction" else [])
    assert f"stands {abs(distance)} tokens " in capsys.readouterr().out
