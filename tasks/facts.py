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


def fit(run):
    """Fit the initial weights to this task's distance, or say what --init=induction would do."""
    cfg, problems = run.cfg, run.all_problems[0]["train"]
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


@torch.no_grad()
def induction(model, distance=1):
    """Draw the weights of a GPT-2 anew; what is not named here begins as GPT-2's.

    What is looked up stands `distance` tokens after that by which it is looked up; negative: so many before it.
    """
    C, hs, first = model.config.n_embd, model.config.n_embd // model.config.n_head, model.h[0].attn
    nn.init.normal_(model.wte.weight, std=0.28)
    # Positions are points on circles that turn at C / 2 different speeds, so a place before is one rotation away.
    speed = math.pi * (torch.arange(C // 2) + 0.5) / (C // 2)
    angle = torch.arange(model.config.block_size)[:, None] * speed
    model.wpe.weight.copy_(0.28 * math.sqrt(2) * torch.cat((angle.sin(), angle.cos()), 1))

    def back(places):  # wpe[t] back(n)^T = wpe[t - n]
        cos, sin = (places * speed).cos().diag(), (places * speed).sin().diag()
        return torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)))

    q, k, v = first.c_attn.weight.split(C)  # (C, C) each: rows are outputs, and the first hs of them head 0's
    for w in q, k:
        nn.init.normal_(w, std=0.02)
    nn.init.normal_(k[:hs], std=math.sqrt(2 / C))
    q[:hs] = k[:hs] @ back(abs(distance))
    nn.init.orthogonal_(v)
    nn.init.orthogonal_(first.c_proj.weight)
    reads, says = v[:hs].clone(), first.c_proj.weight[:, :hs].clone()
    writes = first.c_proj.weight[:, :hs] @ v[:hs]  # what head 0 of the first layer adds to x, of what it looks at
    first.c_proj.weight.mul_(0.4)
    if distance != 1 and model.config.n_head > 2:
        # Sentences: "Who is the mother of Bob?" So head 1 tells each token the one before it, as if that stood here.
        nn.init.normal_(k[hs : 2 * hs], std=math.sqrt(2 / C))
        q[hs : 2 * hs] = k[hs : 2 * hs] @ back(1)
        if distance > 0:
            v[hs : 2 * hs] = v[:hs]  # in the words in which keys say what stands before: see writes
        first.c_proj.weight[:, hs : 2 * hs] = v[hs : 2 * hs].T
    for block in model.h[1:]:
        q, k, v = block.attn.c_attn.weight.split(C)
        nn.init.normal_(q, std=math.sqrt(3 / C))
        if distance > 0:
            k.copy_(q @ writes.T)  # who was written there matches who is looked for
            nn.init.normal_(v, std=math.sqrt(1 / C))
            block.attn.c_proj.weight.copy_(0.6 * v.T)  # what is found becomes what is said
        else:
            k.copy_(q)  # the same token, elsewhere in the text, matches who is looked for
            v.copy_(says.T.repeat(model.config.n_head, 1))  # in each head: who was written there ...
            block.attn.c_proj.weight.copy_(0.6 * reads.T.repeat(1, model.config.n_head))  # ... becomes what is said
    for block in model.h:
        nn.init.normal_(block.mlp.c_proj.weight, std=0.03)
    # A hidden state that is fed back is as long as an embedding: thoughts are read as words are, and logits, which are
    # products of the two, are near 1 as usual.
    model.ln_f.weight.fill_(0.28)
