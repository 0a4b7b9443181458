"""
Partial backpropagation: no gradient goes into a row's thoughts but the last so many. Less memory, less exact.

    python train.py configs/gsm8k.py --method=coconut+cut --backprop_thoughts=2
"""

import torch

from coconut import Coconut
from config import option

settings = {"backprop_thoughts": (int, option(1, "gradient only through a row's last so many thoughts", least=1))}


class Cut(Coconut):
    def __init__(self, base, cfg, tok):
        super().__init__(base, cfg.feedback)
        self.keep = cfg.backprop_thoughts

    def make_thoughts(self, h, n, past):
        """As Coconut's, but what rows have read early is cut off; n (B,) on the CPU."""
        N, n_cpu = int(n.max()), n
        n = n.to(h[-1].device, non_blocking=True)
        fed, places = [h[-1][:, :0]], [h]
        for i in range(N):
            fed.append(self.feedback(h, self, i))
            if i < N - 1:
                h, past = self.read(fed[-1], (i < n)[:, None], past)
                if torch.is_grad_enabled():
                    h, past = cut_gradient(i < n_cpu - self.keep, h, past)
                places.append(h)
        return torch.cat(fed, 1), n, places, past


def cut_gradient(rows, states, past):
    """The same states and past, but no gradient goes into what these rows (B,), bool on the CPU, have read last."""
    on_device = rows.to(states[0].device, non_blocking=True)

    def cut(x):
        if rows.all():
            return x.detach()  # where() would keep the graph's memory
        return torch.where(on_device.view(-1, *[1] * (x.dim() - 1)), x.detach(), x)

    if not rows.any():
        return states, past
    layers = tuple((*passes[:-1], tuple(map(cut, passes[-1]))) for passes in past.layers)
    return [cut(x) for x in states], past._replace(layers=layers)


make_model = Cut
