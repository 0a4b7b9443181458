"""
How often the likeliest token of a thought's state is one that it should be: what sets and lotus show while they train.
"""

import torch

from checkpoint import team
from evaluate import batches_of, precision


def hits(model, problems, stage, cfg, tok, targets_of, first):
    """{"thought_1": share of the problems, ...}, only where there is something to predict.

    targets_of(batch) -> (B, N, W) int64: the tokens that the states, from number `first` on, should predict; none: < 0.
    """
    device, found = next(model.parameters()).device, []
    for batch, own in batches_of(problems, stage, cfg, tok, device):
        with precision(cfg, device), torch.no_grad():
            thinking = model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix)
            top = model.head(thinking.states[:, first:]).argmax(-1, keepdim=True)  # (B, N, 1)
        targets = targets_of(batch)
        right, asked = (targets == top).any(-1), (targets >= 0).any(-1)
        if own:
            found += zip(right.tolist(), asked.tolist())
    found, shares = team().gather(found), {}
    for k in range(max(len(asked) for _, asked in found)):
        of_all = [right[k] for right, asked in found if k < len(asked) and asked[k]]
        if of_all:
            shares[f"thought_{k + 1}"] = sum(of_all) / len(of_all)
    return shares
