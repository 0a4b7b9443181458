"""
What a problem becomes for each method, at each stage of the curriculum: the paper's table 1 and its figure 2.

Coconut with two steps, one thought for each:

    stage 0    question <bot>    -                  <eot> step1 step2 answer eos
    stage 1    question <bot>    thought            <eot> step2 answer eos
    stage 2    question <bot>    thought thought    <eot> answer eos
               prefix            n = 0, 1, 2        suffix; its labels score everything but <eot>

What the model gets when it has to answer is the same without what it should write: a Prompt. Files and tokens are
data.py's business, batches and tensors batches.py's.
"""

import math
from typing import NamedTuple

from tasks.graphs import walks
from tokenizer import BOT, EOT, PAUSE


class Method(NamedTuple):
    """What a method trains on; with stages and the other settings, make_row() follows from it."""

    row: str  # of the paper's table 1, or a later method's name
    stages: str  # "all" of the curriculum; only the "first", where every step is written; only the "last": none is
    instead: str  # what stands in place of a removed step: "thought", "pause" or nothing
    markers: bool  # whether <bot> and <eot> stand around it
    losses: tuple = ()  # what it is trained on besides cross-entropy (losses.py); --losses may say other weights
    settings: dict = {}  # what other settings are where they are left at their defaults


METHODS = {  #                       row of table 1                  stages   instead    markers
    "coconut":          Method("Coconut",                    "all",   "thought", True),
    "cot":              Method("CoT",                        "first", "",        False),
    "no_cot":           Method("No-CoT",                     "last",  "",        False),
    "icot":             Method("iCoT",                       "all",   "",        False),  # tokens go, not steps
    "pause":            Method("Pause token",                "last",  "pause",   False),
    "no_curriculum":    Method("Coconut without curriculum", "last",  "thought", True),
    "no_thought":       Method("Coconut without thought",    "all",   "",        False),
    "pause_as_thought": Method("pause as thought",           "all",   "pause",   True),
    "simcot":           Method("SIM-CoT",                    "all",   "thought", True, ("decoder",)),
    "codi":             Method("CODI",                       "last",  "thought", True, ("teacher", "distance")),
    "pccot":            Method("PCCoT",                      "last",  "thought", True, ("teacher", "distance_layers"),
                               {"passes": 3}),
    "lotus":            Method("LOTUS",                      "last",  "thought", True, ("thoughts:0.05",),
                               {"passes": 6, "in_place": True, "thought_targets": "tokens"}),
}  # fmt: skip


TAUGHT = {"teacher", "distance", "distance_layers"}  # losses that need a teacher


class Problem(NamedTuple):
    """A worked problem in tokens; the answer ends in eos."""

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
    shared: list[int] = []  # what is read before the prefix: once for all rows that have the same list
    targets: list = []  # n + 1 sets of tokens: what the states after the prefix and each thought should predict
    steps: list = []  # for each group of c thoughts, the tokens of what they stand for, for losses that decode them
    given: int | None = None  # the thoughts are given (teacher forcing), and fed back so often, all at once (losses.py)
    teacher: "Row | None" = None  # a second sequence, also after what is shared, for methods with a teacher
    answer: int | None = None  # where in the suffix the answer begins, what marks it left out, if there is a teacher


def stages(cfg, longest):
    """(numbers of the stages to train, how many stages the full curriculum has); longest: most steps of a problem.

    Stage max_latent_stage + 1, if there is one, is the paper's final stage: no more thoughts, but no step is written.
    """
    last = cfg.max_latent_stage
    curriculum = list(range(last + 1 + (longest > last and cfg.method != "icot")))
    return {"first": [0], "last": [last + 1]}.get(METHODS[cfg.method].stages, curriculum), len(curriculum)


def for_stage(values, stage):
    """The value for a stage, of a setting with one value for each; the last one holds for all further stages."""
    return values[min(stage, len(values) - 1)]


def losses_of(cfg):
    """{name: NAME or NAME:WEIGHT} of the losses of the settings, and of the method where they do not name them."""
    losses, own = {}, METHODS[cfg.method].losses
    for text in (*cfg.losses, *["ce"] * bool(own), *own):
        name, colon, weight = text.partition(":")
        name = "thoughts" if name == "decoder" and cfg.decoder == "head" else name  # SIM-CoT without a decoder
        losses.setdefault(name, name + colon + weight)
    return losses


def count(n_steps, stage, cfg):
    """(steps that are not written, thoughts or pauses in their place) at this stage, of a problem with n_steps.

    Stage k takes away k steps and gives k * c_thought thoughts; where there are fewer steps, fewer thoughts as well,
    unless pad_latent_to_max. (The official code gives stage * c_thought to short problems in either case, and only
    evaluates them with fewer.)
    """
    removed = n_steps if stage > cfg.max_latent_stage else min(stage, n_steps)
    n = cfg.c_thought * min(stage if cfg.pad_latent_to_max else removed, cfg.max_latent_stage)
    return removed, n if METHODS[cfg.method].instead else 0


def mixed_stages(cfg, n_steps):
    """From how many stages, 0 and up, stage mixing draws one for a problem with n_steps (an int or an array)."""
    return 0 * n_steps + cfg.max_latent_stage + 1 if cfg.method == "icot" else n_steps + 1


def make_prompt(question, n, cfg, tok):
    """What the model is given to answer a question with n thoughts."""
    bot, eot, pause = (tok.encode_single_token(name) for name in (BOT, EOT, PAUSE))
    method = METHODS[cfg.method]
    prefix = question + [bot] if method.markers and cfg.markers in ("both", "bot") else question
    # <eot> is never predicted: we end the thinking, or the stop head does
    after = [eot] if method.markers and cfg.markers in ("both", "eot") else []
    return Prompt(prefix + [pause] * n, 0, after) if method.instead == "pause" else Prompt(prefix, n, after)


def split(problem, stage, cfg, tok, rng=None):
    """One problem at one stage: its Prompt, and the tokens that the model should then write.

    With rng as it is trained on: where the method is random, it is drawn anew.
    """
    removed, n = count(len(problem.steps), stage, cfg)
    read, write = [], problem.steps[removed:]
    if cfg.method == "icot":  # Deng et al. 2024 (2405.14838): tokens go from the left, now and then some more of them
        more = rng.geometric(1 - math.exp(-4)) - 1 if rng else 0
        gone = cfg.icot_tokens * stage + more if stage < cfg.max_latent_stage else None
        write = [sum(problem.steps, [])[gone:] if gone is not None else []]
    elif removed and cfg.remove_from == "back":  # the last steps go, so those that stay come before the thoughts: read
        read, write = problem.steps[: len(problem.steps) - removed], []
    return make_prompt(sum(read, problem.question), n, cfg, tok), sum(write, []) + problem.answer


def make_targets(problem, n, cfg, tok):
    """For the states after the prefix and each of n thoughts: the set of tokens that it should predict, None: any.

    thought_targets = "steps": the first token of the step that the thoughts after it stand for. "tokens": at the
    thoughts that stand for a step, its tokens, one for each. "walks": in a graph, the nodes where a walk of 1, ..., n
    steps from the root can end, [] if no walk is that long.
    """
    if cfg.thought_targets == "walks":
        return [*walks(problem.question, n, cfg, tok), None]
    if cfg.thought_targets == "tokens":
        c = cfg.c_thought
        tokens = {k * c + j + 1: [t] for k, step in enumerate(problem.steps) for j, t in enumerate(step[:c])}
        return [tokens.get(i) for i in range(n + 1)]
    steps = {k * cfg.c_thought: step[:1] for k, step in enumerate(problem.steps)}
    return [steps.get(i) for i in range(n + 1)]


def groups(steps, n, cfg):
    """What each of the n / c_thought groups of thoughts stands for: a step, the last one for all that are left."""
    n_groups = n // max(1, cfg.c_thought)
    steps = steps + [[]] * (n_groups - len(steps))
    return [*steps[: n_groups - 1], sum(steps[n_groups - 1 :], [])] if n_groups else []


def with_teacher(row, problem, cfg, tok):
    """The row with its teacher: the steps in words, without the last one, which would give the answer away (CODI)."""
    size = len(cfg.answer_format.partition("{}")[0].encode())
    mark = next(i for i in range(len(problem.answer)) if len(tok.decode_bytes(problem.answer[: i + 1])) > size)
    steps = problem.steps if cfg.teacher_writes == "all" else problem.steps[:-1]
    written = sum(steps, []) + problem.answer
    answer = mark - len(problem.answer)  # counted from the end
    teacher = Row(problem.question, 0, written, written, answer=len(written) + answer)
    return row._replace(teacher=teacher, answer=len(row.suffix) + answer)


def make_row(problem, stage, cfg, tok, rng=None):
    """One problem at one stage as a Row."""
    (prefix, n, eot), written = split(problem, stage, cfg, tok, rng)
    losses, removed = losses_of(cfg), count(len(problem.steps), stage, cfg)[0]
    gone = problem.steps[:removed] if cfg.remove_from == "front" else problem.steps[len(problem.steps) - removed :]
    # what thoughts stand for; and the step that is written next, if there is one: the last state stands before it
    next_too = cfg.remove_from == "front" and stage <= cfg.max_latent_stage
    meant = problem if next_too else problem._replace(steps=gone[: cfg.max_latent_stage])
    targets = make_targets(meant, n, cfg, tok) if cfg.thought_targets else []
    # With peek, the place before <eot> is trained on what comes after <eot>, so that thinking has a meaning at once.
    labels = [written[0] if cfg.peek else -100 for _ in eot] + written
    steps = groups(gone, n, cfg) if "decoder" in losses else []
    row = Row(prefix, n, eot + written, labels, targets=targets, steps=steps)
    return with_teacher(row, problem, cfg, tok) if TAUGHT & losses.keys() else row
