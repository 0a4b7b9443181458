"""
CODI (2502.21074): no curriculum, but a teacher, the same model in words (_teacher.py).

Three losses: what the one that thinks writes, what the teacher writes, and the distance of their states, of all layers
and the input, at the last token before the answer. The paper feeds a projection back: --feedback=projection.
"""

from methods import _teacher

base = "no_curriculum"
settings = _teacher.settings
change_row = _teacher.change_row
Objective = _teacher.Objective
