"""
Settings: a dataclass of fields for each script, filled from its defaults, then a config file, then the command line.

A config file is plain assignments (`lr = 1e-4`) that are read, never executed. On the command line the same is
`--lr=1e-4` or `--lr 1e-4`; `--peek` alone means `--peek=true`; one value per stage is `--lr=2e-3,5e-4`.
"""

import ast
import dataclasses
import difflib
import keyword
import math
import os
import re
import sys
import types
import typing
from dataclasses import dataclass


class UserError(ValueError):
    """Something that the user can put right. cli() prints it in one line and exits with code 2."""


def first_line(e):
    """The first line of an exception's message, or its name if it has none."""
    return (str(e).strip() or type(e).__name__).splitlines()[0][:120]


def option(default, doc, choices=(), least=-math.inf, most=math.inf):
    """A field with its line of --help and the values that it may have: some, or from least to most."""
    return dataclasses.field(default=default, metadata={"doc": doc, "choices": choices, "range": (least, most)})


TARGETS = "rest", "next", "frontier"
METHODS = "coconut", "cot", "no_cot", "icot", "pause", "no_curriculum", "no_thought", "pause_as_thought"


@dataclass
class TrainConfig:
    """Where a setting may have several values, each belongs to one stage, and the last one to all further stages."""

    # data
    data_dir: str = option("data/hops", "folder with train.json, valid.json and test.json")
    tokenizer: str = option("words", "gpt2, or one made from the training data", ("gpt2", "words", "chars"))
    question_format: str = option("{}\n", "how a question is written; these three are the official code's")
    step_format: str = option("{}\n", "how a step is written")
    answer_format: str = option("### {}", "how the answer is written; what stands before {} marks it when grading")
    # method
    method: str = option("coconut", "what to train: a row of the paper's table 1 (METHODS in data.py)", METHODS)
    c_thought: int = option(1, "thoughts in place of one written step (the paper's c)", least=0)
    max_latent_stage: int = option(4, "stages after stage 0; a final one follows if some steps remain", least=0)
    pad_latent_to_max: bool = option(False, "problems with few steps get as many thoughts as the others")
    uniform_prob: tuple[float, ...] = option((0.0,), "chance of a random stage for an example", least=0, most=1)
    remove_from: str = option("front", "which steps are replaced first", ("front", "back"))
    markers: str = option("both", "which of <bot> and <eot> stand around the thoughts", ("both", "bot", "none"))
    peek: bool = option(False, "train the place before <eot>, too, to predict what follows <eot> (see README)")
    icot_tokens: int = option(8, "tokens of the steps that each further stage of icot removes", least=1)
    target: tuple[str, ...] = option(
        ("rest",), "what each stage has to write: all remaining steps, or only the next, or any node as far", TARGETS
    )
    names: str = option("", "nodes of a graph (edges first, root last), a regex: renamed, edges shuffled each epoch")
    # model
    init_from: str = option(
        "scratch", "scratch, or weights to begin with: best.pt of a run, gpt2, ..., hf:owner/name, a file, a folder"
    )
    n_layer: int = option(2, "transformer blocks", least=1)
    n_head: int = option(4, "attention heads", least=1)
    n_embd: int = option(128, "width", least=1)
    block_size: int = option(64, "positions that a sequence may have, thoughts included", least=1)
    dropout: float = option(0.0, "dropout", least=0, most=1)
    fixed_positions: bool = option(False, "sinusoids as position embeddings, not trained (why: LOG.md)")
    # optimisation
    epochs: tuple[int, ...] = option((1,), "length of each stage in passes over the training data", least=1)
    steps: tuple[int, ...] = option(
        (), "length of each stage in optimizer steps, instead of epochs; a single stage gets the sum of all", least=1
    )
    master_at: float = option(0.0, "leave a stage once validation accuracy reaches this; 0: never", least=0, most=1)
    batch_size: int = option(64, "examples in an optimizer step", least=1)
    micro_batch_size: int = option(0, "examples in a forward pass, gradients accumulate; 0: all of them", least=0)
    micro_batch_tokens: int = option(0, "positions in a forward pass, padding included; 0: no limit", least=0)
    sort_window: int = option(1, "batches whose examples are sorted by length, against padding; 1: no sorting", least=1)
    lr: tuple[float, ...] = option((1e-3,), "learning rate of each stage", least=0)
    warmup_steps: int = option(0, "steps of linear warm-up in each stage", least=0)
    min_lr_ratio: float = option(1.0, "cosine decay to this fraction of lr at the stage's end; 1: none", least=0)
    weight_decay: float = option(0.01, "AdamW's weight decay, on all parameters", least=0)
    beta2: float = option(0.999, "AdamW's second beta", least=0, most=0.999999)
    grad_clip: float = option(0.0, "largest norm of the gradient; 0: no limit", least=0)
    dtype: str = option("auto", "auto: bfloat16 where the GPU has it, else float32", ("auto", "float32", "bfloat16"))
    gradient_checkpointing: bool = option(False, "compute activations again when needed: slower, with less memory")
    backprop_thoughts: int | None = option(None, "gradient only through a row's last so many thoughts", least=1)
    compile: bool = option(False, "torch.compile the blocks: minutes at the start, for a GPU (not measured yet)")
    shard: bool = option(False, "with torchrun: spread weights and moments over the processes (FSDP2)")
    reset_optimizer: str = option("stage", "a new AdamW each stage (paper) or epoch (their code)", ("stage", "epoch"))
    # evaluation, files, machine
    eval_every: int = option(0, "steps between evaluations; 0: at the end of each epoch", least=0)
    eval_batch_size: int = option(250, "questions answered at once in an evaluation", least=1)
    eval_only: str = option("", "no training: evaluate this checkpoint, or weights from elsewhere")
    eval_file: str = option("", "the data file for --eval_only; by default test.json in data_dir")
    max_new_tokens: int = option(0, "most tokens written in an evaluation; 0: as the longest solution", least=0)
    log_every: int = option(50, "steps between progress lines", least=1)
    save_every: int = option(0, "steps between checkpoints; 0: only after evaluations and by the clock", least=0)
    save_minutes: float = option(10.0, "longest time between checkpoints", least=0)
    out_dir: str = option("out/hops", "where checkpoints and log.txt go")
    resume: bool = option(False, "go on with the run in out_dir")
    overwrite: bool = option(False, "discard the run in out_dir and start again")
    seed: int = option(1, "decides the initial weights and the order of the data", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")

    def __post_init__(self):
        for name in ("question_format", "step_format", "answer_format"):
            if getattr(self, name).count("{}") != 1:
                raise UserError(f"{name} = {getattr(self, name)!r}, expected one {{}} in it, where the text goes")
        if not self.answer_format.partition("{}")[0].strip():
            raise UserError(
                f"answer_format = {self.answer_format!r}, expected a mark before {{}}, to find the answer by"
            )
        try:
            re.compile(self.names)
        except re.error as e:
            raise UserError(f"names = {self.names!r} is not a regular expression: {e}") from None
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite: expected one of them")


def nearest(name, known):
    """`; did you mean ...?`, if some known name is close to it."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def cast(value, kind):
    """The python value as a `kind` (a type, `type | None` or tuple[type, ...]); TypeError if it is none."""
    if isinstance(kind, types.UnionType):
        return value if value is None else cast(value, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        values = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(cast(v, typing.get_args(kind)[0]) for v in values)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or value != value:  # a NaN is no setting
        raise TypeError
    return value


def check(cls, name, value, where):
    """The value that field `name` of cls gets, or a UserError that says where the mistake is and what was expected."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    if name not in known:
        raise UserError(f"{where}: there is no setting {name!r}{nearest(name, known)}")
    kind = typing.get_type_hints(cls)[name]
    try:
        value = cast(value, kind)
    except TypeError:
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) or isinstance(kind, types.UnionType) else kind
        raise UserError(f"{where}: {name} = {value!r}, expected {kind.__name__}") from None
    choices, (least, most) = known[name].metadata["choices"], known[name].metadata["range"]
    if value == () and known[name].default:
        raise UserError(f"{where}: {name} = (), expected at least one value")
    for v in value if isinstance(value, tuple) else (value,):
        if choices and v not in choices:
            raise UserError(f"{where}: {name} = {v!r}, expected {' or '.join(choices)}{nearest(v, choices)}")
        if isinstance(v, (int, float)) and not least <= v <= most:
            raise UserError(
                f"{where}: {name} = {value!r}, expected {f'at least {least}' if v < least else f'at most {most}'}"
            )
    return value


def read_config_file(cls, path):
    """{name: value} of a file of plain assignments; UserError with file and line for anything else."""
    try:
        with open(path, encoding="utf-8") as f:
            tree = ast.parse(f.read())
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        there = sorted(f for f in os.listdir(folder) if f.endswith(".py")) if os.path.isdir(folder) else []
        raise UserError(f"{path}: no such config file{nearest(os.path.basename(path), there)}") from None
    except (SyntaxError, ValueError) as e:
        raise UserError(f"{path}: not a config file of `name = value` lines: {e}") from None
    settings = {}
    for line in tree.body:
        where = f"{path}, line {line.lineno}"
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # the docstring
        if not (isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)):
            raise UserError(f"{where}: expected `name = value`")
        try:
            value = ast.literal_eval(line.value)
        except (ValueError, TypeError, SyntaxError):
            raise UserError(f"{where}: expected a plain value such as 1e-4, (1, 2) or 'text'") from None
        settings[line.targets[0].id] = check(cls, line.targets[0].id, value, where)
    return settings


def print_help(cls, doc):
    print(doc.strip() + "\n\nsettings and their defaults:")
    for f in dataclasses.fields(cls):
        among = f" [{', '.join(f.metadata['choices'])}]" if f.metadata["choices"] else ""
        print(f"  --{f.name.rstrip('_') + '=' + repr(f.default):<30}  {f.metadata['doc']}{among}")


def parse(cls, argv, doc, takes_file=False):
    """An instance of cls from the command line; an argument without -- is a config file, if the script takes one.

    `--help` prints doc and the settings, and exits. UserError for anything that is not understood.
    """
    kinds, file, flags, argv = typing.get_type_hints(cls), None, {}, list(argv)
    while argv:
        arg = argv.pop(0)
        if not arg.isascii() and any("\ud800" <= c <= "\udfff" for c in arg):
            raise UserError(f"{arg!r} is not UTF-8")
        if arg in ("-h", "--help"):
            print_help(cls, doc)
            sys.exit(0)
        if not arg.startswith("--"):
            if file or not takes_file:
                raise UserError(f"unexpected argument {arg!r}: settings are given as --name=value")
            file = arg
            continue
        name, equals, text = arg[2:].partition("=")
        name = name.replace("-", "_") + "_" * keyword.iskeyword(name)  # a field cannot be called `from`
        follows = argv[0] if argv and not argv[0].startswith("--") else None
        if not equals and kinds.get(name) is bool and follows not in ("true", "false"):
            text = "true"
        elif not equals and name in kinds:
            if follows is None:
                raise UserError(f"--{name}: a value is missing")
            text = argv.pop(0)
        text = text.replace("\\n", "\n") if name.endswith("_format") else text  # a shell does not do it
        value = {str: text, tuple[str, ...]: text.split(",")}.get(kinds.get(name)) or literal(text)
        flags[name] = check(cls, name, value, "command line")
    return cls(**{**(read_config_file(cls, file) if file else {}), **flags})


def literal(text):
    """The python value that a text on the command line stands for; the text itself if it stands for none."""
    try:
        return {"true": True, "false": False}[text] if text in ("true", "false") else ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # not a number or tuple: check() will say so


def cli(main):
    """Run a script's main(argv). What the user can put right becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
    except OSError as e:  # disk full, no permission, ...
        print(f"error: {e.filename or 'files'}: {e.strerror or e}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)
