"""
Where other people's files are: a name, hf:owner/name on Hugging Face, a folder, a file. Nothing read here can run code.
"""

import json
import os
import re
import warnings
from contextlib import suppress

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from config import UserError, no_such, read_text
from download import GPT2, download
from model import SIZES, read_safetensors

PINNED = {name: {"repo": f"openai-community/{name}"} | GPT2.get(name, {"revision": "main"}) for name in SIZES}
PINNED |= {
    # these three are llama.py's; the first two as other projects' notes agree on them: we have not had the files
    "smollm2-135m": {
        "repo": "HuggingFaceTB/SmolLM2-135M",
        "revision": "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
        "size": 269_060_552,
        "sha256": "80521b40281d6ce74e35c9282c22539e75aa0ac8578892b2a59955ef78d55da1",
    },
    "qwen2.5-0.5b": {
        "repo": "Qwen/Qwen2.5-0.5B",
        "revision": "060db6499f32faf8b98477b0a26969ef7d8b9987",
        "size": 988_097_824,
        "sha256": "88c142557820ccad55bb59756bfcfcf891de9cc6202816bd346445188a0ed342",
    },
    "qwen3-0.6b": {
        "repo": "Qwen/Qwen3-0.6B",
        "revision": "c1899de289a04d12100db370d81485cdf75e47ca",
        "size": 1_503_300_328,
        "sha256": "f47f71177f32bcd101b7573ec9171e6a57f4f4d31148d38e382306f42996874b",
    },
}
# what nanoGPT's checkpoints say of a model
NANOGPT = "n_layer n_head n_embd block_size bias vocab_size dropout".split()
HUB = "https://huggingface.co"
INDEX = "model.safetensors.index.json"  # names the files over which a large model is spread
FILES = "model.safetensors", INDEX, "pytorch_model.bin"


def on_hub(name):
    """hf:owner/name@revision of a model that has a name here; whatever else it may be, as it is."""
    return "hf:{repo}@{revision}".format(**PINNED[name]) if name in PINNED else name


def locate(source, name, **known):
    """The path of a file in the folder of weights; from Hugging Face it is downloaded. known: its size and sha256."""
    source = on_hub(source)
    if source.startswith("hf:"):
        repo, _, revision = source[3:].partition("@")
        return download(f"{HUB}/{repo}/resolve/{revision or 'main'}/{name}", **known)
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    return os.path.join(folder, name)


def find_beside(source, name, **known):
    """The same, but None if there is no such file."""
    try:
        path = locate(source, name, **known)
    except UserError as e:
        if "answers 404" not in str(e):
            raise
        return None
    return path if os.path.exists(path) else None


def find(source):
    """Paths of the weight files, and of config.json (None if there is none), of a name, a folder or a file."""
    source = on_hub(source)
    online = source.startswith("hf:")
    if not online and not os.path.exists(source):
        names = ", ".join(PINNED)
        raise UserError(f"{no_such('file or folder', source)}, nor one of {names}, nor hf:owner/name")
    config = locate(source, "config.json") if online else find_beside(source, "config.json")
    if os.path.isfile(source):
        return [source], config
    pinned = [p for p in PINNED.values() if source.endswith(f"@{p['revision']}") and "sha256" in p]
    for name in FILES:
        known = {k: pinned[0][k] for k in ("size", "sha256")} if pinned and name == "model.safetensors" else {}
        path = find_beside(source, name, **known)
        if path and name == INDEX:
            return [locate(source, shard) for shard in read_index(path)], config
        if path:
            return [path], config
    raise UserError(f"{source}: none of {', '.join(FILES)} is there")


def read_json(path):
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not JSON: {e}") from None


def read_index(path):
    """The shards' file names in a model.safetensors.index.json."""
    try:
        shards = sorted(set(read_json(path)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not an index of safetensors files: it has no weight_map") from None
    if any(os.path.basename(shard) != shard for shard in shards):  # nothing outside the folder
        raise UserError(f"{path}: a shard's name is a path: {shards}")
    return shards


def read_pickle(path):
    """({name: tensor}, config or {}) of a torch.save file: a state dict, alone or in a checkpoint. Never runs code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on what is refused below
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as e:  # torch and pickle have a dozen ways to refuse a file
        raise UserError(f"{path}: {why_not_weights(path, str(e))}") from None
    config, tensors = {}, saved
    for key in ("model", "state_dict", "model_state_dict", "module") * 2:  # one may be within another
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            config, tensors = model_settings(tensors, path) or config, tensors[key]
    if not isinstance(tensors, dict) or not any(map(torch.is_tensor, tensors.values())):
        found = f"the keys {some(tensors)}" if isinstance(tensors, dict) else f"a {type(tensors).__name__}"
        raise UserError(f"{path}: expected a state dict, names and tensors, found {found}")
    return tensors, config


def model_settings(checkpoint, path):
    """What a checkpoint says of its model: nanoGPT's model_args, or our config (nanoGPT's is its training's); or {}."""
    args, config = (checkpoint.get(key) for key in ("model_args", "config"))
    if not isinstance(args, dict):
        return config if isinstance(config, dict) else {}
    extra = [name for name, value in args.items() if value and name not in NANOGPT]
    if extra:
        raise UserError(f"{path}: model_args has {some(extra)}, which nanoGPT has not: another architecture?")
    return args


def why_not_weights(path, error):
    """What torch.load(weights_only=True) does not like about a file, in our words."""
    found = re.search(r"GLOBAL ([\w.]+)", error)  # the first thing that would have to be called
    if found:
        with suppress(Exception):  # it cannot read the format that torch had before 1.6
            if any(name.startswith("torch.nn.") for name in get_unsafe_globals_in_checkpoint(path)):
                return f"a pickled model; save its state_dict() (found {found[1]})"
        return f"a pickled {found[1]} is in it; save the model's state_dict() alone"
    if "TorchScript" in error:
        return "a TorchScript program; save the model's state_dict()"
    return "not a file that torch.save wrote, or not all of it"


def some(names):
    """The first few names, and how many there are."""
    names = [str(name)[:60] for name in names]
    return ", ".join(names[:5]) + f", ... ({len(names)} in all)" * (len(names) > 5)


def read_tensors(path):
    """({name: tensor}, config or {}) of a file; UserError if it is not sound."""
    if not path.endswith(".safetensors"):
        return read_pickle(path)
    try:
        return read_safetensors(path), {}
    except FileNotFoundError:
        raise UserError(no_such("file", path)) from None
    except ValueError as e:
        raise UserError(str(e)) from None


def describe(t):
    """A tensor's shape, and its dtype if it is no weight; or what else it is."""
    if not torch.is_tensor(t):
        return type(t).__name__
    return f"{[*t.shape]}" if is_weight(t) else f"{[*t.shape]} of {str(t.dtype).removeprefix('torch.')}"


def is_weight(t):
    """Whether it is a tensor of real numbers, with all of them in it."""
    return torch.is_tensor(t) and t.is_floating_point() and t.layout == torch.strided and t.device.type != "meta"
