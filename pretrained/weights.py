"""
Weights to begin with: those of a run of ours, and other people's as models that think: a GPT-2 (gpt2.py), a Llama
(llama.py), what export.py has written.
"""

import dataclasses

import torch

from checkpoint import find_checkpoint, is_ours, load_checkpoint, new_base, sizes
from config import TrainConfig, UserError, check
from curriculum import change, config_class, kind_of, make_model
from evaluate import FREE
from model import SIZES
from pretrained import format4, hf_tokenizer
from pretrained.gpt2 import read_gpt2
from pretrained.hub import find, find_beside, read_tensors, some
from pretrained.llama import Llama, is_llama
from tokenizer import make_tokenizer, to_text

THINKING = "thinking.safetensors"  # beside exported weights, those that no other program knows


def load_tokenizer(source):
    """The tokenizer of weights: of a run its own; the one in their files, which may be GPT-2's; or else GPT-2's."""
    if source == "scratch":
        raise UserError("--tokenizer=source is that of the weights in init_from, which is 'scratch'")
    path = find_checkpoint(source)
    if is_ours(path):
        return load_checkpoint(path).tok
    if source in SIZES:
        return make_tokenizer("gpt2")
    if not is_llama(source) and not any(find_beside(source, name) for name in ("tokenizer.json", "vocab.json")):
        return make_tokenizer("gpt2")
    tok = hf_tokenizer.load_tokenizer(source)
    if len(tok._mergeable_ranks) == 50256:  # as GPT-2's, which may have to be downloaded
        gpt2 = make_tokenizer("gpt2")
        its = hf_tokenizer.GPT2, gpt2._pat_str, gpt2._mergeable_ranks, gpt2._special_tokens, []
        if tok._pat_str in its[:2] and (tok._mergeable_ranks, tok._special_tokens, tok.bos) == its[2:]:
            return gpt2
    return tok


def initial_model(source, cfg, tok):
    """(the model that a run begins with, cfg with its sizes)."""
    path = find_checkpoint(source)  # such as the chain of thought that the paper's GSM8K begins with
    return from_run(path, cfg, tok) if is_ours(path) else load_model(path, cfg, tok)


def token_ids(tok):
    """{token as bytes: its number} of all tokens."""
    return tok._mergeable_ranks | {name.encode(): i for name, i in tok._special_tokens.items()}


def from_run(path, cfg, tok):
    """(a model that begins with the weights of a run of ours, cfg with its sizes); new words start at random."""
    old = load_checkpoint(path)
    if cfg.tokenizer not in ("source", old.cfg.tokenizer):
        raise UserError(f"{path}: its tokenizer is {old.cfg.tokenizer!r}, that of this run {cfg.tokenizer!r}")
    if old.cfg.feedback != cfg.feedback and kind_of(cfg.method).instead == "thought":
        print(f"{path} was trained to think with feedback={old.cfg.feedback}, and goes on with {cfg.feedback}")
    cfg, its = change(cfg, model=old.cfg.model), vars(old.model.config)
    its = its | {"block_size": max(cfg.block_size, its["block_size"]), "dropout": cfg.dropout}
    base = new_base(cfg, tok, **its)
    cfg = sizes(base, cfg)
    model = make_model(base, cfg, tok)
    ids, old_ids = token_ids(tok), token_ids(old.tok)
    shared = ids.keys() & old_ids.keys()
    if len(shared) < len(ids):  # a single byte is no word
        print(f"{path}: {len(ids) - len(shared):,} of {len(tok._mergeable_ranks) - 256:,} words begin anew")
    own, given = model.state_dict(), old.model.state_dict()
    for name in own.keys() & given.keys():
        if own[name].shape[1:] != given[name].shape[1:]:
            continue  # another feedback's
        if name in ("base.wte.weight", "base.embed_tokens.weight", "base.lm_head.weight"):  # a row for each token
            own[name][[ids[t] for t in shared]] = given[name][[old_ids[t] for t in shared]]
        else:
            own[name][: len(given[name])] = given[name]
    return model, cfg


def its_thinking(source):
    """How exported weights were trained to think, {"method": ..., "feedback": ..., ...}; {}: nobody says."""
    _, config, path = find(source)
    noted = config.get("nanococonut", format4.noted(config))
    if not isinstance(noted, dict):
        raise UserError(f"{path}: nanococonut is {noted!r}, expected {{name: value}}")
    settings = config_class(noted)
    noted = {name: check(settings, name, value, path) for name, value in noted.items()}
    return noted and {"method": "coconut", "feedback": "last"} | noted


def as_it_was_trained(source, noted, cfg):
    """The settings to go on with: those of a training run, but to evaluate or sample also what is noted of weights."""
    if not all(kind_of(method).instead == "thought" for method in (cfg.method, noted["method"])):
        return cfg
    if cfg.init_from != source:
        cfg = change(cfg, **{name: value for name, value in noted.items() if name not in cfg.origin})
    for name, value in noted.items():
        if getattr(cfg, name, value) != value:
            print(f"{source} was trained to think with {name}={value}, and goes on with {getattr(cfg, name)}")
    return cfg


def load_model(source, cfg, tok):
    """(a model around weights from `source`, with room for the special tokens, cfg with its sizes)."""
    llama, noted = is_llama(source), its_thinking(source)
    if noted:
        cfg = as_it_was_trained(source, noted, cfg)
    if cfg.tokenizer == "gpt2" and load_tokenizer(source).name != "gpt2":
        raise UserError(f"{source}: it has a tokenizer of its own, which is not GPT-2's: --tokenizer=source")
    base = Llama.from_pretrained(source, cfg.dropout) if llama else read_gpt2(source, cfg.dropout)
    found, wanted = base.config.vocab_size, tok.n_vocab
    known = 1 + max({*range(wanted)} - {*tok.added})
    if found < known or (found != wanted and cfg.tokenizer not in ("source", "gpt2")):
        raise UserError(f"{source}: it knows {found} tokens, but the tokenizer {cfg.tokenizer!r} has {wanted}")
    if found > wanted and tok.name == "gpt2":
        print(f"WARNING: {source} knows {found} tokens, not {wanted}: its special tokens may not be ours")
    make_room(base, tok)
    cfg = sizes(base, change(cfg, model="llama" if llama else "gpt2"))
    model = make_model(base, cfg, tok)
    if noted:
        load_thinking(model, source, noted)
    return model, cfg


def make_room(base, tok):
    """Give a base model a row for each token. Those of new ones, and of such as were never trained, start like "<<".

    So they do in the official code; if that is no token, like the mean of all.
    """
    like = tok.encode_ordinary("<<")
    like = like[0] if len(like) == 1 else None
    base.grow_vocab(tok.n_vocab, like)
    if tok.name != "source":  # rows beyond GPT-2's may be those of the official code
        return
    with torch.no_grad():
        for name, p in base.named_parameters():
            if name in ("wte.weight", "embed_tokens.weight", "lm_head.weight"):
                p[tok.added] = p.mean(0) if like is None else p[like].clone()


def load_thinking(model, source, noted):
    """Take the weights with which an exported model thinks, as far as it goes on with the same; else say so."""
    path = find_beside(source, THINKING)
    own = {k: t for k, t in model.state_dict().items() if not k.startswith("base.")}
    found = read_tensors(path)[0] if path else {}
    found = {format4.thinking_name(name, noted["feedback"], noted["method"]): t for name, t in found.items()}
    fitting = {k: t for k, t in found.items() if k in own and t.shape == own[k].shape}
    if fitting.keys() < found.keys():
        print(f"{path}: left out, since this model thinks otherwise: {some(found.keys() - fitting.keys())}")
    if fitting.keys() < own.keys():
        print(f"{source}: these begin anew: {some(sorted(own.keys() - fitting.keys()))}")
    model.load_state_dict(fitting, strict=False)


def to_evaluate(path, cfg):
    """What train.py --eval_only evaluates of weights from elsewhere: (model, cfg, tokenizer, pieces, stage or None).

    UserError for settings that were given on the command line, but would have no effect.
    """
    training = {f.name for f in dataclasses.fields(TrainConfig)}
    asked = FREE | {"tokenizer", "question_format", "step_format", "answer_format", "markers", "icot_tokens", "method",
                    "c_thought", "max_latent_stage", "pad_latent_to_max", "feedback"}  # fmt: skip
    idle = [how for k, how in cfg.origin.items() if k in training - asked and how == f"--{k}"]
    if idle:
        raise UserError(f"--eval_only={path}: without effect on an evaluation: {', '.join(idle)}")
    tok = load_tokenizer(path)
    if "tokenizer" in cfg.origin and cfg.tokenizer not in ("source", tok.name):
        raise UserError(f"{path}: it knows the tokens of {tok.name!r} only, but {cfg.origin['tokenizer']} is another")
    model, cfg = load_model(path, change(cfg, tokenizer=tok.name, init_from="scratch"), tok)
    return model, cfg, tok, [to_text(tok)] if tok.name == "source" else [], None


def to_sample(source, thinks):
    """(model, cfg, tokenizer) of weights from elsewhere; thinks: whether they are to."""
    tok = load_tokenizer(source)
    model, cfg = load_model(source, change(TrainConfig(tokenizer=tok.name, method="coconut" if thinks else "cot")), tok)
    print(f"{source}: {'between <bot> and <eot>' if thinks else 'plain text (no --latent)'}")
    return model.eval(), cfg, tok
