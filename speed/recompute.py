"""
--speed=recompute: activations are computed again when the gradient needs them: slower, with less memory.
"""

import torch
from torch.utils.checkpoint import checkpoint

from config import UserError


def speed_up(model):
    if getattr(model, "fast", False):
        raise UserError("speed: fast keeps what recompute would drop: expected one of them")
    for block in model.base.h:
        block.forward = recomputed(block.forward)


def recomputed(plain):
    def forward(*args):
        return checkpoint(plain, *args, use_reentrant=False) if torch.is_grad_enabled() else plain(*args)

    return forward
