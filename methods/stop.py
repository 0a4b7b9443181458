"""
A model that says itself when it has thought enough: it learns to stop after as many thoughts as the stage gives.

The paper's classifier (section 4). --method=coconut+stop, or with any other method whose thoughts come in turn.
"""

import curriculum
from methods import _stopping

make_model = _stopping.Stopping


def change_row(row, problem, stage, cfg, tok, rng=None):
    return row._replace(extra=row.extra | {"most": _stopping.most(stage, cfg)})


class Objective(curriculum.Objective):
    weights = {"stop": 1.0}

    def counts(self, batch):
        return super().counts(batch) | {"stop": len(batch.n)}

    def losses(self, thinking, batch):
        """stop: -log of the chance that the thinking of a row ends after just n thoughts, as its stage gave it."""
        n = thinking.n[:, None]
        logits = self.model.stop_head(thinking.states)[..., 0]  # (B, N+1)
        log_p = _stopping.chances(logits, n + 1)  # n + 1: at n itself the head must say so; chances() would force it
        return super().losses(thinking, batch) | {"stop": -log_p.gather(1, n).sum()}
