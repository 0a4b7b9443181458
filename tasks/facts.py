"""
Weights that look facts up, in tasks where a fact is worded otherwise than as "a b |" (checkpoint.induction).

In "Anna is the mother of Bob." what is looked up stands five tokens before, and who asks for Bob's mother needs what
stands before: so Bob fetches Anna in the first layer, and in the second, whoever has Bob in mind finds this Bob, and
takes her. train.py calls fit() if this file is there.
"""

import math
from collections import Counter, defaultdict
from itertools import islice

import torch
from torch import nn

import checkpoint


def fit(run):
    """Fit the initial weights to this task's distance, or say what --init=induction would do."""
    cfg, problems = run.cfg, run.all_problems[0]["train"]
    if cfg.init_from != "scratch" or cfg.model != "gpt2":
        return
    distance = step_distance(problems)
    if distance is not None:
        where = f"{abs(distance)} token{'' if abs(distance) == 1 else 's'} {'after' if distance > 0 else 'before'} it"
        does = "looks there" if cfg.init == "induction" else "would look there from the first training step on"
        print(f"{cfg.data_dir[0]}: in the questions, what follows a step stands {where}: --init=induction {does}")
    elif cfg.init == "induction":
        print(f"{cfg.data_dir[0]}: what follows a step has no fixed place in the questions: --init=induction")
        print("    looks one token after it (docs/own_data.md)")
    if cfg.init == "induction" and distance not in (None, 1):  # it has been drawn for 1
        induction(run.model.base, distance)


def step_distance(problems):
    """How many tokens after a step the next one stands in the question, in most problems; negative: before it.

    In "a b | b c |" with the steps b, c it is 1; in "Cid is the son of Bob. Bob is the son of Al." with Bob, Al it is
    5. None if there is no such distance in 90 % of the pairs, of steps of one token, in the first 1,000 problems.
    """
    counts, n = Counter(), 0
    for question, steps, _ in islice(problems, 1000):
        places = defaultdict(list)
        for i, token in enumerate(question):
            places[token].append(i)
        for a, b in zip(steps, steps[1:]):
            if len(a) == len(b) == 1 and a != b:
                counts.update({j - i for i in places[a[0]] for j in places[b[0]]})
                n += 1
    best = max(counts, key=lambda d: (counts[d], -abs(d), d), default=None)
    return best if counts[best] >= 0.9 * n > 0 else None


def induction(model, distance=1):
    """Draw the weights of a GPT-2 anew; what is not named here begins as GPT-2's.

    What is looked up stands `distance` tokens after that by which it is looked up; negative: so many before it.
    """
    if distance == 1:
        checkpoint.induction(model)
        return
    checkpoint.induction(model, abs(distance), tell_the_next if distance > 0 else look_before)
    if model.config.n_head > 2:  # all that head 1 tells is said as loudly as it was found
        C, hs, first = model.config.n_embd, model.config.n_embd // model.config.n_head, model.h[0].attn
        with torch.no_grad():
            first.c_proj.weight[:, hs : 2 * hs] = first.c_attn.weight[2 * C :][hs : 2 * hs].T


def look_at_neighbour(model):
    """Sentences: "Who is the mother of Bob?" So head 1 tells each token the one before it, as if that stood here."""
    C, hs = model.config.n_embd, model.config.n_embd // model.config.n_head
    q, k, _ = model.h[0].attn.c_attn.weight.split(C)
    speed = math.pi * (torch.arange(C // 2) + 0.5) / (C // 2)
    nn.init.normal_(k[hs : 2 * hs], std=math.sqrt(2 / C))
    q[hs : 2 * hs] = k[hs : 2 * hs] @ checkpoint.rotation(speed)


@torch.no_grad()
def tell_the_next(model):
    """What is looked up stands after: head 0 has written there by what, and head 1 says it in the same words."""
    C, hs = model.config.n_embd, model.config.n_embd // model.config.n_head
    if model.config.n_head > 2:
        look_at_neighbour(model)
        v = model.h[0].attn.c_attn.weight[2 * C :]
        v[hs : 2 * hs] = v[:hs]
    checkpoint.look_up(model)


@torch.no_grad()
def look_before(model):
    """What is looked up stands before: head 0 has fetched it to the same token, elsewhere in the text."""
    C, heads = model.config.n_embd, model.config.n_head
    hs, first = C // heads, model.h[0].attn
    if heads > 2:
        look_at_neighbour(model)
    reads, says = first.c_attn.weight[2 * C :][:hs], first.c_proj.weight[:, :hs]
    for block in model.h[1:]:
        q, k, v = block.attn.c_attn.weight.split(C)
        nn.init.normal_(q, std=math.sqrt(3 / C))
        k.copy_(q)  # the same token, elsewhere in the text, matches who is looked for
        v.copy_(says.T.repeat(heads, 1))  # in each head: who was written there ...
        block.attn.c_proj.weight.copy_(0.6 * reads.T.repeat(1, heads))  # ... becomes what is said
