"""
Settings: a dataclass of fields for each script, filled from its defaults, then a config file, then the command line.

A config file is plain assignments (`lr = 1e-4`) that are read, never executed. On the command line the same is
`--lr=1e-4` or `--lr 1e-4`; `--peek` alone means `--peek=true`; one value per stage is `--lr=2e-3,5e-4`. Those of
train.py are TrainConfig's; why a value: configs/. At the end: what users bring, their mistakes and their files.
"""

import ast
import dataclasses
import difflib
import glob
import importlib
import keyword
import math
import os
import sys
import types
import typing
from contextlib import contextmanager, suppress
from dataclasses import dataclass

LARGEST = 10**9  # no setting that is an integer may be larger, unless its option() says so
NANOGPT = {  # what is known there by another name
    "learning_rate": "lr", "max_iters": "steps", "eval_interval": "eval_every", "log_interval": "log_every",
    "warmup_iters": "warmup_steps", "dataset": "data_dir",
}  # fmt: skip


class UserError(ValueError):
    """Something that the user can put right. config.cli() prints it in one line and exits with code 2."""


def option(default, doc, choices=(), least=-math.inf, most=math.inf):
    """A field with its line of --help and the values that it may have: some, or from least to most."""
    return dataclasses.field(default=default, metadata={"doc": doc, "choices": choices, "range": (least, most)})


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


def shown(value):
    """A value in a message: on one line, not all of it if it is long, and a list of one as it was written."""
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return " ".join(repr(value).split())[:100]


def check(cls, name, value, where):
    """The value that field `name` of cls gets, or a UserError that says where the mistake is and what was expected."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    if name not in known:
        here = f"; it is called {NANOGPT[name]} here" if NANOGPT.get(name) in known else nearest(name, known)
        raise UserError(f"{where}: there is no setting {name!r}{here}")
    kind = typing.get_type_hints(cls)[name]
    try:
        value = cast(value, kind)
    except TypeError:
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) or isinstance(kind, types.UnionType) else kind
        raise UserError(f"{where}: {name} = {shown(value)}, expected {kind.__name__}") from None
    choices, (least, most) = known[name].metadata["choices"], known[name].metadata["range"]
    if value == () and known[name].default:
        raise UserError(f"{where}: {name} = (), expected at least one value")
    for v in value if isinstance(value, tuple) else (value,):
        if choices and v not in choices:
            raise UserError(f"{where}: {name} = {shown(v)}, expected {' or '.join(choices)}{nearest(v, choices)}")
        most = LARGEST if type(v) is int and most == math.inf else most
        if isinstance(v, (int, float)) and not least <= v <= most:
            raise UserError(
                f"{where}: {name} = {shown(value)}, expected {f'at least {least}' if v < least else f'at most {most}'}"
            )
    return value


@dataclass
class Command:
    """What train.py is to do; how, is said by TrainConfig."""

    resume: bool = option(False, "go on with the run in out_dir")
    overwrite: bool = option(False, "discard the run in out_dir and start again")
    eval_only: str = option("", "no training: evaluate this checkpoint, or weights from elsewhere")
    eval_file: str = option("", "the data file for --eval_only; by default test.json in the last data_dir")

    def __post_init__(self):
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite: expected one of them")


@dataclass
class TrainConfig(Command):
    """Where a setting may have several values, each belongs to one stage, and the last one to all further stages.

    What only one method, task or base model has, is said in its file, and comes with it: curriculum.config_class.
    """

    # data
    data_dir: tuple[str, ...] = option(("data/hops",), "folder of train.json, valid.json, test.json, for each stage")
    tokenizer: str = option(
        "words", "gpt2, that of the weights in init_from (source), or one made from the training data",
        ("gpt2", "source", "words", "digits", "chars"),
    )  # fmt: skip
    question_format: str = option("{}\n", "how a question is written; these three are the official code's")
    step_format: str = option("{}\n", "how a step is written")
    answer_format: str = option("### {}", "how the answer is written; what stands before {} marks it when grading")
    task: str = option("", "a file of tasks/: how problems are drawn anew, and when an answer is right")
    # method
    method: str = option(
        "coconut", "what to train: a row of table 1 (curriculum.py), a file of methods/, or several: simcot+seq_vcr"
    )
    c_thought: int = option(1, "thoughts in place of one written step (the paper's c)", least=0, most=1000)
    max_latent_stage: int = option(
        4, "stages after stage 0; a final one follows if some steps remain", least=0, most=1000
    )
    pad_latent_to_max: bool = option(False, "problems with few steps get as many thoughts as the others")
    mixing: str = option(
        "uniform",
        "examples of other stages in a stage: any, with a chance of uniform_prob; earlier ones, i with weight i + 1",
        ("none", "uniform", "proportional"),
    )
    uniform_prob: tuple[float, ...] = option((0.0,), "chance of a random stage for an example", least=0, most=1)
    markers: str = option("both", "which of <bot> and <eot> stand around the thoughts", ("both", "bot", "eot", "none"))
    peek: bool = option(False, "train the place before <eot>, too, to predict what follows <eot> (see README)")
    icot_tokens: int = option(8, "tokens of the steps that each further stage of icot removes", least=1)
    feedback: str = option("last", "what is fed back as the next thought (feedback.py)")
    losses: tuple[str, ...] = option((), "other weights of losses than the method's: NAME:WEIGHT, such as ce:3")
    # model
    init_from: str = option(
        "scratch", "scratch, or weights to begin with: best.pt of a run, gpt2, ..., hf:owner/name, a file, a folder"
    )
    model: str = option("gpt2", "the base model: model.py's, or a file of pretrained/ (llama); weights bring theirs")
    n_layer: int = option(2, "transformer blocks", least=1, most=1000)
    n_head: int = option(4, "attention heads", least=1, most=1000)
    n_embd: int = option(128, "width", least=1, most=100_000)
    block_size: int = option(64, "positions that a sequence may have, thoughts included", least=1, most=10**6)
    init: str = option("gpt2", "how random weights are drawn (checkpoint.py)", ("gpt2", "induction"))
    dropout: float = option(0.0, "dropout", least=0, most=1)
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
    min_lr_ratio: tuple[float, ...] = option((1.0,), "cosine decay to this fraction of lr in a stage; 1: none", least=0)
    weight_decay: float = option(0.01, "AdamW's weight decay, on all parameters", least=0)
    beta2: float = option(0.999, "AdamW's second beta", least=0, most=0.999999)
    grad_clip: float = option(0.0, "largest norm of the gradient; 0: no limit", least=0)
    reset_optimizer: str = option("stage", "a new AdamW each stage (paper) or epoch (their code)", ("stage", "epoch"))
    dtype: str = option(
        "auto", "auto: bfloat16 where GPU or CPU gain by it, else float32", ("auto", "float32", "bfloat16")
    )
    speed: tuple[str, ...] = option((), "files of speed/: fast, compiled, recompute; with torchrun: shard")
    # evaluation, files, machine
    eval_every: int = option(0, "steps between evaluations; 0: at the end of each epoch", least=0)
    eval_batch_size: int = option(250, "questions answered at once in an evaluation", least=1)
    max_new_tokens: int = option(0, "most tokens written in an evaluation; 0: as the longest solution", least=0)
    log_every: int = option(50, "steps between progress lines", least=1)
    out_dir: str = option("out/hops", "where checkpoints and log.txt go")
    seed: int = option(1, "decides the initial weights and the order of the data", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")

    def __post_init__(self):
        super().__post_init__()
        for name in ("question_format", "step_format", "answer_format"):
            if getattr(self, name).count("{}") != 1:
                raise UserError(f"{name} = {getattr(self, name)!r}, expected one {{}} in it, where the text goes")
        if not self.answer_format.partition("{}")[0].strip():
            raise UserError(
                f"answer_format = {self.answer_format!r}, expected a mark before {{}}, to find the answer by"
            )
        if self.init == "induction" and self.n_embd % 2:
            raise UserError(f"n_embd={self.n_embd} is odd, but init=induction has its positions in pairs of numbers")
        if self.peek and self.markers in ("none", "bot"):
            raise UserError(
                f"peek has no effect: with markers={self.markers} there is no <eot>, and it is always trained"
            )
        if not self.out_dir:
            raise UserError("out_dir is empty, expected a folder")


# ---------------------------------------------------------------- how they are read


def python_files(folder):
    """The names of the Python files in a folder, sorted; none if there is no such folder."""
    return sorted(os.path.basename(path) for path in glob.glob(os.path.join(folder, "*.py")))


def read_config_file(path):
    """{name: (value, line)} of a file of plain assignments; UserError with file and line for anything else."""
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        hint = nearest(os.path.basename(path), python_files(folder))
        if os.path.exists(ours(path)):
            hint = f"; did you mean {ours(path)}?"
        raise UserError(no_such("config file", path) + hint)
    if path.endswith((".json", ".jsonl", ".pt")):
        raise UserError(f"{path}: expected a config file, NAME.py (folders with data: --data_dir, models: --init_from)")
    try:
        tree = ast.parse(read_text(path))
    except UserError:
        raise
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
            settings[line.targets[0].id] = ast.literal_eval(line.value), line.lineno
        except (ValueError, TypeError, SyntaxError):
            raise UserError(f"{where}: expected a plain value such as 1e-4, (1, 2) or 'text'") from None
    return settings


def print_help(cls, doc):
    print(doc.strip() + "\n\nsettings and their defaults:")
    for f in dataclasses.fields(cls):
        among = f" [{', '.join(f.metadata['choices'])}]" if f.metadata["choices"] else ""
        print(f"  --{f.name.rstrip('_') + '=' + repr(f.default):<30}  {f.metadata['doc']}{among}")


def split(argv, kinds):
    """(what stands alone, {name: text}) of a command line; kinds: {name: type} of the settings; bool needs no text."""
    alone, flags, argv, last = [], {}, list(argv), ""
    while argv:
        arg = argv.pop(0)
        if any("\ud800" <= c <= "\udfff" for c in arg):
            raise UserError(f"{arg!r} is not UTF-8")
        if not arg.startswith("--") and arg != "-h":
            if last and not os.path.exists(arg):
                raise UserError(f"unexpected argument {arg!r}: values are separated by commas: {last},{arg}")
            alone.append(arg)
            continue
        name, equals, text = arg.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            text = "true" if kinds.get(name) is bool else None
            if argv and not argv[0].startswith("--") and (text is None or argv[0] in ("true", "false")):
                text = argv.pop(0)
        last = f"--{name}={text.rstrip(',')}" if text and typing.get_origin(kinds.get(name)) is tuple else ""
        flags[name + "_" if keyword.iskeyword(name) else name] = text  # a field cannot be called `from`
    return alone, flags


def parse(cls, argv, doc, takes_file=False, places=()):
    """An instance of cls from the command line; what stands alone is a config file, if the script takes one.

    cls: a dataclass, or a function from {name: value}, as they are written, to one: some settings belong to what
    others choose. places: the settings that may come without their names, in this order. The instance's `origin` says
    which settings are not left at their defaults: {name: "--name", or "name in FILE"}; `left_out` names those of the
    file that belong to something else than the command line has chosen. UserError for anything that is not understood;
    `--help` prints doc and the settings, and exits.
    """
    plain = isinstance(cls, type)
    kinds = typing.get_type_hints(cls if plain else TrainConfig)
    alone, flags = split(argv, kinds | {"h": bool, "help": bool})
    file = alone.pop(0) if takes_file and alone else None
    if len(alone) > len(places):
        raise UserError(f"unexpected argument {alone[-1]!r}: settings are given as --name=value or --name=value,value")
    flags |= dict(zip(places, alone))
    found = read_config_file(file) if file else {}
    written = {name: value for name, (value, _) in found.items()}
    own = cls if plain else cls(written | flags)
    if "h" in flags or "help" in flags:
        print_help(own, doc)
        sys.exit(0)
    names = {f.name for f in dataclasses.fields(own)}
    other = set() if plain else {f.name for f in dataclasses.fields(cls(written))} - names
    settings = {name: check(own, name, value, f"{file}, line {line}") for name, (value, line) in found.items()
                if name not in other}  # fmt: skip
    values = {name: check(own, name, from_text(own, name, text), "command line") for name, text in flags.items()}
    cfg = own(**settings | values)
    cfg.left_out = [f"{name}={shown(value)}" for name, value in written.items() if name in other]
    cfg.origin = {name: f"{name} in {file}" for name in settings} | {name: f"--{name}" for name in values}
    return cfg


def from_text(cls, name, text):
    """The python value that a text on the command line stands for, if it is one of this setting's kind."""
    kind = typing.get_type_hints(cls).get(name)
    if text is None and kind:
        raise UserError(f"--{name}: a value is missing")
    if name.endswith("_format"):
        text = text.replace("\\n", "\n")  # a shell does not do it
    if kind in (str, str | None):
        return text
    if kind == tuple[str, ...]:
        return text.split(",") if text else ()
    try:
        return {"true": True, "false": False}[text] if text in ("true", "false") else ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # not a number or tuple: check() will say so


def upstairs(folder, name, part="", known=()):
    """The module of a further file, folder/name.py, for whoever has asked for it; UserError without it, or its part.

    Nothing on this floor needs one of them: what is not asked for may be deleted, with its folder. known: the names
    that would have needed no file, for a message.
    """
    there = [file.removesuffix(".py") for file in python_files(os.path.join(PROJECT, folder))]
    if name not in there:
        file = f"{folder}/{shown(name)[1:-1]}.py"
        others = f"; expected it, or one of {', '.join(known)}" if known else ""
        raise UserError(f"{shown(name)} would be {file}, which is not there{others}{nearest(name, [*known, *there])}")
    module = importlib.import_module(f"{folder}.{name}")
    if part and not hasattr(module, part):
        raise UserError(f"{folder}/{name}.py has no {part}: it is for something else")
    return module


# ---------------------------------------------------------------- what users bring: mistakes, paths, text files

PROJECT = os.path.dirname(os.path.abspath(__file__))
UTF16 = b"\xff\xfe", b"\xfe\xff"  # how files that Windows calls "Unicode" begin


def no_such(what, path):
    """What to say of a path that is not there, and where it was looked for: relative ones begin in this folder."""
    name = " ".join(str(path).splitlines())  # what is taken for a path may have several
    return f"{name}: no such {what}" + ("" if os.path.isabs(path) else f" in the current folder, {os.getcwd()}")


def ours(*parts):
    """The path of one of the project's own files, such as train.py, as one would type it in the current folder."""
    path = os.path.join(PROJECT, *parts)
    return min(path, os.path.relpath(path), key=len)


def read_text(path):
    """The text of a UTF-8 file, lines ending in "\\n" whatever they end in there, without a byte order mark.

    UserError with file and line if it is not UTF-8 (what follows would be guesswork), or if there is no such file.
    """
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        raise UserError(no_such("file", path)) from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a file, found a folder") from None
    if data.startswith(UTF16):
        raise UserError(f"{path}, line 1: expected UTF-8, found UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1  # e.object begins after a byte order mark, and so does e.start
        before = e.object[max(0, e.start - 20) : e.start].rpartition(b"\n")[2].decode("utf-8", "ignore")
        raise UserError(
            f"{path}, line {line}: expected UTF-8, found the byte {e.object[e.start]:#04x} after {before!r}: "
            "save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


@contextmanager
def replacing(path, mode="w", beside=".tmp"):
    """A file to write to, which takes path's place once all is written; until then what is there is left alone.

    beside: the end of its name until then, to be chosen where several processes may write at once. UserError names
    the file if it cannot be written.
    """
    try:
        with open(f"{path}{beside}", mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(f"{path}{beside}", path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or e}") from None
    finally:
        with suppress(OSError):  # it has become the file, or there never was one
            os.remove(f"{path}{beside}")


def first_line(e):
    """The first line of an exception's message, or its name if it has none."""
    return (str(e).strip() or type(e).__name__).splitlines()[0][:120]


def cli(main):
    """Run a script's main(argv). What the user can put right becomes one line, and exit code 2."""
    for stream in (sys.stdin, sys.stdout):  # what cannot be shown, or read, is no reason to lose a run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
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
