"""
PCCoT (2506.18582): CODI, but all thoughts at once, some times over: each from the state at the one before, a pass ago.

After N passes it is as if N thoughts had come in turn; a few passes are sooner, and nearly that.
"""

import torch

from config import option
from methods import _teacher
from methods._parallel import Parallel

base = "no_curriculum"
settings = _teacher.settings | {
    "passes": (int, option(3, "how often all thoughts are made again", least=1, most=1000)),
}
change_row = _teacher.change_row


class InTurn(Parallel):
    def again(self, h, states):
        """The next thoughts, (B, N, C), from h, before the first, (B, 1, C), and the states at all N, of each layer."""
        before = [torch.cat((first, layer[:, :-1]), 1) for first, layer in zip(h, states)]
        return self.feedback(before, self)


make_model = InTurn


class Objective(_teacher.Objective):
    first_layer = 1  # the input is not compared
