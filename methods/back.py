"""
Steps are replaced from the back: those that stay are read, as if they belonged to the question, before the thinking.

    python train.py configs/hops.py --method=coconut+back

What looks at the replaced steps has to come after it, as in coconut+back+simcot.
"""

from config import UserError
from curriculum import count, kind_of, make_prompt, write_row


def change_row(row, problem, stage, cfg, tok, rng=None):
    if row.extra:
        raise UserError(f"method = {cfg.method!r}: expected back before what looks at thoughts")
    if kind_of(cfg.method).stages != "all":
        raise UserError(f"method = {cfg.method!r}: back has no effect where steps do not go one after the other")
    if not row.replaced:
        return row
    n_left = len(problem.steps) - len(row.replaced)
    _, n = count(len(problem.steps), stage, cfg)
    prompt = make_prompt(sum(problem.steps[:n_left], problem.question), n, cfg, tok)
    return write_row(prompt, problem.answer, problem.steps[n_left:], cfg)
