"""
Settings: a dataclass of fields for each script, filled from its defaults, then a config file, then the command line.

Which settings there are is said by each script, and for training by settings.py.

A config file is plain assignments (`lr = 1e-4`) that are read, never executed. On the command line the same is
`--lr=1e-4` or `--lr 1e-4`; `--peek` alone means `--peek=true`; one value per stage is `--lr=2e-3,5e-4`.
"""

import ast
import dataclasses
import difflib
import keyword
import math
import os
import sys
import types
import typing

from textfile import UserError, no_such, ours, read_text

LARGEST = 10**9  # no setting that is an integer may be larger, unless its option() says so
NANOGPT = {  # what is known there by another name
    "learning_rate": "lr", "max_iters": "steps", "eval_interval": "eval_every", "log_interval": "log_every",
    "warmup_iters": "warmup_steps", "dataset": "data_dir",
}  # fmt: skip


def first_line(e):
    """The first line of an exception's message, or its name if it has none."""
    return (str(e).strip() or type(e).__name__).splitlines()[0][:120]


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


def read_config_file(cls, path):
    """{name: value} of a file of plain assignments; UserError with file and line for anything else."""
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        there = sorted(f for f in os.listdir(folder) if f.endswith(".py")) if os.path.isdir(folder) else []
        there = nearest(os.path.basename(path), there)
        there = there or (f"; did you mean {ours(path)}?" if os.path.exists(ours(path)) else "")
        raise UserError(no_such("config file", path) + there)
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


def parse(cls, argv, doc, takes_file=False, places=()):
    """An instance of cls from the command line; an argument without -- is a config file, if the script takes one.

    places: the settings that may come without their names, in this order. The instance's `given` says which settings
    are not left at their defaults: {name: "--name", or "name in FILE"}. UserError for anything that is not understood;
    `--help` prints doc and the settings, and exits. cls.suit(the file's settings, those of the command line), if there
    is such a method, returns what is taken from the file, and what is not, to be named: [text, ...], in `left_out`.
    """
    kinds, file, flags, argv, several = typing.get_type_hints(cls), None, {}, list(argv), ""
    while argv:
        arg = argv.pop(0)
        if not arg.isascii() and any("\ud800" <= c <= "\udfff" for c in arg):
            raise UserError(f"{arg!r} is not UTF-8")
        if arg in ("-h", "--help"):
            print_help(cls, doc)
            sys.exit(0)
        if not arg.startswith("--"):
            if several and not os.path.exists(arg):
                raise UserError(f"unexpected argument {arg!r}: values are separated by commas: {several},{arg}")
            if not places and (file or not takes_file):
                raise UserError(f"unexpected argument {arg!r}: settings are given as --name=value")
            if places:
                flags[places[0]], places = check(cls, places[0], arg, "command line"), places[1:]
            else:
                file = arg
            continue
        name, equals, text = arg[2:].partition("=")
        name = name.replace("-", "_") + "_" * keyword.iskeyword(name)  # a field cannot be called `from`
        follows = argv[0] if argv and not argv[0].startswith("--") else None
        if not equals and kinds.get(name) in (bool, bool | None) and follows not in ("true", "false"):
            text = "true"
        elif not equals and name in kinds:
            if follows is None:
                raise UserError(f"--{name}: a value is missing")
            text = argv.pop(0)
        text = text.replace("\\n", "\n") if name.endswith("_format") else text  # a shell does not do it
        value = {str: text, str | None: text, tuple[str, ...]: text.split(",")}.get(kinds.get(name))
        value = literal(text) if value is None else value
        flags[name] = check(cls, name, value, "command line")
        several = f"--{name}={text.rstrip(',')}" * (typing.get_origin(kinds[name]) is tuple)
    found = read_config_file(cls, file) if file else {}
    settings, left_out = cls.suit(found, flags) if hasattr(cls, "suit") else (found, [])
    cfg = cls(**{**settings, **flags})
    cfg.left_out = left_out
    cfg.given = {name: f"{name} in {file}" for name in settings} | {name: f"--{name}" for name in flags}
    return cfg


def literal(text):
    """The python value that a text on the command line stands for; the text itself if it stands for none."""
    try:
        return {"true": True, "false": False}[text] if text in ("true", "false") else ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # not a number or tuple: check() will say so


def cli(main):
    """Run a script's main(argv). What the user can put right becomes one line on stderr, and exit code 2."""
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
