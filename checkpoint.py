"""
Models: with random weights, with those of a run, with other people's; checkpoints as files; how a run is stopped.

GPT-2's way to draw weights is in model.py; induction, at the end, is another, for tasks in which things are looked up.
"""

import dataclasses
import glob
import io
import math
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple, get_type_hints

import torch
from torch import nn

from config import TrainConfig, UserError, check, first_line, no_such, ours, replacing, shown, upstairs
from curriculum import change, config_class, make_model
from model import GPT, SIZES, GPTConfig
from tokenizer import make_tokenizer

FORMAT = 5  # of checkpoints; to be raised when older programs or files will not do any more
MOST_PARAMETERS = 20 * 10**9  # of which each takes 16 bytes in training: refuse sizes that would exhaust memory


class Alone:
    """One process. torchrun starts several, for which speed/parallel.py does the same: this is what it has to do."""

    rank, size = 0, 1

    def itself(self, x):
        return x

    start = itself  # join the others: the device of this process, of that which was asked for
    share = itself  # this process's part of a list
    gather = itself  # what share() has dealt out, whole again
    # whether any process says so: they have to agree before they stop or save, or some would wait for ever
    any_of = itself

    def wrap(self, objective, speed):
        """An Objective as train_step calls it; speed: the setting."""
        return objective

    def states(self, objective, optimizer):
        """(weights of the model, moments of the optimizer)."""
        return objective.model.state_dict(), optimizer.state_dict()

    def load_optimizer(self, objective, optimizer, state):
        optimizer.load_state_dict(state)

    def stop(self):
        """Leave the others."""


@lru_cache(1)
def team():
    """The processes that work together."""
    return upstairs("speed", "parallel").Team() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else Alone()


def pick_device(name):
    """The name of a device that works here; UserError if it does not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and team().size > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name).item()
    except Exception as e:  # each backend has its own way to say no
        raise UserError(f"--device={name} does not work here: {first_line(e)}") from None
    return name


def base_classes(name):
    """(class, class of its config) of a base model: model.py's, or that of a file of pretrained/."""
    return (GPT, GPTConfig) if name == "gpt2" else upstairs("pretrained", name).base_classes


def new_base(cfg, tok, **fixed):
    """A base model with random weights for all tokens; fixed: of its config, what the settings do not decide.

    UserError for sizes that cannot be, or are more than memory.
    """
    kind, config_kind = base_classes(cfg.model)
    names = {f.name for f in dataclasses.fields(config_kind)} & {f.name for f in dataclasses.fields(cfg)}
    config = {name: getattr(cfg, name) for name in names} | fixed | {"vocab_size": tok.n_vocab}
    try:
        with torch.device("meta"):  # shapes only
            n_parameters = sum(p.numel() for p in kind(config_kind(**config)).parameters())
        if n_parameters > MOST_PARAMETERS:
            raise ValueError(f"{n_parameters:,} parameters, expected at most {MOST_PARAMETERS:,}")
        base = kind(config_kind(**config))
    except (ValueError, RuntimeError) as e:  # sizes that do not fit together, or into the memory
        raise UserError(first_line(e)) from None
    if cfg.init == "induction":
        if cfg.model != "gpt2":
            raise UserError("init=induction is for model=gpt2: it needs positions that are added to the input")
        induction(base)
    return base


def find_checkpoint(path):
    """The checkpoint that a path stands for: of a run's folder best.pt, or ckpt.pt if there is no best.pt yet."""
    names = [os.path.join(path, name) for name in ("best.pt", "ckpt.pt")]
    return next(filter(os.path.exists, names), path)


def latest_run():
    """The checkpoint under out/ that was written to last; out/ itself if there is none."""
    found = [find_checkpoint(folder) for folder in glob.glob("out/*/")]
    return max(filter(os.path.isfile, found), key=os.path.getmtime, default="out")


def questions_for(path, cfg):
    """The data file to try a checkpoint with: NAME.json beside NAME.pt if it is there, else its task's test file."""
    beside = os.path.splitext(path)[0] + ".json"
    return beside if os.path.exists(beside) else os.path.join(cfg.data_dir[-1], "test.json")


def is_ours(path):
    """Whether a file is a checkpoint that Run.save wrote, of whatever format."""
    try:
        return {"format", "config", "pieces"} <= torch.load(path, map_location="meta", weights_only=True).keys()
    except Exception:  # somebody else's file
        return False


class Loaded(NamedTuple):
    """A run's checkpoint."""

    model: nn.Module  # in eval mode, on the CPU
    cfg: TrainConfig
    tok: object  # a tiktoken.Encoding
    state: dict  # all that Run.save wrote


def load_checkpoint(path):
    """The Loaded of a file that Run.save wrote."""
    if not os.path.isfile(path):
        nothing = f"{path}: no checkpoint, best.pt or ckpt.pt, in this folder"
        nothing = nothing if os.path.isdir(path) else no_such("checkpoint", path)
        raise UserError(f"{nothing}; `python {ours('train.py')} {ours('configs', 'NAME.py')}` makes one")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if "format" not in state:
            raise ValueError(f"found {', '.join(map(str, state))}")
        if state["format"] == 4:  # before models were wrapped
            state = upstairs("pretrained", "format4").convert(state, path)
        elif state["format"] != FORMAT:
            raise UserError(f"{path}: a checkpoint of format {state['format']}, this program reads {FORMAT}")
        settings = config_class(state["config"])
        cfg = settings(**{k: check(settings, k, v, path) for k, v in state["config"].items()})
        tok = make_tokenizer(cfg.tokenizer, state["pieces"])
        kind, config_kind = base_classes(cfg.model)
        checked = {name: value for name, value in vars(cfg).items() if name in state["base"]}  # sizes, by check()
        base = config_kind(**state["base"] | checked)
        for name, expected in get_type_hints(config_kind).items():
            if not isinstance(getattr(base, name), expected | int):  # an int will do for a float
                raise ValueError(f"{name} = {shown(getattr(base, name))}")
        with torch.device("meta"):  # shapes only: the values come from the file
            model = make_model(kind(base), cfg, tok)
        model.load_state_dict(state["model"], assign=True)
        for name in ("stage", "longest"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"expected a number {name!r}")
    except UserError:
        raise
    except Exception as e:  # torch and pickle have a dozen ways to say no, and somebody may have changed it by hand
        raise UserError(f"{path}: not a checkpoint of this project, or a broken one: {first_line(e)}") from None
    return Loaded(model.float().eval(), cfg, tok, state)  # float: a file may have it in half precision, to be small


def merge(old, cfg, free, why):
    """The settings of a checkpoint with those that were given; UserError if what is not free differs."""
    theirs = vars(GPTConfig()).keys() if old.init_from != "scratch" else ()  # in a file these may be other weights'
    differing = []
    for name, how in cfg.origin.items():
        was, now = getattr(old, name, None), getattr(cfg, name)
        if name not in free and was != now and (name not in theirs or how == f"--{name}"):
            differing.append(f"{how} was {was!r}, now {now!r}")
    if differing:
        raise UserError(f"{why}: {', '.join(differing)}")
    given = {name: getattr(cfg, name) for name in cfg.origin if name in free}
    return change(old, **{"overwrite": False} | given)  # what was a command then


def sizes(base, cfg):
    """cfg with the sizes of a base model that has brought its own; UserError if the command line says others."""
    its = {name: size for name, size in vars(base.config).items() if hasattr(cfg, name) and name != "dropout"}
    for name, size in its.items():
        if cfg.origin.get(name) == f"--{name}" and getattr(cfg, name) != size:
            where = f"{name} is {size} in the weights, {cfg.init_from}"
            raise UserError(f"--{name}={getattr(cfg, name)} has no effect: {where}")
    return change(cfg, **its)


def from_gpt2(source, cfg, tok):
    """(a model around OpenAI's weights, with room for the special tokens, cfg with its sizes)."""
    if tok.name != "gpt2":
        raise UserError(f"{source}: it knows GPT-2's tokens, but the tokenizer is {tok.name!r}")
    try:
        base = GPT.from_pretrained(source, cfg.dropout)
    except (ValueError, FileNotFoundError) as e:
        raise UserError(str(e)) from None
    base.grow_vocab(tok.n_vocab, tok.encode_ordinary("<<")[0])  # new ones are copies of this, as in the official code
    cfg = sizes(base, change(cfg, model="gpt2"))
    return make_model(base, cfg, tok), cfg


def initial_model(cfg, tok):
    """(the model that a run begins with, cfg with its sizes)."""
    source = cfg.init_from
    if source == "scratch":
        return make_model(new_base(cfg, tok), cfg, tok), cfg
    if source in SIZES or not os.path.isdir(ours("pretrained")):
        return from_gpt2(source, cfg, tok)
    return upstairs("pretrained", "weights").initial_model(source, cfg, tok)


def write_checkpoint(path, state):
    """Write beside, then rename: there is always a whole checkpoint, the old one or the new."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)  # somebody may have tidied up
    try:
        with replacing(path, "wb") as file:
            torch.save(state, file)
    except (UserError, RuntimeError) as e:  # torch's words for a full disk differ from version to version
        if os.path.isdir(folder):
            raise UserError(f"{path}: cannot be written, is the disk full? {first_line(e)}") from None
        write_checkpoint(path, state)  # it was tidied up in this very moment


@contextmanager
def lock(folder):
    """In here no other process writes in a run's folder: UserError if one does. It is let go on any way out."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "lock")
    with open(path, "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "another run is writing here: wait for it, or choose another --out_dir"
            raise UserError(f"{folder}: {why}") from None
        except (ImportError, OSError):  # no locks on Windows, nor on some network file systems
            pass
        try:
            yield
        finally:
            with suppress(OSError):
                if os.listdir(folder) == ["lock"]:  # nothing has come of it
                    os.remove(path)
                    os.rmdir(folder)


def discard(folder):
    """Remove a run's checkpoints and log, and what was found out about its model; pictures stay."""
    for name in ("ckpt.pt", "best.pt", "log.txt", "analysis.json", "explore.html"):
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


# ---------------------------------------------------------------- how a run is stopped


class Stopped(Exception):
    """Somebody has asked to stop, at a moment when nothing would be lost."""


class Stops(io.TextIOBase):
    """Requests to stop, which a run follows after its step: stop() says whether there is one, to all processes alike.

    They are ^C, SIGTERM (from clusters), SIGHUP (a terminal is closed) and a stdout that takes nothing any more (`|
    head`, a full disk): so it stands in for sys.stdout. In a thread, which gets no signals, it is that alone.
    """

    asked = leaves = False

    def __enter__(self):
        self.stdout, sys.stdout, self.handlers = sys.stdout, self, {}
        if threading.current_thread() is threading.main_thread():
            for name in {"SIGINT", "SIGTERM", "SIGHUP"} & {*dir(signal)}:
                number = getattr(signal, name)
                if name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                    self.handlers[number] = signal.signal(number, self.ask)
        return self

    def __exit__(self, *error):
        sys.stdout = self.stdout
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def __call__(self):
        return team().any_of(bool(self.asked))

    def ask(self, number=None, frame=None):
        if not self.asked:
            self.asked = time.monotonic()
            with suppress(RuntimeError):  # it may have come in the middle of another print
                print("\nfinishing this step, then saving (^C once more: stop at once)")
        elif number == signal.SIGINT and time.monotonic() > self.asked + 1:  # torchrun passes on what all got already
            raise KeyboardInterrupt
        if self.leaves:
            raise Stopped

    @contextmanager
    def at_once(self):
        """In here, since nothing would be lost, Stopped is raised as soon as somebody asks."""
        self.leaves = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self.leaves = False

    def write(self, text):
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except OSError:  # from here on to stderr, or if that has gone, too, nowhere
            self.stdout = open(os.devnull, "w") if self.stdout is sys.stderr else sys.stderr
            self.ask()


# ---------------------------------------------------------------- weights that look things up
#
# A fact such as "a b |" is looked up in two steps (an induction head; Olsson et al. 2022, 2209.11895): in the first
# layer each token looks at the one before it, so that b knows that it follows a; in the second, whoever has a in mind
# finds that b. From GPT-2's random weights it takes a long time until the two happen to fit together, and nothing else
# can be learned before. Here they fit from the beginning, which is a matter of how the matrices are drawn (mimetic
# initialisation; Trockman and Kolter 2023, 2305.09828). All of them are trained as usual. Other facts: tasks/facts.py.


def rotation(angles):
    """(C, C), of C / 2 angles: what turns a point on each of C / 2 circles, [sines, cosines], back by its angle."""
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)))


@torch.no_grad()
def look_up(model):
    """The layers after the first: who has something in mind finds where head 0 of the first has written it."""
    C, hs, first = model.config.n_embd, model.config.n_embd // model.config.n_head, model.h[0].attn
    writes = first.c_proj.weight[:, :hs] @ first.c_attn.weight[2 * C :][:hs]  # what it adds to x, of what it looks at
    for block in model.h[1:]:
        q, k, v = block.attn.c_attn.weight.split(C)
        nn.init.normal_(q, std=math.sqrt(3 / C))
        k.copy_(q @ writes.T)  # who was written there matches who is looked for
        nn.init.normal_(v, std=math.sqrt(1 / C))
        block.attn.c_proj.weight.copy_(0.6 * v.T)  # what is found becomes what is said


@torch.no_grad()
def induction(model, distance=1, look_up=look_up):
    """Draw the weights of a GPT-2 anew; what is not named here begins as GPT-2's.

    distance: how many tokens before, head 0 of the first layer looks; look_up: draws the other layers.
    """
    C, hs, first = model.config.n_embd, model.config.n_embd // model.config.n_head, model.h[0].attn
    nn.init.normal_(model.wte.weight, std=0.28)
    # Positions are points on circles that turn at C / 2 different speeds, so some places before is one rotation away.
    speed = math.pi * (torch.arange(C // 2) + 0.5) / (C // 2)
    angle = torch.arange(model.config.block_size)[:, None] * speed
    model.wpe.weight.copy_(0.28 * math.sqrt(2) * torch.cat((angle.sin(), angle.cos()), 1))
    q, k, v = first.c_attn.weight.split(C)  # (C, C) each: rows are outputs, and the first hs of them head 0's
    for w in q, k:
        nn.init.normal_(w, std=0.02)
    nn.init.normal_(k[:hs], std=math.sqrt(2 / C))
    q[:hs] = k[:hs] @ rotation(distance * speed)  # wpe[t] rotation^T = wpe[t - distance]
    nn.init.orthogonal_(v)
    nn.init.orthogonal_(first.c_proj.weight)
    look_up(model)
    first.c_proj.weight.mul_(0.4)
    for block in model.h:
        nn.init.normal_(block.mlp.c_proj.weight, std=0.03)
    # A hidden state that is fed back is as long as an embedding: thoughts are read as words are, and logits, which are
    # products of the two, are near 1 as usual.
    model.ln_f.weight.fill_(0.28)
