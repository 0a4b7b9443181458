"""
What CODI and PCCoT share: the same model also writes the steps, and its states before the answer are the example.
"""

import torch
from torch.nn import functional as F

import curriculum
from config import option
from curriculum import Row

settings = {
    "teacher_writes": (str, option("without_last", "steps that the teacher writes: the last would give the answer away "
                                   "(CODI)", ("without_last", "all"))),
}  # fmt: skip


def change_row(row, problem, stage, cfg, tok, rng=None):
    """With the teacher's Row, and where in both suffixes the answer begins, after what marks it."""
    steps = problem.steps if cfg.teacher_writes == "all" else problem.steps[:-1]
    written = sum(steps, []) + problem.answer
    # the answer begins with the first token that reaches past the bytes of its mark
    mark = len(cfg.answer_format.partition("{}")[0].encode())
    begins = next(i for i in range(len(problem.answer)) if len(tok.decode_bytes(problem.answer[: i + 1])) > mark)
    from_end = len(problem.answer) - begins
    teacher = Row(problem.question, 0, written, written, extra={"answer": len(written) - from_end})
    return row._replace(extra=row.extra | {"answer": len(row.suffix) - from_end, "teacher": teacher})


def before(thinking, place):
    """The states, of each layer, (B, C), that predict suffix[:, place] after a Thinking; place (B,) int64."""
    row = torch.arange(len(place), device=thinking.n.device)
    place = place.to(thinking.n.device, non_blocking=True)
    found = []
    for layer, after in zip(thinking.layers, thinking.after):
        own = layer[row, thinking.n][:, None]  # (B, 1, C): at the row's last thought, or the end of its prefix
        found.append(torch.cat((own, after), 1)[row, place])
    return found


class Objective(curriculum.Objective):
    """Losses: what is written, what the teacher writes, and how far the states before the answer are from its."""

    weights = {"teacher": 1.0, "distance": 1.0}
    first_layer = 0  # compared are the states from this one on; 0 is the input

    @property
    def wanted(self):
        return not self.weights.keys().isdisjoint(("teacher", "distance"))

    def counts(self, batch):
        if not self.wanted:
            return super().counts(batch)
        scored = (batch.extra["teacher"].labels != -100).sum()
        return super().counts(batch) | {"teacher": scored, "distance": len(batch.n)}

    def losses(self, thinking, batch):
        if not self.wanted:
            return super().losses(thinking, batch)
        teacher = batch.extra["teacher"]._replace(past=batch.past)
        taught = self.think(teacher)
        own, example = before(thinking, batch.extra["answer"]), before(taught, teacher.extra["answer"])
        losses = {"teacher": self.model.ce(taught, teacher.labels)[1], "distance": self.distance(own, example)}
        return super().losses(thinking, batch) | losses

    def distance(self, own, example):
        """SmoothL1 / std, averaged over the C dimensions and the layers, summed over rows; states (B, C) of each layer.

        The teacher gets no gradient. std is its, over the same C numbers: if it were that of a batch, a row's loss
        would depend on the others.
        """
        found = []
        for a, b in [*zip(own, example)][self.first_layer :]:
            b = b.detach()
            found.append(F.smooth_l1_loss(a, b, reduction="none").mean(1) / b.std(1))
        return sum(found).sum() / len(found)
