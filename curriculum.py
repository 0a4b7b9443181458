"""
What a problem becomes at each stage, and what is scored: the paper's table 1, figure 2 and section 3.

Coconut with two steps, one thought for each:

    stage 0    question <bot>    -                  <eot> step1 step2 answer eos
    stage 1    question <bot>    thought            <eot> step2 answer eos
    stage 2    question <bot>    thought thought    <eot> answer eos
               prefix            n = 0, 1, 2        suffix; its labels score everything but <eot>

What a later method or a task does otherwise stands in a file of methods/ or tasks/, which its name finds: see the end.
"""

import dataclasses
import math
import re
from functools import lru_cache
from typing import NamedTuple

from torch import nn

from coconut import Coconut, up_to_last
from config import TrainConfig, UserError, settings_of, upstairs
from tokenizer import BOT, EOT, PAUSE


class Kind(NamedTuple):
    """A row of the paper's table 1: what is trained on; with the stage and the settings, make_row follows from it."""

    stages: str  # "all" of the curriculum; only the "first", where every step is written; only the "last": none is;
    # "tokens": all, but what goes are tokens, not steps
    instead: str  # what stands in place of a removed step: "thought", "pause" or nothing
    markers: bool  # whether <bot> and <eot> stand around it


TABLE_1 = {
    #                        stages    instead    markers
    "coconut":          Kind("all",    "thought", True),
    "cot":              Kind("first",  "",        False),
    "no_cot":           Kind("last",   "",        False),
    "icot":             Kind("tokens", "",        False),
    "pause":            Kind("last",   "pause",   False),
    "no_curriculum":    Kind("last",   "thought", True),
    "no_thought":       Kind("all",    "",        False),
    "pause_as_thought": Kind("all",    "pause",   True),
}  # fmt: skip


class Problem(NamedTuple):
    """A worked problem in tokens; the answer begins with answer_format's mark (as in `= j`) and ends in eos."""

    question: list[int]
    steps: list[list[int]]
    answer: list[int]


class Prompt(NamedTuple):
    """What a model is given to answer a question."""

    prefix: list[int]  # the question and <bot>
    n: int  # thoughts
    eot: list[int]  # what it reads after them: [<eot>], or nothing


class Row(NamedTuple):
    """What a model is trained on: the three segments of Coconut.think, in lists of tokens."""

    prefix: list[int]
    n: int  # thoughts
    suffix: list[int]
    labels: list[int]  # as long as the suffix: the token where it is scored, or -100
    n_eot: int = 0  # so many tokens of the suffix are given (<eot>); the rest is what the model should write
    replaced: list = []  # the steps that are not written: what the thoughts, or pauses, stand for
    # what a method wants besides, by name, the same for all its rows: numbers, lists, lists of lists, or further Rows.
    # Never changed in place: row._replace(extra=row.extra | {...})
    extra: dict = {}

    @property
    def prompt(self):
        """What the model is given when it has to answer; extra["most"]: thoughts, if it decides itself how many."""
        return Prompt(self.prefix, self.extra.get("most", self.n), self.suffix[: self.n_eot])


def stages(cfg, longest):
    """(numbers of the stages to train, how many stages the full curriculum has); longest: most steps of a problem.

    Stage max_latent_stage + 1, if there is one, is the paper's final stage: no more thoughts, but no step is written.
    """
    last, which = cfg.max_latent_stage, kind_of(cfg.method).stages
    curriculum = [*range(last + 1)]
    if longest > last and which != "tokens":
        curriculum.append(last + 1)
    return {"first": [0], "last": [last + 1]}.get(which, curriculum), len(curriculum)


def for_stage(values, index):
    """The value for the index-th stage of a run, of a setting with one for each; the last one holds for all further."""
    return values[min(index, len(values) - 1)]


def count(n_steps, stage, cfg):
    """(steps that are not written, thoughts or pauses in their place) at this stage, of a problem with n_steps.

    Stage k takes away k steps and gives k * c_thought thoughts; where there are fewer steps, fewer thoughts as well,
    unless pad_latent_to_max. (The official code gives stage * c_thought to short problems in either case, and only
    evaluates them with fewer.)
    """
    removed = n_steps if stage > cfg.max_latent_stage else min(stage, n_steps)
    n = cfg.c_thought * min(stage if cfg.pad_latent_to_max else removed, cfg.max_latent_stage)
    return removed, n if kind_of(cfg.method).instead else 0


def make_prompt(question, n, cfg, tok):
    """What the model is given to answer a question with n thoughts, or pauses."""
    bot, eot, pause = (tok.encode_single_token(name) for name in (BOT, EOT, PAUSE))
    kind = kind_of(cfg.method)
    prefix = question + [bot] if kind.markers and cfg.markers in ("both", "bot") else question
    after = [eot] if kind.markers and cfg.markers in ("both", "eot") else []  # never predicted: we end the thinking
    if kind.instead == "pause":
        return Prompt(prefix + [pause] * n, 0, after)
    return Prompt(prefix, n, after)


def make_row(problem, stage, cfg, tok, rng=None):
    """One problem at one stage as a Row, for the rows of table 1. rng: where the method is random, it is drawn."""
    removed, n = count(len(problem.steps), stage, cfg)
    replaced, written = problem.steps[:removed], sum(problem.steps[removed:], [])
    if kind_of(cfg.method).stages == "tokens":
        replaced, written = [], without_tokens(sum(problem.steps, []), stage, cfg, rng)
    return write_row(make_prompt(problem.question, n, cfg, tok), written + problem.answer, replaced, cfg)


def write_row(prompt, written, replaced, cfg):
    """The Row of a prompt and the tokens that follow it."""
    # With peek, the place before <eot> is trained on what comes after <eot>, so that thinking has a meaning at once.
    labels = [written[0] if cfg.peek else -100] * len(prompt.eot) + written
    return Row(prompt.prefix, prompt.n, prompt.eot + written, labels, len(prompt.eot), replaced)


def without_tokens(tokens, stage, cfg, rng):
    """iCoT (Deng et al. 2024, 2405.14838): what is left of the steps; they go from the left, now and then some more."""
    more = rng.geometric(1 - math.exp(-4)) - 1 if rng else 0  # in each stage, so that what is drawn next is the same
    if stage >= cfg.max_latent_stage:
        return []
    return tokens[cfg.icot_tokens * stage + more :]


# ---------------------------------------------------------------- what is scored


class Objective(nn.Module):
    """A model with what it is trained for: cross-entropy of what is written (paper section 3).

    Each loss is a sum and a count. A step divides the sum over all of its micro-batches and processes by the count over
    all of them, so it does not matter how its rows are divided up.
    """

    weights = {"ce": 1.0}  # of each loss; a method's add to them, and cfg.losses may say others

    def __init__(self, model, cfg, tok):
        super().__init__()
        self.model, self.task = model, make_task(cfg, tok)
        weights = change_weights(self.all_weights(), cfg.losses)
        self.weights = {name: weight for name, weight in weights.items() if weight}

    @classmethod
    def all_weights(cls):
        """Its own, and those of what it builds on."""
        return {name: weight for c in reversed(cls.__mro__) for name, weight in vars(c).get("weights", {}).items()}

    def counts(self, batch):
        """{loss: by how much its sum is divided}, tensors or numbers; it must not depend on the model."""
        return {"ce": (batch.labels != -100).sum()}

    def think(self, batch):
        """The Thinking about a Batch (data.py)."""
        segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
        return self.model.think(*segments, up_to_last(batch.labels), past=batch.past)

    def losses(self, thinking, batch):
        """{loss: its sum over the batch, a tensor}; no mean: at stage 0 there is no thought, fed is (B, 0, C)."""
        return {"ce": self.model.ce(thinking, batch.labels)[1]} if "ce" in self.weights else {}

    def forward(self, batch):
        batch = batch._replace(past=self.task.read_shared(self.model, batch))
        losses = self.losses(self.think(batch), batch)
        for name in losses.keys() - self.all_weights():
            raise UserError(f"the Objective returns {name!r}, which has no entry in its weights")
        return {name: losses[name] for name in self.weights}

    def own_state(self):
        """The weights that are trained here only (a decoder, ...): kept in ckpt.pt, and no part of the model."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}


def change_weights(weights, changes):
    """The weights with those of texts such as "ce:3"; UserError for a loss that is not there."""
    weights = dict(weights)
    for text in changes:
        name, _, weight = text.partition(":")
        try:
            value = float(weight or 1)
        except ValueError:
            value = math.nan
        if name not in weights or not 0 <= value < math.inf:
            raise UserError(
                f"losses = {text!r}, expected NAME:WEIGHT with a name of {', '.join(weights)}, a weight of at least 0"
            )
        weights[name] = value
    return weights


# ---------------------------------------------------------------- what stands in other files
#
# A file methods/NAME.py has some of these, by these names, whether it defines or imports them, and --method=NAME finds
# them. Several names, as in simcot+seq_vcr, combine:
#     base        the line of table 1 that it builds on, if it is named first; that of coconut if it does not say so
#     settings    {name: (type, option(...))} of its own
#     draw        (cfg, index of the stage, rng) -> {name: what is drawn once for all rows of a step, for their extra}
#     change_row  (row, problem, stage, cfg, tok, rng) -> the Row that is trained on
#     make_model  (base model, cfg, tok) -> a Coconut that thinks otherwise, in training and afterwards; a class will do
#     Objective   a subclass of Objective, above: further losses
#     measure     (model, problems, stage, cfg, tok) -> {name: value}, shown beside the accuracy
HOOKS = "base", "settings", "draw", "change_row", "make_model", "Objective", "measure"


@lru_cache
def methods_of(name):
    """The modules that a method's name stands for, from left to right; UserError if there is no such method."""
    first, *later = dict.fromkeys(name.split("+"))
    modules = [] if first in TABLE_1 else [upstairs("methods", first, known=TABLE_1)]
    modules += [upstairs("methods", part) for part in later]
    for module in modules:
        if module.__name__.startswith("methods._"):
            raise UserError(f"{module.__name__}: no method, but what some have in common")
        if not any(hasattr(module, hook) for hook in HOOKS):
            raise UserError(f"{module.__name__}: none of {', '.join(HOOKS)} is in this file, so it changes nothing")
        if getattr(module, "base", "coconut") not in TABLE_1:
            raise UserError(f"{module.__name__}: base = {module.base!r}, expected one of {', '.join(TABLE_1)}")
        about_thoughts = hasattr(module, "Objective") or hasattr(module, "make_model")
        if about_thoughts and first in TABLE_1 and TABLE_1[first].instead != "thought":
            raise UserError(f"method = {name!r}: {first} does not think")
    return modules


def hooks(cfg, name):
    """What the files of the method have by a name, such as change_row, from left to right."""
    return [getattr(module, name) for module in methods_of(cfg.method) if hasattr(module, name)]


@lru_cache
def kind_of(name):
    """The row of table 1 that a method is, or that the first of its names builds on."""
    first = name.split("+")[0]
    return TABLE_1.get(first) or TABLE_1[getattr(methods_of(first)[0], "base", "coconut")]


def row_for(problem, stage, cfg, tok, rng=None):
    """One problem at one stage as the Row that the method trains on; rng: what is random is drawn (in training)."""
    row = make_row(problem, stage, cfg, tok, rng)
    for change_row in hooks(cfg, "change_row"):
        row = change_row(row, problem, stage, cfg, tok, rng)
    return row


def make_model(base, cfg, tok):
    """A base model that thinks as the method does."""
    makers = hooks(cfg, "make_model")
    if len(makers) > 1:
        raise UserError(f"method = {cfg.method!r}: {len(makers)} of these think, each in its own way: expected one")
    return makers[0](base, cfg, tok) if makers else Coconut(base, cfg.feedback)


def make_objective(model, cfg, tok):
    """What the method trains: cross-entropy, and the losses of all files that its name stands for."""
    return objective_class(cfg)(model, cfg, tok)


def objective_class(cfg):
    """One class with the losses of all files: the last named is asked first, and asks those before it by super()."""
    found = hooks(cfg, "Objective")
    # a class that another one builds on comes with it
    classes = [cls for cls in found if not any(issubclass(other, cls) and other is not cls for other in found)]
    return type("Objective", tuple(reversed(classes)) or (Objective,), {})


class Task:
    """What a task may do otherwise; a file tasks/NAME.py has a Task of its own, and --task=NAME finds it."""

    settings = {}  # {name: (type, option(...))}

    def __init__(self, cfg, tok):
        self.cfg, self.tok = cfg, tok

    def check(self, problems, path):
        """UserError unless the problems of a file are as the task expects them."""

    def rows(self, problem, stage, rng):
        """The Rows that a problem is trained on in one step: it may be drawn anew, or be several."""
        return [row_for(problem, stage, self.cfg, self.tok, rng)]

    def read_shared(self, model, batch):
        """The past from which a Batch's prefixes are read on; None: from the start."""

    def read_answer(self, text):
        """What is graded of a solution: all that follows its mark, such as "###"; None without one, or with several."""
        before, found, answer = text.rpartition(self.cfg.mark)
        if not found or self.cfg.mark in before:
            return None
        return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", answer.strip())  # 1,234 is 1234

    def is_right(self, answer, expected):
        """Whether an answer (None: there is none) is right; both as read_answer returns them."""
        return answer == expected


def task_class(name):
    """The class of a task: that of tasks/NAME.py, or plain Task if there is no name."""
    return upstairs("tasks", str(name), "Task").Task if name else Task


def make_task(cfg, tok):
    """The Task of the settings."""
    return task_class(cfg.task)(cfg, tok)


def config_class(given):
    """TrainConfig, with the settings that come with the method, the task and the base model of {name: value}."""
    modules = [*methods_of(str(given.get("method") or "coconut")), task_class(given.get("task"))]
    if given.get("model") not in (None, "gpt2"):
        modules.append(upstairs("pretrained", str(given["model"]), "settings"))
    options = {}
    for module in modules:
        options |= settings_of(module)
    fields = [(name, kind, field) for name, (kind, field) in options.items()]
    return dataclasses.make_dataclass("TrainConfig", fields, bases=(TrainConfig,))


def change(cfg, **changes):
    """The settings with some changed, which may bring others along, or leave some behind."""
    values = dataclasses.asdict(cfg) | changes
    cls = config_class(values)
    new = cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})
    new.origin, new.left_out = getattr(cfg, "origin", {}), getattr(cfg, "left_out", [])
    return new


def leave_out(cfg):
    """Take out of a config file's settings what a method that does not think has no use for, and name it.

    So a baseline is one --method=... away from any config. What the command line itself says must suit.
    """
    weights, changes = objective_class(cfg).all_weights(), {}
    unknown = [text for text in cfg.losses if text.partition(":")[0] not in weights]
    if unknown and cfg.origin["losses"] != "--losses":
        changes["losses"] = tuple(text for text in cfg.losses if text not in unknown)
        cfg.left_out += [f"the loss {text}" for text in unknown]
    if cfg.feedback != "last" and kind_of(cfg.method).instead != "thought":
        if cfg.origin["feedback"] == "--feedback":
            raise UserError(f"feedback={cfg.feedback}: method={cfg.method} does not think")
        changes["feedback"] = "last"
        cfg.left_out.append(f"feedback={cfg.feedback}")
    return change(cfg, **changes)
