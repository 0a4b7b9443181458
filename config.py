"""
Settings: a dataclass of fields for each script, filled from its defaults, then a config file, then the command line.

A config file is plain assignments (`lr = 1e-4`) that are read, never executed. On the command line the same is
`--lr=1e-4` or `--lr 1e-4`; `--peek` alone means `--peek=true`; one value per stage is `--lr=2e-3,5e-4`. Those of
train.py are TrainConfig's; why a value: configs/. At the end: what users bring, their mistakes and their files.
"""

import ast
import dataclasses
import difflib
import importlib
import json
import keyword
import os
import sys
import textwrap
import types
import typing
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = os.path.dirname(os.path.abspath(__file__))
OTHER_NAMES = {  # what is known elsewhere by another name
    "learning_rate": "lr", "max_iters": "steps", "eval_interval": "eval_every", "log_interval": "log_every",
    "warmup_iters": "warmup_steps", "dataset": "data_dir", "prompt": "question",
}  # fmt: skip


class UserError(ValueError):
    """Something that the user can put right. config.cli() prints it in one line and exits with code 2."""


def option(default, doc, choices=(), least=0, most=10**9, group=""):
    """A field with its line of --help and the values that it may have: some, or numbers from least to most.

    group: what --help calls this setting and those that follow.
    """
    about = {"doc": doc, "choices": choices, "range": (least, most), "group": group}
    return dataclasses.field(default=default, metadata=about)


def nearest(name, known, form="{}"):
    """`; did you mean ...?`, if some known name is close to it; form: how that name is to be written."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {form.format(close[0])}?" if close else ""


def shown(value):
    """A value in a message: on one line, not all of it if it is long, and several as one would type them."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return " ".join(",".join(map(repr, values)).split())[:100]


def parts_of(kind):
    """(type of a value, whether there may be several, whether None will do) of T, tuple[T, ...] or T | None."""
    args = typing.get_args(kind)
    return args[0] if args else kind, typing.get_origin(kind) is tuple, types.NoneType in args


def check(cls, name, value, where):
    """The value that field `name` of cls gets, or a UserError that says where the mistake is and what was expected."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    if name not in known:
        raise UserError(f"{where}: there is no setting {name!r}{nearest(OTHER_NAMES.get(name, name), known)}")
    kind, several, optional = parts_of(typing.get_type_hints(cls)[name])
    choices, (least, most) = known[name].metadata["choices"], known[name].metadata["range"]
    if value is None and optional:
        return None
    values = value if several and isinstance(value, (tuple, list)) else [value]
    if not values and known[name].default:
        raise UserError(f"{where}: {name} = (), expected at least one value")
    checked = []
    for v in values:
        expected = ""
        if type(v) is not kind and (kind, type(v)) != (float, int):
            expected = kind.__name__
        elif choices and v not in choices:
            expected = f"{' or '.join(choices)}{nearest(v, choices)}"
        elif kind is not str and not least <= v <= most:  # so NaN is none, either
            expected = f"at least {least}" if v < least else f"at most {most}"
        elif kind is str and v.encode(errors="ignore").decode() != v:
            expected = "UTF-8"
        if expected:
            raise UserError(f"{where}: {name} = {shown(v)}, expected {expected}")
        home = kind is str and v.startswith("~/")
        checked.append(os.path.expanduser(v) if home else kind(v))
    return tuple(checked) if several else checked[0]


@dataclass
class Command:
    """What train.py is to do; how, is said by TrainConfig."""

    resume: bool = option(False, "go on with the run in out_dir", group="what to do")
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

    data_dir: tuple[str, ...] = option(
        ("data/hops",), "folder of train.json, valid.json, test.json, for each stage", group="data"
    )
    tokenizer: str = option(
        "words", "gpt2, that of the weights in init_from (source), or one made from the training data",
        ("gpt2", "source", "words", "digits", "chars"),
    )  # fmt: skip
    question_format: str = option("{}\n", "how a question is written; these three are the official code's")
    step_format: str = option("{}\n", "how a step is written")
    answer_format: str = option("### {}", "how the answer is written; what stands before {} marks it when grading")
    task: str = option("", "a file of tasks/: how problems are drawn anew, and when an answer is right")
    method: str = option(
        "coconut",
        "what to train: a row of table 1 (curriculum.py), a file of methods/, or several: simcot+seq_vcr",
        group="method",
    )
    c_thought: int = option(1, "thoughts in place of one written step (the paper's c)", most=1000)
    max_latent_stage: int = option(4, "stages after stage 0; a final one follows if some steps remain", most=1000)
    pad_latent_to_max: bool = option(False, "problems with few steps get as many thoughts as the others")
    mixing: str = option(
        "uniform",
        "examples of other stages in a stage: any, with a chance of uniform_prob; earlier ones, i with weight i + 1",
        ("none", "uniform", "proportional"),
    )
    uniform_prob: tuple[float, ...] = option((0.0,), "chance of a random stage for an example", most=1)
    markers: str = option("both", "which of <bot> and <eot> stand around the thoughts", ("both", "bot", "eot", "none"))
    peek: bool = option(False, "train the place before <eot>, too, to predict what follows <eot> (docs/methods.md)")
    icot_tokens: int = option(8, "tokens of the steps that each further stage of icot removes", least=1)
    feedback: str = option("last", "what is fed back as the next thought (feedback.py)")
    losses: tuple[str, ...] = option((), "other weights of losses than the method's: NAME:WEIGHT, such as ce:3")
    init_from: str = option(
        "scratch",
        "scratch, or weights to begin with: best.pt of a run, gpt2, ..., hf:owner/name, a file, a folder",
        group="model",
    )
    model: str = option("gpt2", "the base model: model.py's, or a file of pretrained/ (llama); weights bring theirs")
    n_layer: int = option(2, "transformer blocks", least=1, most=1000)
    n_head: int = option(4, "attention heads", least=1, most=1000)
    n_embd: int = option(128, "width", least=1, most=100_000)
    block_size: int = option(64, "positions that a sequence may have, thoughts included", least=1, most=10**6)
    init: str = option("gpt2", "how random weights are drawn (checkpoint.py)", ("gpt2", "induction"))
    dropout: float = option(0.0, "dropout", most=1)
    epochs: tuple[int, ...] = option(
        (1,), "length of each stage in passes over the training data", least=1, group="optimisation"
    )
    steps: tuple[int, ...] = option(
        (), "length of each stage in optimizer steps, instead of epochs; a single stage gets the sum of all", least=1
    )
    master_at: float = option(0.0, "leave a stage once validation accuracy reaches this; 0: never", most=1)
    batch_size: int = option(64, "examples in an optimizer step", least=1)
    micro_batch_size: int = option(0, "examples in a forward pass, gradients accumulate; 0: all of them")
    micro_batch_tokens: int = option(0, "positions in a forward pass, padding included; 0: no limit")
    sort_window: int = option(1, "batches whose examples are sorted by length, against padding; 1: no sorting", least=1)
    lr: tuple[float, ...] = option((1e-3,), "learning rate of each stage")
    warmup_steps: int = option(0, "steps of linear warm-up in each stage")
    min_lr_ratio: tuple[float, ...] = option((1.0,), "cosine decay to this fraction of lr in a stage; 1: none")
    weight_decay: float = option(0.01, "AdamW's weight decay, on all parameters")
    beta2: float = option(0.999, "AdamW's second beta", most=0.999999)
    grad_clip: float = option(0.0, "largest norm of the gradient; 0: no limit")
    reset_optimizer: str = option("stage", "a new AdamW each stage (paper) or epoch (their code)", ("stage", "epoch"))
    dtype: str = option(
        "auto", "auto: bfloat16 where GPU or CPU gain by it, else float32", ("auto", "float32", "bfloat16")
    )
    speed: tuple[str, ...] = option((), "files of speed/: fast, compiled, recompute; with torchrun: shard")
    eval_every: int = option(
        0, "steps between evaluations; 0: at the end of each epoch", group="evaluation, files, machine"
    )
    eval_batch_size: int = option(250, "questions answered at once in an evaluation", least=1)
    max_new_tokens: int = option(0, "most tokens written in an evaluation; 0: as the longest solution")
    log_every: int = option(50, "steps between progress lines", least=1)
    out_dir: str = option("out/hops", "where checkpoints and log.txt go")
    seed: int = option(1, "decides the initial weights and the order of the data", most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")

    # what --help does not show, but --help=all does
    rare = """eval_file question_format step_format answer_format mixing markers icot_tokens losses model init
              micro_batch_tokens sort_window beta2 reset_optimizer dtype speed eval_batch_size max_new_tokens
              log_every""".split()

    def __post_init__(self):
        super().__post_init__()
        for name in ("question_format", "step_format", "answer_format"):
            if getattr(self, name).count("{}") != 1:
                raise UserError(f"{name} = {getattr(self, name)!r}, expected one {{}} in it, where the text goes")
        if not self.mark:
            raise UserError(f"answer_format = {self.answer_format!r}, expected a mark of the answer before {{}}")
        if self.init == "induction" and self.n_embd % 2:
            raise UserError(f"n_embd={self.n_embd} is odd, but init=induction has its positions in pairs of numbers")
        if self.peek and self.markers in ("none", "bot"):
            raise UserError(f"peek has no effect: with markers={self.markers} there is no <eot> to stand before")
        if not self.out_dir:
            raise UserError("out_dir is empty, expected a folder")

    @property
    def mark(self):
        """What marks the answer, so that it can be graded, such as "###"."""
        return self.answer_format.partition("{}")[0].strip()


# ---------------------------------------------------------------- how they are read


def names_in(folder):
    """The names of the Python files in one of the project's folders."""
    return sorted(path.stem for path in Path(PROJECT, folder).glob("*.py"))


def read_config_file(path):
    """({name: value}, {name: where it stands}) of a file of plain assignments; UserError for anything else."""
    if not os.path.exists(path):
        hint = nearest(Path(path).stem, names_in("configs"), ours("configs", "{}.py"))
        raise UserError(f"{no_such('config file', path)}{hint or '; settings are --name=value or --name=value,value'}")
    if not path.endswith(".py"):
        raise UserError(f"{path}: expected a config file, NAME.py (folders with data: --data_dir, models: --init_from)")
    text = read_text(path)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as e:  # null bytes
        raise UserError(f"{path}: not a config file of `name = value` lines: {e}") from None
    settings, places = {}, {}
    for line in tree.body:
        where = f"{path}, line {line.lineno}"
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # the docstring
        if not (isinstance(line, ast.Assign) and [*map(type, line.targets)] == [ast.Name]):
            raise UserError(f"{where}: expected `name = value`")
        name = line.targets[0].id
        try:
            settings[name], places[name] = ast.literal_eval(line.value), f"{name} in {where}"
        except (ValueError, TypeError, SyntaxError):
            raise UserError(f"{where}: expected a plain value such as 1e-4, (1, 2) or 'text'") from None
    return settings, places


def print_help(cls, doc, values, everything):
    """The doc, if Python has not left it out (-OO), and the settings with their values, or else defaults."""
    print(f"{(doc or '').strip()}\n\nsettings and their defaults:")
    own, rare = cls.__annotations__, [] if everything else getattr(cls, "rare", [])
    for f in dataclasses.fields(cls):
        group = f.metadata["group"]
        if issubclass(cls, TrainConfig) and f.name == next(iter(own), ""):
            group = group or "the method, task or model"
        if group:
            print(f"\n{group}")
        if f.name not in rare:
            flag = f"  --{f.name.rstrip('_')}={shown(values.get(f.name, f.default))}"
            among = f" [{', '.join(f.metadata['choices'])}]" if f.metadata["choices"] else ""
            text = f"{flag:<30}  {f.metadata['doc']}{among}"
            print(textwrap.fill(text, 80, subsequent_indent=" " * 32, break_on_hyphens=False))
    if rare:
        print("\n--help=all shows all settings")


def split(argv, kinds):
    """(what stands alone, {name: text}) of a command line; kinds: {name: type} of the settings; bool needs no text."""
    alone, flags, open_flag = [], {}, ""
    for arg in argv:
        if arg == "-h":
            arg = "--help"
        if arg.startswith("--"):
            name, equals, text = arg[2:].partition("=")
            name = name.replace("-", "_")
            name = f"{name}_" if keyword.iskeyword(name) else name  # a field cannot be called `from`
            flags[name] = text if equals else "true" if kinds.get(name) is bool else None
            open_flag = "" if equals else name
        elif open_flag and (flags[open_flag] is None or arg.lower() in ("true", "false")):
            flags[open_flag], open_flag = arg, ""
        else:
            alone.append(arg)
    return alone, flags


def parse(cls, argv, doc, takes_file=False, places=()):
    """An instance of cls from the command line; what stands alone is a config file, if the script takes one.

    cls: a dataclass, or a function from {name: value}, as they are written, to one: some settings belong to what
    others choose. places: the settings that may come without their names, in this order. The instance's `origin` says
    which settings are not left at their defaults: {name: "--name", or "name in FILE"}; `left_out` names those of the
    file that belong to something else than the command line has chosen. UserError for anything that is not understood;
    `--help` prints doc and the settings, as the config file has them, and exits.
    """
    class_for = (lambda given: cls) if isinstance(cls, type) else cls
    alone, flags = split(argv, typing.get_type_hints(class_for({})) | {"help": bool})
    if takes_file and "config" in flags:
        alone.insert(0, flags.pop("config") or "")
    file = alone.pop(0) if takes_file and alone else None
    if file == "":  # an empty $CONFIG must not start a training with the defaults
        raise UserError("the name of the config file is empty")
    if len(alone) > len(places):
        raise UserError(f"unexpected argument {alone[-1]!r}: settings are given as --name=value or --name=value,value")
    flags |= dict(zip(places, alone))
    help_wanted = flags.pop("help", None)
    written, where = read_config_file(file) if file else ({}, {})
    own, of_file = class_for(written | flags), class_for(written)
    other = {name: value for name, value in written.items() if hasattr(of_file, name) and not hasattr(own, name)}
    settings = {name: check(own, name, written[name], where[name]) for name in written if name not in other}
    for name, text in flags.items():
        settings[name] = check(own, name, from_text(own, name, text), f"--{name}")
        where[name] = f"--{name}"
    if help_wanted:
        print_help(own, doc, settings, help_wanted == "all")
        sys.exit(0)
    cfg = own(**settings)
    cfg.left_out = [f"{name}={shown(value)}" for name, value in other.items()]
    cfg.origin = {name: where[name] for name in settings}
    return cfg


def from_text(cls, name, text):
    """The python value that a text on the command line stands for, if it is one of this setting's kind."""
    kind, several, _ = parts_of(typing.get_type_hints(cls).get(name))
    if text is None and kind:
        raise UserError(f"--{name}: a value is missing")
    if kind is str:
        if name.endswith("_format"):
            text = text.replace("\\n", "\n")  # a shell does not do it
        return text.split(",") if several and text and not os.path.exists(text) else text
    try:
        return ast.literal_eval(text.title() if kind is bool else text)
    except (AttributeError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # not a number or tuple: check() will say so


def upstairs(folder, name, part="", known=()):
    """The module of a further file, folder/name.py, for whoever has asked for it; UserError without it, or its part.

    Nothing on this floor needs one of them: what is not asked for may be deleted, with its folder. known: the names
    that would have needed no file, for a message.
    """
    there = names_in(folder)
    if name not in there:
        file = f"{folder}/{shown(name)[1:-1]}.py"
        others = f"; expected it, or one of {', '.join([*known, *(n for n in there if n[0] != '_')])}" if known else ""
        raise UserError(f"{shown(name)} would be {file}, which is not there{others}{nearest(name, [*known, *there])}")
    module = importlib.import_module(f"{folder}.{name}")
    if part and not hasattr(module, part):
        raise UserError(f"{folder}/{name}.py has no {part}: it is for something else")
    return module


def settings_of(owner):
    """The `settings` {name: (type, option(...))} of a module or class upstairs; UserError if they are none."""
    found = getattr(owner, "settings", {})
    pairs = found.values() if isinstance(found, dict) else [found]
    if not all(isinstance(pair, tuple) and isinstance(pair[-1], dataclasses.Field) for pair in pairs):
        raise UserError(f"{owner.__name__}: settings = {shown(found)}, expected {{name: (type, option(default, doc))}}")
    return found


# ---------------------------------------------------------------- what users bring: mistakes, paths, text files


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
        with open(path, encoding="utf-8-sig") as f:
            return f.read()
    except FileNotFoundError:
        raise UserError(no_such("file", path)) from None
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        found = f"expected UTF-8, found the byte {e.object[e.start]:#04x}"
        raise UserError(f"{path}, line {line}: {found}: save it as UTF-8") from None


def read_json(path):
    """What a JSON file holds; UserError with line and column if it is none."""
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: an empty file, expected JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # the message has line and column
        lines = "; one problem a line? expected [problem, problem, ...]" if str(e).startswith("Extra data") else ""
        raise UserError(f"{path}: not JSON: {e}{lines}") from None


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


def counted(number, word):
    """ "1 problem", "2 problems"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


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
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")
        sys.exit(1)
    except OSError as e:  # disk full, no permission, ...
        print(f"error: {e.filename or 'files'}: {e.strerror or e}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)
