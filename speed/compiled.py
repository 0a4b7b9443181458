"""
--speed=compiled: torch.compile for training, once for all blocks. Minutes at the start; for a GPU.
"""

import torch

from config import UserError


def speed_up(model):
    """Compile the blocks of a Coconut's base model: some variants, for prefix, thoughts and suffix."""
    if getattr(model, "fast", False):
        raise UserError("speed: fast is for a CPU, compiled for a GPU: expected one of them")
    torch._dynamo.config.recompile_limit = 64
    blocks = model.base.h
    compiled = torch.compile(type(blocks[0]).forward, dynamic=True)
    for block in blocks:
        block.forward = with_gradients(block, compiled)


def with_gradients(block, compiled):
    plain = block.forward

    def forward(*args):
        return compiled(block, *args) if torch.is_grad_enabled() else plain(*args)

    return forward
