"""
Checkpoints of format 4, in which a model was a base model that could think, and folders exported from them.

They load and can be begun anew with, but not resumed.
"""

from config import UserError
from curriculum import TABLE_1, kind_of

GONE = {"fixed_positions", "gradient_checkpointing", "compile", "shard", "save_every", "save_minutes", "grading",
        "backprop_thoughts", "in_place", "passes", "stop", "thought_targets", "teacher_forcing", "rounds", "decoder",
        "teacher_writes", "losses", "names", "questions", "thought_positions", "remove_from"}  # fmt: skip
ONLY_LLAMA = {"n_kv_head", "head_dim", "n_inner", "rope_theta"}
THINKING = {"feedback", "thought_positions", "stop", "passes", "in_place", "pause", "backprop_thoughts",
            "fixed_positions", "gradient_checkpointing"}  # fmt: skip
OWN = "feedback.", "thought_vectors", "stop_head."  # so began names of weights that a base model does not have


def convert(saved, path):
    """The dict of a checkpoint of format 5, not to be resumed; UserError for what has gone for good."""
    old = saved["config"]
    if old.get("fixed_positions"):
        raise UserError(f"{path}: of format 4, with fixed_positions, which have gone")
    thinks = thinking(old, path)
    feedback, method = thinks["feedback"], thinks["method"]
    gone = GONE if old["model"] == "llama" else GONE | ONLY_LLAMA
    config = {name: value for name, value in old.items() if name not in gone} | thinks
    if old["names"]:
        config["task"] = "graphs"
    weights = {}
    for name, t in saved["model"].items():
        name = thinking_name(name, feedback, method) if name.startswith(OWN) else f"base.{name}"
        weights[name] = t
    base = {name: value for name, value in saved["model_config"].items() if name not in THINKING}
    kept = {name: value for name, value in saved.items() if name not in ("optimizer", "objective", "rng")}
    return kept | {"config": config, "base": base, "model": weights}


def noted(config):
    """How a model thinks that 7185c79 has exported, from its config.json, as settings of today; {}: it is another's."""
    return thinking(config, "config.json") if "feedback" in config else {}


def thinking(old, path):
    """{"method": ..., "feedback": ..., and the method's own settings} from the old ones."""
    if old.get("thought_positions") == "shared":
        raise UserError(f"{path}: of format 4, with thoughts that share a place, which have gone")
    method, own = new_method(old)
    learned = old.get("thought_positions") == "learned" and "lotus" not in method
    return own | {"method": method, "feedback": f"{old['feedback']}+vector" if learned else old["feedback"]}


def new_method(old):
    """(the method's name, its own settings) of an old configuration; of an exported one only some are known."""
    names, own = [old.get("method", "coconut")], {}
    if names[0] in ("codi", "pccot"):
        own["teacher_writes"] = old["teacher_writes"]
    if old.get("passes"):
        own["passes"] = old["passes"]
        if names[0] not in ("pccot", "lotus"):
            names.append("lotus" if old.get("in_place") else "pccot")
    if old.get("stop"):
        names.append("ponder" if old["stop"] == "ponder" else "stop")
    if old.get("thought_targets") and names[0] not in ("lotus", "simcot") and "lotus" not in names:
        names.append("sets")
        own |= {name: old[name] for name in ("thought_targets", "teacher_forcing", "rounds")}
    early = ["back"] if old.get("remove_from") == "back" else []
    early += [name for name in names if name == "ponder"]
    if early:  # how many thoughts there are, and what they stand for, before others look at it
        row = kind_of(names[0])
        first = next(name for name, kind in TABLE_1.items() if kind == row)
        names = [first, *early, *(name for name in names if name not in (first, *early))]
    if old.get("names"):
        own |= {"names": old["names"], "questions": old["questions"]}
    return "+".join(names), own


def thinking_name(name, feedback, method):
    """The name in a Coconut around the base model of a weight that only thinking needs; today's stay as they are."""
    if name == "thought_vectors":
        return "own.weight" if "lotus" in method else f"feedback.parts.{feedback.count('+')}.weight"
    if name.startswith("feedback.") and not name.startswith("feedback.parts."):
        return name.replace("feedback.", "feedback.parts.0.", 1)
    return name
