"""
Models: with random weights, with those of a run, with other people's; and checkpoints as files.

GPT-2's way to draw weights is in model.py; induction, at the end, is another, for tasks in which things are looked up.
"""

import dataclasses
import glob
import math
import os
from contextlib import suppress
from functools import lru_cache

import torch
from torch import nn

from config import UserError, check, first_line, no_such, ours, upstairs
from curriculum import change, config_class, kind_of, make_model
from model import GPT, SIZES, GPTConfig
from tokenizer import make_tokenizer

FORMAT = 5  # of checkpoints; to be raised when older programs or files will not do any more
MOST_PARAMETERS = 20 * 10**9  # of which each takes 16 bytes in training: refuse sizes that would exhaust memory


class Alone:
    """One process. torchrun starts several, for which speed/parallel.py does the same: this is what it has to do."""

    rank, size = 0, 1

    def start(self, device):
        """Join the others; returns the device of this process."""
        return device

    def share(self, items):
        """This process's part of a list."""
        return items

    def gather(self, items):
        """What share() has dealt out, whole again."""
        return items

    def any_of(self, flag):
        """Whether any process says so: they have to agree before they stop or save, or some would wait for ever."""
        return flag

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


def new_base(cfg, tok, **more):
    """A base model with random weights for all tokens; more: of its config, what is no setting.

    UserError for sizes that cannot be, or are more than memory.
    """
    kind, config_kind = base_classes(cfg.model)
    names = {f.name for f in dataclasses.fields(config_kind)} & {f.name for f in dataclasses.fields(cfg)}
    config = more | {name: getattr(cfg, name) for name in names} | {"vocab_size": tok.n_vocab}
    try:
        with torch.device("meta"):  # shapes only
            n_parameters = sum(p.numel() for p in kind(config_kind(**config)).parameters())
        if n_parameters > MOST_PARAMETERS:
            raise UserError(f"{n_parameters:,} parameters, expected at most {MOST_PARAMETERS:,}")
        base = kind(config_kind(**config))
    except ValueError as e:  # sizes that do not fit together
        raise UserError(str(e)) from None
    except RuntimeError as e:  # torch has no error of its own for the memory of a CPU
        if "allocate memory" not in str(e):
            raise
        raise UserError(f"{n_parameters:,} parameters are more than the memory holds") from None
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


def load_checkpoint(path):
    """(model in eval mode on the CPU, its TrainConfig, its tokenizer, the whole dict) of a file that Run.save wrote."""
    makes = f"`python {ours('train.py')} {ours('configs', 'NAME.py')}` makes one"
    if os.path.isdir(path):
        raise UserError(f"{path}: no checkpoint, best.pt or ckpt.pt, in this folder; {makes}")
    if not os.path.exists(path):
        raise UserError(f"{no_such('checkpoint', path)}; {makes}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if "format" not in saved:
            raise ValueError(f"found {', '.join(map(str, saved))}")
        number = saved["format"]
    except Exception as e:  # torch and pickle have a dozen ways to say that a file is none of theirs
        raise UserError(f"{path}: not a checkpoint of this project: {first_line(e)}") from None
    if number == 4:  # before models were wrapped
        saved = upstairs("pretrained", "format4").convert(saved, path)
    elif number != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {number}, this program reads {FORMAT}")
    try:
        settings = config_class(saved["config"])
        cfg = settings(**{k: check(settings, k, v, path) for k, v in saved["config"].items()})
        tok = make_tokenizer(cfg.tokenizer, saved["pieces"])
        kind, config_kind = base_classes(cfg.model)
        with torch.device("meta"):  # shapes only: the values come from the file
            model = make_model(kind(config_kind(**saved["base"])), cfg, tok)
        model.load_state_dict(saved["model"], assign=True)
        for name in ("stage", "longest"):
            if type(saved.get(name)) is not int or saved[name] < 0:
                raise UserError(f"{path}: a broken checkpoint: expected a number {name!r}")
    except UserError:
        raise
    except Exception as e:  # one that was changed by hand
        raise UserError(f"{path}: a broken checkpoint: {first_line(e)}") from None
    return model.float().eval(), cfg, tok, saved  # float: a file may have it in half precision, to be small


def token_ids(tok):
    """{token as bytes: its number} of all tokens."""
    return tok._mergeable_ranks | {name.encode(): i for name, i in tok._special_tokens.items()}


def sizes(base, cfg):
    """cfg with the sizes of a base model that has brought its own."""
    names = vars(base.config).keys() & {f.name for f in dataclasses.fields(cfg)} - {"dropout"}
    return change(cfg, **{name: getattr(base.config, name) for name in names})


def from_run(path, cfg, tok):
    """(a model that begins with the weights of a run of ours, cfg with its sizes); new words start at random."""
    old, old_cfg, old_tok, _ = load_checkpoint(path)
    if cfg.tokenizer not in ("source", old_cfg.tokenizer):
        raise UserError(f"{path}: its tokenizer is {old_cfg.tokenizer!r}, that of this run {cfg.tokenizer!r}")
    if old_cfg.feedback != cfg.feedback and kind_of(cfg.method).instead == "thought":
        print(f"{path} was trained to think with feedback={old_cfg.feedback}, and goes on with {cfg.feedback}")
    block_size = max(cfg.block_size, old.config.block_size)
    cfg = change(sizes(old.base, change(cfg, model=old_cfg.model)), block_size=block_size)
    model = make_model(new_base(cfg, tok, **vars(old.config)), cfg, tok)
    ids, old_ids = token_ids(tok), token_ids(old_tok)
    shared = [token for token in ids if token in old_ids]
    own, given = model.state_dict(), old.state_dict()
    for name in own.keys() & given.keys():
        if own[name].shape[1:] != given[name].shape[1:]:
            continue  # another feedback's
        if name in ("base.wte.weight", "base.embed_tokens.weight", "base.lm_head.weight"):  # a row for each token
            own[name][[ids[t] for t in shared]] = given[name][[old_ids[t] for t in shared]]
        else:
            own[name][: len(given[name])] = given[name]
    return model, cfg


def from_elsewhere(source, cfg, tok):
    """(a model around other people's weights, with room for the special tokens, cfg with its sizes)."""
    if source in SIZES or not os.path.isdir(ours("pretrained")):
        if tok.name != "gpt2":
            raise UserError(f"{source}: it knows GPT-2's tokens, but the tokenizer is {tok.name!r}")
        try:
            base = GPT.from_pretrained(source, cfg.dropout)
        except (ValueError, FileNotFoundError) as e:
            raise UserError(str(e)) from None
        like = tok.encode_ordinary("<<")  # new tokens start as copies of this one, as in the official code
        base.grow_vocab(tok.n_vocab, like[0] if len(like) == 1 else None)
        cfg = sizes(base, change(cfg, model="gpt2"))
        return make_model(base, cfg, tok), cfg
    return upstairs("pretrained", "weights").load_model(source, cfg, tok)


def source_tokenizer(source):
    """The tokenizer of weights: of a run its own, of other people's what stands beside them, or else GPT-2's."""
    path = find_checkpoint(source)
    if is_ours(path):
        return load_checkpoint(path)[2]
    if source in SIZES or not os.path.isdir(ours("pretrained")):
        return make_tokenizer("gpt2")
    return upstairs("pretrained", "weights").load_tokenizer(source)


def initial_model(cfg, tok):
    """(the model that a run begins with, cfg with its sizes)."""
    path = find_checkpoint(cfg.init_from)
    if cfg.init_from == "scratch":
        return make_model(new_base(cfg, tok), cfg, tok), cfg
    if is_ours(path):  # such as the chain of thought that the paper's GSM8K begins with
        return from_run(path, cfg, tok)
    return from_elsewhere(path, cfg, tok)


def write_checkpoint(path, checkpoint):
    """Write beside, then rename: there is always a whole checkpoint, the old one or the new."""
    folder = os.path.dirname(path)
    for last_try in (False, True):
        os.makedirs(folder, exist_ok=True)  # somebody may have tidied up
        try:
            torch.save(checkpoint, path + ".tmp")
            os.replace(path + ".tmp", path)
            return
        except (OSError, RuntimeError) as e:  # torch's words for a full disk differ from version to version
            if not os.path.isdir(folder) and not last_try:  # tidied up in this very moment
                continue
            with suppress(FileNotFoundError):
                os.remove(path + ".tmp")
            raise UserError(f"cannot write {path}.tmp, is the disk full? {first_line(e)}") from None


def lock(path):
    """An open file that no other process can lock until it is closed; UserError if one has."""
    file = open(path, "w")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        folder = os.path.dirname(path)
        raise UserError(f"{folder}: another run is writing here: wait for it, or choose another --out_dir") from None
    except (ImportError, OSError):  # no locks on Windows, nor on some network file systems
        pass
    return file


def discard(folder):
    """Remove what a run has left in its folder, but for pictures, and what has been found out about its model."""
    for name in ("ckpt.pt", "best.pt", "log.txt", "analysis.json", "explore.html"):
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


# ---------------------------------------------------------------- weights that look things up
#
# A fact such as "a b |" is looked up in two steps (an induction head; Olsson et al. 2022, 2209.11895): in the first
# layer each token looks at the one before it, so that b knows that it follows a; in the second, whoever has a in mind
# finds that b. From GPT-2's random weights it takes a long time until the two happen to fit together, and nothing else
# can be learned before. Here they fit from the beginning, which is a matter of how the matrices are drawn (mimetic
# initialisation; Trockman and Kolter 2023, 2305.09828). All of them are trained as usual. Other facts: tasks/facts.py.


@torch.no_grad()
def induction(model):
    """Draw the weights of a GPT-2 anew; what is not named here begins as GPT-2's."""
    C, hs, first = model.config.n_embd, model.config.n_embd // model.config.n_head, model.h[0].attn
    nn.init.normal_(model.wte.weight, std=0.28)
    # Positions are points on circles that turn at C / 2 different speeds, so the place before is one rotation away.
    speed = math.pi * (torch.arange(C // 2) + 0.5) / (C // 2)
    angle = torch.arange(model.config.block_size)[:, None] * speed
    model.wpe.weight.copy_(0.28 * math.sqrt(2) * torch.cat((angle.sin(), angle.cos()), 1))
    cos, sin = speed.cos().diag(), speed.sin().diag()
    back = torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)))  # wpe[t] back^T = wpe[t - 1]
    q, k, v = first.c_attn.weight.split(C)  # (C, C) each: rows are outputs, and the first hs of them head 0's
    for w in q, k:
        nn.init.normal_(w, std=0.02)
    nn.init.normal_(k[:hs], std=math.sqrt(2 / C))
    q[:hs] = k[:hs] @ back
    nn.init.orthogonal_(v)
    nn.init.orthogonal_(first.c_proj.weight)
    writes = first.c_proj.weight[:, :hs] @ v[:hs]  # what head 0 of the first layer adds to x, of what it looks at
    first.c_proj.weight.mul_(0.4)
    for block in model.h[1:]:
        q, k, v = block.attn.c_attn.weight.split(C)
        nn.init.normal_(q, std=math.sqrt(3 / C))
        k.copy_(q @ writes.T)  # who was written there matches who is looked for
        nn.init.normal_(v, std=math.sqrt(1 / C))
        block.attn.c_proj.weight.copy_(0.6 * v.T)  # what is found becomes what is said
    for block in model.h:
        nn.init.normal_(block.mlp.c_proj.weight, std=0.03)
    # A hidden state that is fed back is as long as an embedding: thoughts are read as words are, and logits, which are
    # products of the two, are near 1 as usual.
    model.ln_f.weight.fill_(0.28)
