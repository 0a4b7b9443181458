"""
What commit 7185c79 computes, kept so that a reorganisation can be held against it (test_record.py).

    python tests/record.py --write           # tests/record.json.gz and tests/record_configs.json.gz, anew
    python tests/record.py "codi on hops"    # shows what is recorded of a case

Three parts. CASES is data: tiny problems, and settings as train.py takes them. The ADAPTER is all that knows the
project's functions and classes, and the only part that has to follow when these change; what it returns are numbers,
strings, lists and dicts. RECORD asks the adapter, and writes and compares files.

Weights are not drawn but follow from a formula over the parameters' names, so it does not matter in which order random
numbers are drawn. Everything is in float64, without dropout, in one thread or several.
"""

import dataclasses
import functools
import glob
import gzip
import json
import math
import os
import random
import sys
import zlib

import numpy as np
import torch
from formula import formula, weights_of

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HERE)
sys.path[:0] = [PROJECT] * (PROJECT not in sys.path)

# ================================================================ CASES: problems


def circle(i):
    """Arrows in a circle, and how many of them to follow: steps of one token, none in every fifth problem."""
    rng, n = random.Random(f"circle {i}"), (3, 1, 4, 0, 2)[i % 5]
    nodes = rng.sample("abcdefgh", 5 + i % 3)
    arrows = [f"{a} {b}" for a, b in zip(nodes, nodes[1:] + nodes[:1])]
    steps = [nodes[k % len(nodes)] for k in range(1, n + 1)]
    question = f"{' '.join(rng.sample(arrows, len(arrows)))} go {n} start {nodes[0]}"
    return {"question": question, "steps": steps, "answer": nodes[n % len(nodes)]}


def sums(i):
    """Definitions, one after the other: steps of three or four tokens."""
    rng, n = random.Random(f"sums {i}"), (3, 1, 2, 0, 3)[i % 5]
    names, numbers = rng.sample("abcdefgh", n + 2), [rng.randrange(1, 7) for _ in range(n + 2)]
    values = np.cumsum(numbers) % 7
    said = [f"{names[0]} = {values[0]}"] + [f"{a} {b}+{x}" for a, b, x in zip(names, names[1:], numbers[1:])]
    steps = said[:1] + [f"{b}+{x} = {value}" for b, x, value in zip(names[1:], numbers[1:], values[1:])]
    question = f"{' '.join(rng.sample(said, len(said)))} {names[n]} ?"
    return {"question": question, "steps": steps[:n], "answer": str(values[n])}


def columns(i):
    """Addition, one column after the other; where no step has a token, as one may have none: '' among the steps."""
    rng, n = random.Random(f"columns {i}"), (2, 1, 3, 0, 2)[i % 5]
    a, b = rng.randrange(10**n), rng.randrange(10 ** max(1, n))
    steps = [f"{a // 10**k % 10 + b // 10**k % 10:02}" for k in range(n)]
    steps[1:2] = ["" if i % 5 == 4 else step for step in steps[1:2]]
    return {"question": f"{a}+{b}", "steps": steps, "answer": f"{a + b:03}"}


def family(i):
    """Sentences: who is whose grandparent?"""
    rng, n = random.Random(f"family {i}"), (2, 1, 3, 0, 2)[i % 5]
    people = rng.sample("Ada Ben Cora Dan Eva Fred Gina".split(), 4 + i % 2)
    facts = [f"{old} is the parent of {young}." for young, old in zip(people, people[1:])]
    question = f"{' '.join(rng.sample(facts, len(facts)))} Who is the {n}-parent of {people[0]}?"
    return {"question": question, "steps": people[1 : n + 1], "answer": people[n]}


def graph(i):
    """Two trees side by side, and which of two nodes is below the root? Written as "3 7 | 7 2 | to 5 or 8 from 0"."""
    rng, n = random.Random(f"graph {i}"), (2, 1, 3, 0, 2)[i % 5]
    nodes = [str(k) for k in rng.sample(range(20), 9 + i % 2)]
    ours, theirs = nodes[:5], nodes[5:]
    edges = [*zip(ours, ours[1:4]), (ours[i % 2], ours[4]), *zip(theirs, theirs[1:]), (theirs[0], theirs[2])]
    question = " ".join(f"{a} {b} |" for a, b in rng.sample(edges, len(edges)))
    end = ours[max(1, n)]
    asked = rng.sample([end, theirs[-1]], 2)
    question += f" to {asked[0]} or {asked[1]} from {ours[0]}"
    return {"question": question, "steps": ours[1 : n + 1], "answer": end}


def story(i):
    """A word problem, with steps as in GSM8k-Aug and a comma in the answer."""
    rng, n = random.Random(f"story {i}"), (2, 1, 3, 0, 4)[i % 5]
    value, said, steps = rng.randrange(1000, 2000), [], []
    question = f"Tom has {value:,} eggs."
    for _ in range(n):
        x = rng.randrange(2, 99)
        steps.append(f"<<{value}+{x}={value + x}>>")
        said.append(f" He finds {x} more.")
        value += x
    return {"question": f"{question}{''.join(said)} How many are there?", "steps": steps, "answer": f"{value:,}"}


TASKS = {f.__name__: f for f in (circle, sums, columns, family, graph, story)}

# ================================================================ CASES: settings

METHODS = """coconut cot no_cot icot pause no_curriculum no_thought pause_as_thought simcot codi pccot lotus""".split()
SMALL = {"init_from": "scratch", "init": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 110,
         "batch_size": 4, "eval_batch_size": 4, "dropout": 0.0, "max_new_tokens": 6}  # fmt: skip
WORDS = {"tokenizer": "words", "question_format": " {}", "step_format": " {}", "answer_format": " = {}"}
CHARS = {"tokenizer": "chars", "question_format": "{}=", "step_format": "{}", "answer_format": "#{}"}
NAMES = {"names": r" \d+", "markers": "none", "max_latent_stage": 2}

CASES = {}  # {name: see case()}


def case(name, task, config="", every_stage=False, problems=26, given=(), base=None, rows_only=False, **flags):
    """One more case.

    config       the name of a file in configs/, with whose settings it begins; "": the program's defaults
    flags        settings; they win over the file's. Those of SMALL are always there, if they do not say otherwise
    every_stage  numbers are recorded for each stage, and rows for stages that the method does not train, too
    problems     how many there are; rows, numbers and answers are those of the first ROWS
    given        numbers are recorded for thoughts that are given, and fed back so often
    rows_only    no numbers: the model sees nothing new
    base         what a base model may have that is no setting: Llama's biases and norms
    """
    assert name not in CASES
    flags = SMALL | (WORDS if not config else {}) | flags
    CASES[name] = {"task": task, "config": config, "flags": flags, "every_stage": every_stage, "problems": problems,
                   "given": list(given), "base": base or {}, "rows_only": rows_only}  # fmt: skip


def cases():
    """Fill CASES."""
    for method in METHODS:  # docs/methods.md, "All methods compared"; on hops a final stage follows
        case(f"{method} on hops", "circle", "hops", True, method=method, icot_tokens=1, max_latent_stage=3)
        old = method not in ("coconut", "simcot", "codi", "pccot", "lotus")
        case(f"{method} on addition", "columns", "addition", rows_only=old, method=method, icot_tokens=2,
             max_latent_stage=2)  # fmt: skip
        case(f"{method} on arithmetic", "sums", "arithmetic", rows_only=old, method=method, icot_tokens=4, c_thought=4,
             max_latent_stage=2)  # fmt: skip
        case(f"{method} on small ProsQA", "graph", "prosqa_small", method=method, icot_tokens=1, max_latent_stage=2,
             questions=3, batch_size=2)  # fmt: skip

    # every config, and what the docs change in it
    prosqa = {"max_latent_stage": 3, "questions": 3, "batch_size": 2}
    case("family", "family", "family", True)
    case("family with markers", "family", "family", markers="both", peek=True)
    case("family no_cot", "family", "family", method="no_cot")
    case("hops_mixed", "circle", "hops_mixed", True, max_latent_stage=4)
    case("hops_mixed ponder", "circle", "hops_mixed", True, max_latent_stage=4, stop="ponder")
    case("hops_mixed fixed", "circle", "hops_mixed", max_latent_stage=4, stop="", pad_latent_to_max=True)
    case("arithmetic from CoT", "sums", "arithmetic", c_thought=3, max_latent_stage=2)
    case("arithmetic without markers", "sums", "arithmetic", c_thought=4, max_latent_stage=2, markers="none",
         peek=False)  # fmt: skip
    case("arithmetic told its tokens", "sums", "arithmetic", c_thought=4, max_latent_stage=2, losses="ce,thoughts",
         thought_targets="tokens")  # fmt: skip
    case("arithmetic_soft", "sums", "arithmetic_soft", True, max_latent_stage=3, given=(0,))
    case("arithmetic_soft fed back", "sums", "arithmetic_soft", max_latent_stage=3, feedback="last", rounds="0,2",
         markers="none", given=(0, 1, 2))  # fmt: skip
    case("lotus at full weight on arithmetic", "sums", "arithmetic", method="lotus", losses="ce,thoughts:1",
         c_thought=4, max_latent_stage=2)  # fmt: skip
    case("prosqa_scratch", "graph", "prosqa_scratch", **prosqa, given=(0,))
    for name, flags in {
        "no_cot": {"method": "no_cot"},
        "pause": {"method": "pause"},
        "cot": {"method": "cot"},
        "without softmax": {"losses": "ce:3,members"},
        "with markers": {"markers": "both"},
        "one question": {"questions": 1},
        "thinks for itself": {"teacher_forcing": "0,0"},
        "not supervised": {"losses": "ce:3"},
        "softmax and mean": {"feedback": "soft", "losses": "ce:3,thoughts"},
        "eight thoughts": {"max_latent_stage": 8},
        "four heads": {"n_head": 4},
    }.items():
        given = [] if "method" in flags else [0]
        case(f"prosqa_scratch {name}", "graph", "prosqa_scratch", **prosqa | flags, given=given)
    case("prosqa_scratch eight questions", "graph", "prosqa_scratch", **prosqa | {"questions": 8}, given=(0,))
    case("prosqa_scratch_last", "graph", "prosqa_scratch_last", **prosqa, given=(0, 1, 2))
    for feedback in ("members", "fusion:0.6", "projection", "gate", "soft", "zero"):
        case(f"prosqa_scratch_last {feedback}", "graph", "prosqa_scratch_last", **prosqa, feedback=feedback,
             given=(2,))  # fmt: skip
    case("prosqa_scratch_last half", "graph", "prosqa_scratch_last", **prosqa, teacher_forcing=0.5, rounds=2)
    small = prosqa | {"max_latent_stage": 2}
    case("prosqa_small with targets", "graph", "prosqa_small", **small, losses="ce,thoughts,members",
         thought_targets="walks")  # fmt: skip
    for method in ("coconut", "simcot", "codi", "pccot", "lotus"):
        case(f"prosqa_small {method} with markers", "graph", "prosqa_small", **small, method=method, markers="both",
             peek=True)  # fmt: skip
    case("prosqa_small with targets and markers", "graph", "prosqa_small", **small, losses="ce,thoughts,members",
         thought_targets="walks", markers="both", peek=True)  # fmt: skip
    case("prosqa_small lotus at full weight", "graph", "prosqa_small", **small, method="lotus", losses="ce,thoughts:1")
    for method in ("simcot", "codi", "pccot"):
        more = small | {"questions": 8}
        case(f"prosqa_small {method} eight questions", "graph", "prosqa_small", **more, method=method)
    for config in ("gsm8k", "gsm8k_codi", "gsm8k_cot", "gsm8k_icot", "gsm8k_lotus", "gsm8k_no_cot", "gsm8k_pccot",
                   "gsm8k_simcot"):  # fmt: skip
        case(config, "story", config, tokenizer="words", max_latent_stage=2, block_size=200, sort_window=2)
        case(f"{config} with GPT-2's tokens", "story", config, tokenizer="gpt2", sort_window=2, rows_only=True)
    llama = {"model": "llama", "tokenizer": "words", "max_latent_stage": 2, "n_head": 4, "n_kv_head": 2, "n_inner": 24}
    case("gsm8k_qwen3", "story", "gsm8k_qwen3", **llama | {"head_dim": 6}, block_size=200, base={"qk_norm": True})
    case("gsm8k_smollm2", "story", "gsm8k_smollm2", **llama, block_size=200)
    case("prontoqa", "family", "prontoqa", tokenizer="words", max_latent_stage=2)
    case("prosqa", "family", "prosqa", tokenizer="words", max_latent_stage=2)

    # the other base model
    llama = {"model": "llama", "n_head": 4, "n_kv_head": 2, "head_dim": 6, "n_inner": 24, "rope_theta": 100.0}
    for name, more in {
        "plain": {},
        "biases": {"qkv_bias": True},
        "norms": {"qk_norm": True},
        "all": {"qkv_bias": True, "qk_norm": True, "tie": False},
    }.items():
        case(f"llama {name} coconut", "circle", "hops", name == "all", **llama, base=more)
        case(f"llama {name} codi", "circle", "hops", **llama, method="codi", base=more)
        case(f"llama {name} gate", "circle", "hops", **llama, feedback="gate", base=more)
    case("llama simcot", "circle", "hops", **llama, method="simcot", losses="ce,seq_vcr:0.1", base={"qkv_bias": True})
    case("llama pccot", "circle", "hops", **llama, method="pccot")
    case("llama lotus", "sums", "arithmetic", **llama, method="lotus", c_thought=3)
    case("llama ponder", "circle", "hops", **llama, stop="ponder")
    case("llama cut", "circle", "hops", **llama, backprop_thoughts=1)
    case("llama shared edges", "graph", "prosqa_scratch_last", **prosqa | llama, given=(1,))

    # what is fed back
    for feedback in ("last", "layer", "layer:-1", "layer:1", "layer:0", "suppressed", "suppressed:0", "suppressed:0.75",
                     "zero", "embedding", "soft", "soft:0.7", "soft:0.7:0.8", "fusion", "fusion:0.3", "members",
                     "members:2", "projection", "gate", "layer:-2+suppressed:0.5",
                     "soft:0.5+projection+last"):  # fmt: skip
        case(f"feedback {feedback}", "circle", feedback=feedback, max_latent_stage=3)
    for feedback in ("layer", "soft:0.7", "members", "projection", "gate", "layer:-2+suppressed:0.5"):
        case(f"feedback {feedback} at once", "sums", feedback=feedback, passes=2, c_thought=2, max_latent_stage=2)

    # where thoughts stand, how many there are, what is replaced
    hops = {"max_latent_stage": 3}
    case("learned positions", "circle", **hops, thought_positions="learned")
    case("learned positions soft", "circle", **hops, thought_positions="learned", feedback="soft+layer:-2")
    case("learned positions codi", "sums", method="codi", c_thought=2, thought_positions="learned")
    case("learned positions pccot", "sums", method="pccot", c_thought=2, thought_positions="learned")
    case("learned positions given", "sums", "arithmetic_soft", thought_positions="learned", given=(0, 1))
    case("coconut in passes", "circle", **hops, passes=3)
    case("coconut in place", "circle", **hops, passes=2, in_place=True)
    case("more thoughts than vectors", "circle", c_thought=35, max_latent_stage=2, thought_positions="learned")
    case("padded", "circle", **hops, pad_latent_to_max=True)
    case("padded simcot", "sums", method="simcot", c_thought=2, max_latent_stage=2, pad_latent_to_max=True)
    case("padded codi", "sums", method="codi", c_thought=2, max_latent_stage=2, pad_latent_to_max=True)
    case("padded pause", "sums", method="pause", c_thought=2, max_latent_stage=2, pad_latent_to_max=True)
    case("no thoughts for a step", "circle", **hops, c_thought=0)
    for method in ("coconut", "no_thought", "pause_as_thought", "simcot"):
        case(f"from the back {method}", "sums", method=method, remove_from="back", c_thought=2, max_latent_stage=2)
    case("from the back with targets", "sums", remove_from="back", c_thought=2, max_latent_stage=2,
         losses="ce,thoughts", thought_targets="steps")  # fmt: skip
    case("from the back with tokens", "sums", remove_from="back", c_thought=2, max_latent_stage=2, losses="ce,members",
         thought_targets="tokens")  # fmt: skip
    for m in (1, 2):
        case(f"cut {m}", "circle", max_latent_stage=4, backprop_thoughts=m)
        case(f"cut {m} simcot", "sums", method="simcot", c_thought=2, max_latent_stage=2, backprop_thoughts=m)
        case(f"cut {m} learned", "circle", max_latent_stage=4, backprop_thoughts=m, thought_positions="learned")
    for markers in ("both", "bot", "eot", "none"):
        case(f"markers {markers}", "circle", **hops, markers=markers)
        case(f"markers {markers} pause", "circle", **hops, markers=markers, method="pause_as_thought", rows_only=True)
        if markers in ("both", "eot"):
            case(f"markers {markers} peek", "circle", **hops, markers=markers, peek=True)
    for tokens in (1, 2, 8):
        case(f"icot {tokens}", "sums", method="icot", icot_tokens=tokens, max_latent_stage=3, rows_only=True)

    # losses
    case("seq_vcr coconut", "circle", **hops, losses="ce,seq_vcr")
    case("seq_vcr simcot", "circle", **hops, method="simcot", losses="ce,seq_vcr:0.1")
    case("simcot head", "sums", method="simcot", decoder="head", c_thought=2, max_latent_stage=2)
    case("simcot head tokens", "sums", method="simcot", decoder="head", c_thought=2, thought_targets="tokens",
         max_latent_stage=2)  # fmt: skip
    case("simcot weighed", "sums", method="simcot", losses="ce:2,decoder:0.5", c_thought=2, max_latent_stage=2)
    case("simcot passes", "sums", method="simcot", passes=2, c_thought=2, max_latent_stage=2)
    for targets in ("steps", "tokens"):
        case(f"targets {targets}", "sums", losses="ce,thoughts:0.5,members", thought_targets=targets, c_thought=2,
             max_latent_stage=2)  # fmt: skip
    case("targets measured only", "circle", **hops, thought_targets="steps")
    case("teacher writes all codi", "sums", method="codi", teacher_writes="all", c_thought=2)
    case("teacher writes all pccot", "sums", method="pccot", teacher_writes="all", c_thought=2)
    case("codi weighed", "sums", method="codi", losses="ce,distance:20", feedback="projection", c_thought=2)
    case("codi with a longer mark", "columns", **CHARS | {"answer_format": "The answer is: {}\n"}, method="codi")
    case("coconut with a teacher", "circle", **hops, losses="ce,teacher,distance")
    case("lotus fewer passes", "sums", method="lotus", passes=1, c_thought=3)
    case("everything", "sums", "arithmetic_soft", teacher_forcing=0, max_latent_stage=2, method="simcot",
         losses="ce:0.5,thoughts:0.3,members:0.2,decoder:0.7,teacher:1.5,distance_layers:0.1,seq_vcr:0.05",
         thought_positions="learned", feedback="projection")  # fmt: skip

    # when to stop
    case("stop classifier", "circle", **hops, stop="classifier")
    case("stop classifier simcot", "sums", method="simcot", stop="classifier", c_thought=2, max_latent_stage=2)
    case("stop classifier weighed", "circle", **hops, stop="classifier", losses="ce,stop:0.2")
    case("stop ponder", "circle", **hops, stop="ponder")
    case("stop ponder weighed", "sums", stop="ponder", losses="ce:0.5", c_thought=2, max_latent_stage=2)
    case("stop ponder last", "circle", method="no_curriculum", stop="ponder", max_latent_stage=3)
    case("stop ponder learned", "circle", **hops, stop="ponder", thought_positions="learned", feedback="gate")

    # which rows a stage trains
    many = {"problems": 150, "rows_only": True, "max_latent_stage": 3, "batch_size": 8}
    for window in (1, 3, 7):
        for mixing in ("none", "uniform", "proportional"):
            case(f"mixing {mixing} {window}", "circle", **many, mixing=mixing, uniform_prob="0.1,0.4",
                 sort_window=window)  # fmt: skip
    case("mixing icot", "sums", **many, method="icot", icot_tokens=2, uniform_prob="0,0.5")
    case("mixing ignored", "circle", **many, method="no_curriculum", uniform_prob="0.5")
    case("another seed", "circle", **many, uniform_prob="0.3", seed=7)

    # graphs
    case("graph renamed", "graph", **NAMES, uniform_prob="0.3")
    case("graph renamed icot", "graph", **NAMES, method="icot", icot_tokens=1)
    case("graph walks", "graph", **NAMES, losses="ce,thoughts,members", thought_targets="walks", method="no_curriculum")
    case("graph forced", "graph", **NAMES, losses="ce,thoughts,members", thought_targets="walks", questions=3,
         method="no_curriculum", teacher_forcing="0.5", rounds="2", feedback="members:2", given=(0, 1, 2),
         pad_latent_to_max=True)  # fmt: skip
    case("graph from the back", "graph", **NAMES, questions=3, batch_size=2, remove_from="back",
         losses="ce,members", thought_targets="walks")  # fmt: skip
    case("graph eight questions seq_vcr", "graph", **NAMES, questions=8, batch_size=2, method="simcot",
         losses="ce,seq_vcr:0.1")  # fmt: skip
    case("graph cut", "graph", **NAMES, questions=3, batch_size=2, backprop_thoughts=1)
    case("graph stops", "graph", **NAMES, questions=3, batch_size=2, stop="classifier")


cases()

# ================================================================ ADAPTER: all that knows the project
#
# What functions return is plain: the project's own objects (a Setup's fields, rows, an objective) are only handed from
# one function of the adapter to another. Settings are kept as 7185c79 had them (record_settings.json.gz).

import checkpoint  # noqa: E402
import curriculum  # noqa: E402
import data  # noqa: E402
from config import UserError, parse  # noqa: E402
from evaluate import evaluate  # noqa: E402
from pretrained.format4 import GONE, ONLY_LLAMA, new_method  # noqa: E402
from tokenizer import EOS, make_tokenizer  # noqa: E402


def rename(name, cfg):
    """A parameter's name in 7185c79's Objective ("model.wte.weight", "parts.decoder.model.wte.weight"), from ours."""
    if name == "model.own.weight":
        return "model.thought_vectors"
    if name.startswith("model.feedback.parts."):
        _, _, _, number, rest = name.split(".", 4)
        parts = cfg.feedback.split("+")
        if parts[int(number)] == "vector":
            return "model.thought_vectors"
        several = len([part for part in parts if part != "vector"]) > 1
        return f"model.feedback.parts.{number}.{rest}" if several else f"model.feedback.{rest}"
    for now, then in {"model.base.": "model.", "decoder.": "parts.decoder.model.",
                      "project.": "parts.seq_vcr.project."}.items():  # fmt: skip
        if name.startswith(now):
            return then + name.removeprefix(now)
    return name


def old_name(loss, objective):
    """What a loss was called."""
    if loss == "distance":
        return "distance_layers" if objective.first_layer == 1 else "distance"
    return {"sets": "thoughts", "step_tokens": "thoughts"}.get(loss, loss)


def translate(old):
    """The project's settings, {name: value}, from those of 7185c79."""
    method, own = new_method(old)
    names, weights = method.split("+"), dict(text.partition(":")[::2] for text in old["losses"])
    tells = old["thought_targets"] == "tokens" and "sets" not in names and "lotus" not in names
    if "simcot" in names and old["decoder"] == "head":  # it is coconut+sets
        names, weights = ["coconut", "sets"], {"sets": ""}
        own = {"thought_targets": "tokens" if tells else "steps"}
    if "simcot" in names and old["method"] == "simcot" and old["thought_targets"] and old["decoder"] == "model":
        names.append("sets")
        own |= {"thought_targets": old["thought_targets"]}
    if not {"codi", "pccot"} & {*names} and {"teacher", "distance", "distance_layers"} & weights.keys():
        names.append("codi")
    if "seq_vcr" in weights:
        names.append("seq_vcr")
    losses = {}
    for name, weight in weights.items():
        if name in ("thoughts", "members"):
            name = "step_tokens" if "lotus" in names else "sets" if name == "thoughts" else name
        name = "ponder" if name == "ce" and old["stop"] == "ponder" else name
        losses[name.replace("distance_layers", "distance")] = weight or "1"
    if "sets" in names and old["losses"] and "thoughts" not in weights and weights.keys() != {"sets"}:
        losses["sets"] = "0"
    if old["method"] not in ("codi", "pccot") and "pccot" in names:
        losses |= {"teacher": "0", "distance": "0"}
    if old["method"] != "lotus" and "lotus" in names and old["thought_targets"] != "tokens":
        losses["step_tokens"] = "0"
    if "codi" in names and old["method"] != "codi":
        losses |= {name: "0" for name in ("teacher", "distance") if name not in losses}
    new = {name: value for name, value in old.items() if name not in GONE}
    if old["model"] != "llama":
        new = {name: value for name, value in new.items() if name not in ONLY_LLAMA}
    feedback = old["feedback"]
    if old["thought_positions"] == "learned" and "lotus" not in names:
        feedback += "+vector"
    if old["backprop_thoughts"] is not None:
        names.append("cut")
        own["backprop_thoughts"] = old["backprop_thoughts"]
    if old["names"]:
        new["task"] = "graphs"
    phases = len(old["teacher_forcing"])
    own |= {"method": "+".join(names), "feedback": feedback, "losses": [f"{k}:{w}" for k, w in losses.items()]}
    return new | own | {"data_dir": old["data_dir"] * phases if phases > 1 else old["data_dir"]}


@dataclasses.dataclass
class Setup:
    """A case, ready: cfg, tok and problems as the project has them."""

    cfg: object
    tok: object
    problems: object  # a list of Problem that also has what epoch_order looks at
    base: dict  # see case()
    plan: list  # [the stage of the first part of the run, ...]; the place in it is `index` below
    old: dict  # the settings at 7185c79


def missing(text):
    """Whether an error is that a file of methods/ is not there: then its cases cannot be tried."""
    return "methods/" in text and "which is not there" in text


@functools.lru_cache(None)
def old_settings():
    """{case: its settings at 7185c79}."""
    with gzip.open(os.path.join(HERE, "record_settings.json.gz")) as f:
        return json.loads(f.read())


def set_up(case, raw):
    """The Setup of a case with the problems raw, as dicts. A method's only stage comes once for each phase."""
    (name,) = (name for name, of in CASES.items() if of is case)
    old = old_settings()[name]
    new = {k: tuple(v) if isinstance(v, list) else v for k, v in translate(old).items()}
    cfg = curriculum.config_class(new)(**new)
    tok = make_tokenizer(cfg.tokenizer, data.find_pieces(raw, cfg))
    problems = data.encode(raw, cfg, tok)
    plan, _ = curriculum.stages(cfg, int(problems.n_steps.max()))
    plan = plan * len(cfg.data_dir) if len(plan) == 1 else plan
    return Setup(cfg, tok, problems, case["base"], plan, old)


def longest_stage(setup):
    """The last stage that there can be: no step is written, whatever their number."""
    return setup.cfg.max_latent_stage + 1


def renames_nodes(setup):
    """Whether problems are drawn anew in each step."""
    return setup.cfg.task == "graphs"


def asks_more(setup):
    """Whether several questions share the edges of a graph."""
    return renames_nodes(setup) and setup.cfg.questions > 1


def row(setup, i, stage):
    """The row of problem i at a stage, without anything random."""
    found = without_teacher(curriculum.row_for(setup.problems[i], stage, setup.cfg, setup.tok), setup)
    return without_targets(found, setup)


def without_targets(row, setup):
    """Where steps go from the back, 7185c79 did not ask stage 0 for its first step."""
    if setup.old["remove_from"] == "back" and not row.replaced and "targets" in row.extra:
        return row._replace(extra=row.extra | {"targets": [[] for _ in row.extra["targets"]]})
    return row


def without_teacher(row, setup):
    """A row without a teacher, where no loss wants one: passes came without a teacher at 7185c79."""
    if {"teacher", "distance"} & weights_in(setup).keys():
        return row
    return row._replace(extra={k: v for k, v in row.extra.items() if k not in ("teacher", "answer")})


def weights_in(setup):
    """{loss: weight}."""
    weights = curriculum.change_weights(curriculum.objective_class(setup.cfg).all_weights(), setup.cfg.losses)
    return {name: weight for name, weight in weights.items() if weight}


def neutral(row, setup):
    """A row as a dict. Tokens are ints; what the row does not have is left out.

    prefix [int], n int, suffix [int], labels [int] (-100: not scored), shared [int]: read before the prefix,
    targets [n + 1 lists of tokens, or None where anything may be predicted], steps [tokens of each group of thoughts],
    given int, teacher {a row}, answer int: its place in the suffix.
    """
    extra, found = row.extra, {k: v for k, v in row._asdict().items() if k in ("prefix", "n", "suffix", "labels")}
    found |= {k: extra[k] for k in ("shared", "steps") if extra.get(k)}
    if "targets" in extra:
        found["targets"] = [None if not t else [] if t == [-2] else t for t in extra["targets"]]
    if "tokens" in extra and (setup.old["thought_targets"] or setup.old["method"] == "lotus"):
        found["targets"] = [None] + [None if t < 0 else [t] for t in extra["tokens"]]
    if extra.get("rounds", -1) >= 0:
        found["given"] = extra["rounds"]
    if "answer" in extra:
        found["answer"] = extra["answer"]
        if "teacher" in extra:
            found["teacher"] = neutral(extra["teacher"], setup)
    order = "prefix n suffix labels shared targets steps given teacher answer".split()  # as they were: see crc()
    return {name: found[name] for name in order if name in found}


def order(setup, index, epoch):
    """[(number of the problem, its stage), ...] of an epoch in the run's index-th stage."""
    rng = data.random_stream(data.ORDER, setup.cfg, index, epoch)
    return data.epoch_order(setup.problems, setup.plan[index], rng, setup.cfg)


def step_rows(setup, index, step):
    """The rows of a training step, as train.train_stage makes them: order, teacher forcing, rounds, what is drawn."""
    cfg = setup.cfg
    epoch, position = divmod(step, -(-len(setup.problems) // cfg.batch_size))
    chosen = order(setup, index, epoch)[position * cfg.batch_size : (position + 1) * cfg.batch_size]
    rng = data.random_stream(data.ROWS, cfg, index, step)
    if setup.old["thought_targets"] and "sets" not in cfg.method.split("+"):
        rng.random()  # 7185c79 drew whether thoughts are given wherever they are told what to predict
    task = curriculum.make_task(cfg, setup.tok)
    rows = data.training_rows(setup.problems, chosen, index, cfg, task, rng)
    return [without_targets(without_teacher(each, setup), setup) for each in rows]


def give(rows, given):
    """The same rows, but thoughts are given, and fed back so often; None: the model's own."""
    return [row._replace(extra=row.extra | {"rounds": -1 if given is None else given}) for row in rows]


def micro_batches(setup, rows, size, tokens):
    """[[row, ...], ...]: the rows, the very same objects, cut to so many rows and so many positions (0: no limit)."""
    cfg = curriculum.change(setup.cfg, micro_batch_size=size, micro_batch_tokens=tokens)
    return list(data.micro_batches(rows, cfg))


def make_objective(setup):
    """(what is trained, {name of a loss: its weight}), in float64, with the formula's weights."""
    cfg, (kind, config_kind) = setup.cfg, checkpoint.base_classes(setup.cfg.model)
    names = {f.name for f in dataclasses.fields(config_kind)} & {f.name for f in dataclasses.fields(cfg)}
    sizes = {name: getattr(cfg, name) for name in names} | {"vocab_size": setup.tok.n_vocab}
    model = curriculum.make_model(kind(config_kind(**sizes | setup.base)), cfg, setup.tok)
    objective = curriculum.make_objective(model, cfg, setup.tok).double()
    if any(text.startswith("distance_layers") for text in setup.old["losses"]):
        objective.first_layer = 1  # PCCoT's, which could be named with any method
    fill(objective)
    return objective.train(), {old_name(name, objective): weight for name, weight in objective.weights.items()}


def fill(module):
    """Give all parameters the formula's values."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.from_numpy(weights_of(rename(name, module.task.cfg), tuple(p.shape))))


def losses(objective, rows):
    """{name of a loss: (its sum over the rows, a tensor, and the count by which that is divided, an int)}."""
    batch = data.collate(rows)
    counts = objective.counts(batch)
    return {old_name(name, objective): (total, int(counts[name])) for name, total in objective(batch).items()}


def gradients(objective):
    """{name at 7185c79: the gradient as a tensor, or None if there is none}, after a backward pass."""
    return {rename(name, objective.task.cfg): p.grad for name, p in objective.named_parameters()}


def prompts(setup, pairs):
    """What the model is given, for [(number of the problem, stage), ...]: (prefix [int], n, what follows [int])."""
    rows = [row(setup, i, stage) for i, stage in pairs]
    return [(each.prefix, each.n, each.prompt.eot) for each in rows]


def answers(setup, objective, prompts, may_stop=False):
    """Greedy answers to prompts, all in one batch: [(tokens [int], thoughts (n, C) float64), ...].

    may_stop: the stop head ends the thinking, after n thoughts at most. Six tokens at most; eos after a row's end.
    """
    batch = data.collate([curriculum.Row(*prompt, labels=[]) for prompt in prompts])
    objective.model.may_stop = may_stop
    tokens, thoughts = objective.model.eval().generate(
        batch.prefix, batch.prefix_len, batch.n, batch.suffix, 6, eos=setup.tok.encode_single_token(EOS),
        return_thoughts=True,
    )  # fmt: skip
    objective.train()
    return list(zip(tokens.tolist(), thoughts))


def stops(setup):
    """The most thoughts that a model may have that decides itself when to stop, at the last stage; None: it cannot."""
    return row(setup, 0, setup.plan[-1]).extra.get("most")


def evaluation(setup, objective, n_problems, stage):
    """What an evaluation says of the first problems: {"loss": written_loss, "thought_1": a share of hits, ...}."""
    problems, cfg = [setup.problems[i] for i in range(n_problems)], setup.cfg
    objective.model.may_stop = stops(setup) is not None
    found = evaluate(objective.model, problems, stage, cfg, setup.tok)
    objective.train()
    if not setup.old["thought_targets"] and setup.old["decoder"] != "head":
        found = {name: value for name, value in found.items() if not name.startswith("thought_")}
    numbers = cfg if cfg.task else curriculum.change(cfg, task="numbers")
    found["number_accuracy"] = evaluate(objective.model, problems, stage, numbers, setup.tok)["accuracy"]
    return {name: value for name, value in found.items() if name != "thought_norm"}  # which is computed in float32


def parsed(config, method):
    """{"settings": {name: value}, "left_out": [text]} of a config file's name with --method, or {"error": text}.

    Settings as 7185c79 would have them, as far as there are such: see as_it_was.
    """
    flags = [os.path.join(PROJECT, "configs", f"{config}.py")] + ([f"--method={method}"] if method else [])
    try:
        cfg = curriculum.leave_out(parse(curriculum.config_class, flags, "", takes_file=True))
    except UserError as e:
        return {"error": str(e)}
    found = dataclasses.asdict(cfg)
    first, *more = cfg.method.split("+")
    weights = curriculum.change_weights(curriculum.objective_class(cfg).all_weights(), cfg.losses)
    found |= {"method": first, "stop": "classifier" if "stop" in more else "", "data_dir": cfg.data_dir[:1]}
    found["losses"] = {name: weight for name, weight in weights.items() if weight}
    return {"settings": found, "left_out": cfg.left_out}


def as_it_was(said, method):
    """What table() gave at 7185c79, with settings as they would be called now, and those that have gone left out.

    method: what --method said, or "". A method's name now says all: what a config adds with +sets or +stop goes, where
    7185c79 kept it.
    """
    if "error" in said:
        return said
    old = said["settings"]
    if method:
        losses = [text for text in old["losses"] if text.partition(":")[0] not in ("thoughts", "members")]
        old = old | {"thought_targets": "", "stop": "", "losses": losses}
    gone = GONE - {"stop", "losses", "names", "questions", "teacher_writes", "passes", "thought_targets",
                   "teacher_forcing", "rounds"}  # fmt: skip
    kept = {name: value for name, value in old.items() if name not in gone and name not in ONLY_LLAMA}
    tells = "lotus" if old["method"] == "lotus" else "sets" if old["thought_targets"] else ""
    weights = {"ce": 1.0}
    for text in (*old["losses"], *OWN_LOSSES.get(old["method"], ())):
        name, _, weight = text.partition(":")
        name = {"thoughts": "step_tokens" if tells == "lotus" else "sets"}.get(name, name)
        weights[name] = float(weight or 1) if name not in weights or name == "ce" else weights[name]
    if old["stop"]:
        weights["stop"] = 1.0
    kept["losses"] = weights
    for name, owners in OWNERS.items():  # what comes with a method or a task only
        if not owners & {old["method"], tells, "graphs" if old["names"] else ""}:
            kept.pop(name, None)
    if "teacher_forcing" in kept:  # phases: one share for all of them
        kept["teacher_forcing"] = [*dict.fromkeys(kept["teacher_forcing"])]
    return {"settings": kept, "left_out": said["left_out"]}


OWN_LOSSES = {"simcot": ["decoder"], "codi": ["teacher", "distance"], "pccot": ["teacher", "distance"],
              "lotus": ["thoughts:0.05"]}  # fmt: skip
OWNERS = {"teacher_writes": {"codi", "pccot"}, "passes": {"pccot", "lotus"},
          "thought_targets": {"sets"}, "teacher_forcing": {"sets"}, "rounds": {"sets"},
          "names": {"graphs"}, "questions": {"graphs"}}  # fmt: skip


# ================================================================ RECORD

ROWS, SHOWN = 7, 40  # so many problems, and entries of an order
LIMITS = (3, 0), (0, 120), (5, 200)  # of micro-batches: rows, positions
FILE, CONFIGS_FILE = (os.path.join(HERE, name) for name in ("record.json.gz", "record_configs.json.gz"))
TOLERANCE = 1e-12


@functools.lru_cache(None)
def directions(size):
    """Three vectors of length 1, (3, size)."""
    found = np.stack([formula(f"direction {k}", size) for k in range(3)])
    return torch.from_numpy(found / np.linalg.norm(found, axis=1, keepdims=True))


def summary(x):
    """A tensor as its norm and its products with three vectors; None: "none".

    14 digits of the norm, and as many places of the products: more would not be compared, and would fill the file.
    """
    if x is None:
        return "none"
    x = x.detach().double().reshape(-1)
    norm = x.norm().item()
    places = 14 - math.ceil(math.log10(norm)) if norm else 0
    return [round(value, places) for value in (norm, *(directions(x.numel()) @ x).tolist())]


def crc(value):
    return zlib.crc32(json.dumps(value).encode())


def numbers(objective, weights, rows):
    """Each loss's sum and count, and each gradient of the weighted sum of their means."""
    objective.zero_grad()
    found = losses(objective, rows)
    total = sum(weights[name] * value / max(1, count) for name, (value, count) in found.items())
    total.backward()
    return {
        "losses": {name: [value.item(), count] for name, (value, count) in found.items()},
        "gradients": without_noise({name: summary(grad) for name, grad in gradients(objective).items()}),
    }


def without_noise(summaries):
    """Summaries with "noise" for those that would be zero if nothing were rounded; such are not compared."""
    largest = max(of[0] for of in summaries.values() if of != "none")
    return {k: "noise" if of != "none" and 0 < of[0] < 1e-14 * largest else of for k, of in summaries.items()}


def record(case):
    """All that is recorded of a case, as JSON has it."""
    setup = set_up(case, [TASKS[case["task"]](i) for i in range(case["problems"])])
    stages = {*setup.plan, *(range(longest_stage(setup) + 1) if case["every_stage"] else ())}
    rows = {stage: [row(setup, i, stage) for i in range(ROWS)] for stage in sorted(stages)}
    indices = range(len(setup.plan))
    steps = {(index, step): step_rows(setup, index, step) for index in indices for step in (0, 1, 7)}
    found = {"plan": setup.plan, **of_rows(setup, rows, steps)}
    found |= {} if case["rows_only"] else of_numbers(case, setup, rows, steps)
    return json.loads(json.dumps(found))


def of_rows(setup, rows, steps):
    """What is recorded without a model: rows, orders, the rows of training steps, how all rows are cut."""

    def plain(some):
        return [neutral(each, setup) for each in some]

    indices = range(len(setup.plan))
    orders = {f"{index}, epoch {epoch}": order(setup, index, epoch) for index in indices for epoch in (0, 1)}
    trained = {f"{index}, step {step}": plain(some) for (index, step), some in steps.items()}
    all_rows = sum(rows.values(), [])
    places = {id(each): i for i, each in enumerate(all_rows)}
    cuts = {limits: micro_batches(setup, all_rows, *limits) for limits in LIMITS}
    return {
        "rows": {f"stage {stage}": plain(some) for stage, some in rows.items()},
        "order": {name: [[list(pair) for pair in pairs[:SHOWN]], crc(pairs)] for name, pairs in orders.items()},
        "training rows": {name: some if "step 0" in name else crc(some) for name, some in trained.items()},
        "micro-batches": {
            f"{size} rows, {tokens} tokens": [[places[id(each)] for each in cut] for cut in some]
            for (size, tokens), some in cuts.items()
        },
    }


def of_numbers(case, setup, rows, steps):
    """What is recorded with a model: losses and gradients, of micro-batches the losses only, answers, evaluations."""
    plan, last = setup.plan, len(setup.plan) - 1
    mixed = [(i, plan[(2 * i) % len(plan)]) for i in range(ROWS)]  # ragged, with n = 0, and of different stages
    some = {"mixed": [row(setup, i, stage) for i, stage in mixed]}
    some |= {f"stage {stage}": rows[stage] for stage in plan if case["every_stage"]}
    if renames_nodes(setup):
        some = {"step 7": steps[last, 7]}  # with what they share
        some |= {} if asks_more(setup) else {"step 0": steps[last, 0]}
    some |= {f"given {given}": give(steps[last, 1], given) for given in case["given"]}
    objective, weights = make_objective(setup)
    found = {"weights": weights, "numbers": {name: numbers(objective, weights, each) for name, each in some.items()}}
    with torch.no_grad():
        sums = [losses(objective, cut) for cut in micro_batches(setup, steps[last, 0], 3, 0)]
    found["losses of micro-batches"] = [{name: value.item() for name, (value, _) in each.items()} for each in sums]

    asked = prompts(setup, mixed)
    said = {"mixed": answers(setup, objective, asked)}
    if stops(setup) is not None:
        limited = [(prefix, stops(setup), after) for prefix, _, after in asked]
        said["stopping"] = answers(setup, objective, limited, may_stop=True)
    found["answers"] = {name: [of_answer(*each) for each in of] for name, of in said.items()}
    evaluated = sorted({*plan}) if case["every_stage"] else plan[-1:]
    found["evaluation"] = {f"stage {stage}": evaluation(setup, objective, ROWS, stage) for stage in evaluated}
    return found


def of_answer(tokens, thoughts):
    """What is recorded of an answer: [its tokens, how many thoughts there were, what they were]."""
    return [tokens, len(thoughts), summary(thoughts) if len(thoughts) else []]


def table(configs):
    """{config: {method: what is parsed}}; "": the file's own method."""
    found = {config: {method: parsed(config, method) for method in ("", *METHODS)} for config in configs}
    return json.loads(json.dumps(found))


def all_configs():
    return sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(PROJECT, "configs", "*.py")))


def differences(expected, found, path=""):
    """[where, and how, what was found differs from what was expected, ...]; numbers to a relative 1e-12.

    In a summary (four numbers) the products are compared relative to the norm. 0.0 is 0.0.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        gone, new = [k for k in expected if k not in found], [k for k in found if k not in expected]
        here = [f"{path}: no {k}" for k in gone] + [f"{path}: new {k}" for k in new]
        return here + [d for k in expected if k in found for d in differences(expected[k], found[k], f"{path} / {k}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        if len(expected) == 4 and all(type(x) is float for x in expected + found):
            same = all(close(a, b, expected[0]) for a, b in zip(expected, found))
            return [] if same else [f"{path}: expected {expected}, found {found}"]
        return [d for i, (a, b) in enumerate(zip(expected, found)) for d in differences(a, b, f"{path} [{i}]")]
    if type(expected) is float and type(found) is float and close(expected, found, expected):
        return []
    same = type(expected) is type(found) and expected == found
    if expected == "noise" and found == [0.0] * 4:  # another torch's sum of the same numbers comes to zero
        same = True
    return [] if same else [f"{path}: expected {expected!r:.200}, found {found!r:.200}"]


def close(a, b, scale):
    return a == b or (scale != 0 and abs(a - b) <= TOLERANCE * abs(scale))


def turned(found):
    """{a: {b: value}} -> {b: {a: value}}: what is alike side by side, which makes the file smaller by a sixth."""
    inner = dict.fromkeys(b for of in found.values() for b in of)
    return {b: {a: of[b] for a, of in found.items() if b in of} for b in inner}


def write(path, value):
    with gzip.GzipFile(path, "wb", mtime=0) as f:
        f.write(json.dumps(value, separators=(",", ":")).encode())
    print(f"{path}: {os.path.getsize(path):,} bytes")


@functools.lru_cache(None)
def recorded(path=FILE):
    """{case: what record() gave}; or of CONFIGS_FILE, {config: what table() gave}."""
    with gzip.open(path) as f:
        found = json.loads(f.read())
    return turned(found) if path == FILE else found


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write(FILE, turned({name: record(case) for name, case in CASES.items()}))
        write(CONFIGS_FILE, table(all_configs()))
    else:
        for name in sys.argv[1:]:
            print(json.dumps(record(CASES[name]), indent=1))
