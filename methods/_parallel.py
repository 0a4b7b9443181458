"""
What PCCoT and LOTUS share: all thoughts at once, some times over, each time from the ones before.
"""

import torch

from coconut import Coconut
from tokenizer import PAUSE


class Parallel(Coconut):
    """All thoughts begin as <pause>; again() says what becomes of them in a pass."""

    def __init__(self, base, cfg, tok):
        super().__init__(base, cfg.feedback)
        self.passes, self.pause = cfg.passes, tok.encode_single_token(PAUSE)

    def start(self, N):
        """What the thoughts begin as, (1, N, C)."""
        pause = torch.full((1, N), self.pause, device=next(self.parameters()).device)
        return self.embed(pause) + self.feedback.vectors(0, N)

    def make_thoughts(self, h, n, past):
        N = int(n.max())
        if N == 0:
            return super().make_thoughts(h, n, past)
        n = n.to(h[-1].device, non_blocking=True)
        real = torch.arange(N, device=n.device) < n[:, None]  # (B, N)
        thoughts = self.start(N).expand(len(n), -1, -1)  # (B, N, C)
        for _ in range(self.passes):
            states, _ = self.read(thoughts, real, past)  # always on the same past: the question
            thoughts = self.again(h, states)
        return thoughts, n, [h], past
