"""
Models as files: checkpoints of train.py, weights from elsewhere (pretrained/weights.py reads them), and new ones.

What a run saves besides its model, and when, is run.py's business.
"""

import dataclasses
import glob
import os

import torch

from coconut import Coconut
from config import UserError, check, first_line
from curriculum import METHODS
from init import induction
from model import GPT, GPTConfig
from pretrained.hf_tokenizer import load_tokenizer
from pretrained.llama import Llama, LlamaConfig, is_llama
from pretrained.weights import find, find_beside, read_json, read_safetensors, some, why_not_weights
from settings import TrainConfig
from speed import parallel
from textfile import no_such, ours
from tokenizer import PAUSE, make_tokenizer

MODELS = {"gpt2": (GPT, GPTConfig), "llama": (Llama, LlamaConfig)}
# settings that come with weights from elsewhere
SIZES = "model n_layer n_head n_embd block_size n_kv_head head_dim n_inner rope_theta".split()
THINKING = "thinking.safetensors"  # beside exported weights, those that no other program knows
TOKEN_ROWS = "wte.weight", "embed_tokens.weight", "lm_head.weight"  # matrices with a row for each token
MOST_PARAMETERS = 20 * 10**9  # of which each takes 16 bytes in training: to fill a memory in silence is no answer
FORMAT = 4  # of checkpoints; to be raised when older programs or files will not do any more
GONE = {"fixed_positions": False}  # settings that older checkpoints have: they are read if the value is this one


def pick_device(name):
    """The name of a device that works here; UserError if it does not."""
    name = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    name = f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and parallel.WORLD > 1 else name
    try:
        torch.zeros(1, device=name).item()
    except Exception as e:  # each backend has its own way to say no
        raise UserError(f"--device={name} does not work here: {first_line(e)}") from None
    return name


def sizes(model):
    """The settings that a model has brought along."""
    return {name: getattr(model.config, name) for name in SIZES if hasattr(model.config, name)}


def model_config(cfg, **more):
    """The GPTConfig or LlamaConfig that the settings describe; more: its fields that are no settings."""
    config = MODELS[cfg.model][1]
    names = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(cfg)}
    return config(**more | {name: getattr(cfg, name) for name in names})


def new_model(cfg, tok, **more):
    """A model with random weights for all tokens; more: as in model_config. UserError if memory does not do."""
    kind = MODELS[cfg.model][0]
    config = model_config(cfg, **more | {"vocab_size": tok.n_vocab, "pause": tok.encode_single_token(PAUSE)})
    with torch.device("meta"):  # shapes only
        n_parameters = sum(p.numel() for p in kind(config).parameters())
    if n_parameters > MOST_PARAMETERS:
        raise UserError(
            f"{n_parameters:,} parameters (n_layer, n_embd, block_size), expected at most {MOST_PARAMETERS:,}"
        )
    try:
        model = kind(config)
    except RuntimeError as e:  # torch has no error of its own for the memory of a CPU
        if "allocate memory" not in str(e):
            raise
        raise UserError(f"{cfg.n_layer} layers of width {cfg.n_embd} are more than the memory holds") from None
    if cfg.init == "induction":
        induction(model)
    return model


def token_ids(tok):
    """{token as bytes: its number} of all tokens."""
    return tok._mergeable_ranks | {name.encode(): i for name, i in tok._special_tokens.items()}


def source_tokenizer(source):
    """The tokenizer of weights: of a checkpoint its own, beside a Llama the one in its files, or else GPT-2's."""
    source = find_checkpoint(source)
    if is_ours(source):
        return load_checkpoint(source)[2]
    return load_tokenizer(source) if is_llama(source) else make_tokenizer("gpt2")


def its_thinking(source):
    """How weights were trained to think, {setting: value}, which export.py or a checkpoint notes; {}: nobody says."""
    source = find_checkpoint(source)
    if is_ours(source):
        return {name: getattr(load_checkpoint(source)[1], name) for name in Coconut.SETTINGS}
    path = find(source)[1]
    config = read_json(path) if path else {}
    its = {name: config[name] for name in Coconut.SETTINGS if isinstance(config, dict) and name in config}
    return {name: check(TrainConfig, name, value, path) for name, value in its.items()}


def say_how_it_thought(source, its, cfg):
    """What weights have been trained to think with, {setting: value}, where that is not how they go on."""
    for name in Coconut.SETTINGS if METHODS[cfg.method].instead == "thought" else ():
        ours = getattr(cfg, name)
        if its.get(name, ours) != ours:
            print(f"{source} was trained to think with {name}={its[name] or None}, and goes on with {ours or None}")


def pretrained_model(source, cfg, tok):
    """(a model with weights from `source` and room for the special tokens, cfg with the model's sizes)."""
    source = find_checkpoint(source)
    if is_ours(source):  # such as the chain of thought that the paper's GSM8K begins with
        old, its_cfg, its_tok, _ = load_checkpoint(source)
        if cfg.tokenizer not in ("source", its_cfg.tokenizer):
            raise UserError(f"{source}: its tokenizer is {its_cfg.tokenizer!r}, that of this run {cfg.tokenizer!r}")
        say_how_it_thought(source, vars(its_cfg), cfg)
        longer = max(cfg.block_size, old.config.block_size)
        cfg = dataclasses.replace(cfg, **sizes(old) | {"block_size": longer})
        model, ids, its_ids = new_model(cfg, tok, **vars(old.config)), token_ids(tok), token_ids(its_tok)
        shared = [token for token in ids if token in its_ids]
        own, its = model.state_dict(), old.state_dict()
        for name in own.keys() & its.keys():  # what it has not known starts from random values: words, positions
            if name in TOKEN_ROWS:
                own[name][[ids[t] for t in shared]] = its[name][[its_ids[t] for t in shared]]
            else:
                own[name][: len(its[name])] = its[name]
        return model, cfg
    llama, thinks = is_llama(source), its_thinking(source)
    say_how_it_thought(source, thinks, cfg)
    model = (Llama if llama else GPT).from_pretrained(source, cfg.dropout)
    found, wanted, its = model.config.vocab_size, tok.n_vocab, ("source",) if llama else ("source", "gpt2")
    known = 1 + max({*range(wanted)} - {*tok.added})
    if found < known or (found != wanted and cfg.tokenizer not in its):
        raise UserError(f"{source}: it knows {found} tokens, but the tokenizer {cfg.tokenizer!r} has {wanted}")
    like = tok.encode_ordinary("<<")  # new tokens start as copies of this one, as in the official code
    like = like[0] if len(like) == 1 else None
    if llama:
        model.grow_vocab(wanted, like, unused=tok.added)
    else:
        if found > wanted:
            print(f"WARNING: {source} knows {found} tokens, not {wanted}: its special tokens may not be ours")
        model.grow_vocab(wanted, like)
    for name in Coconut.SETTINGS:
        setattr(model.config, name, getattr(cfg, name))
    model.config.pause = tok.encode_single_token(PAUSE)
    model.equip()
    if thinks:
        load_thinking(model, source)
    return model, dataclasses.replace(cfg, **sizes(model))


def load_thinking(model, source):
    """Take the weights with which an exported model thinks, as far as it goes on with the same; else say so."""
    path, own = find_beside(source, THINKING), {k for k in model.state_dict() if k.startswith(Coconut.OWN)}
    found, shapes = read_safetensors(path) if path else {}, {k: t.shape for k, t in model.state_dict().items()}
    fitting = {k: t for k, t in found.items() if k in own and t.shape == shapes[k]}
    if fitting.keys() < found.keys():
        print(f"{path}: left out, since this model thinks otherwise: {some(found.keys() - fitting.keys())}")
    if fitting.keys() < own:
        print(f"{source}: these begin anew: {some(sorted(own - fitting.keys()))}")
    model.load_state_dict(fitting, strict=False)


def find_checkpoint(path):
    """The checkpoint that a path stands for: of a run's folder best.pt, or ckpt.pt if there is no best.pt yet."""
    names = [os.path.join(path, name) for name in ("best.pt", "ckpt.pt")]
    return next(filter(os.path.exists, names), path)


def latest_run():
    """The checkpoint under out/ that was written to last; out/ itself if there is none."""
    found = [find_checkpoint(folder) for folder in glob.glob("out/*/")]
    return max(filter(os.path.isfile, found), key=os.path.getmtime, default="out")


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
    except Exception as e:  # torch and pickle have a dozen ways to say that a file is none of theirs
        why = why_not_weights(path, first_line(e))
        raise UserError(f"{path}: not a checkpoint of this project: {why}") from None
    if not isinstance(saved, dict) or "format" not in saved:
        found = some(saved) if isinstance(saved, dict) else type(saved).__name__
        raise UserError(f"{path}: not a checkpoint of this project, found {found}")
    if saved["format"] != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {saved['format']}, this program reads {FORMAT}")
    try:
        for settings in (saved["config"], saved["model_config"]):
            for name in [name for name, value in GONE.items() if settings.get(name) == value]:
                del settings[name]
        cfg = TrainConfig(**{k: check(TrainConfig, k, v, path) for k, v in saved["config"].items()})
        tok = make_tokenizer(cfg.tokenizer, saved["pieces"])
        with torch.device("meta"):  # shapes only: the values come from the file
            model = MODELS[cfg.model][0](model_config(cfg, **saved["model_config"]))
        model.load_state_dict(saved["model"], assign=True)
        for name, kind in (("stage", int), ("longest", int)):
            if type(saved.get(name)) is not kind or saved[name] < 0:
                raise UserError(f"{path}: a broken checkpoint: expected a number {name!r}")
    except UserError:
        raise
    except Exception as e:  # one that was changed by hand
        raise UserError(f"{path}: a broken checkpoint: {first_line(e)}") from None
    return model.eval(), cfg, tok, saved
