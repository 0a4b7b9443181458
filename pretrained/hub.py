"""
Where other people's files are: a name, hf:owner/name on Hugging Face, a folder, a file. Nothing read here can run code.
"""

import os
import re
import warnings
from contextlib import contextmanager

import torch

import config
from config import UserError, no_such
from download import download
from model import SIZES, read_safetensors

# name: (repository, revision, what is known of model.safetensors there)
PINNED = {
    # the first two as other projects' notes agree on them: we have not had the files
    "smollm2-135m": (
        "HuggingFaceTB/SmolLM2-135M",
        "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
        {"size": 269_060_552, "sha256": "80521b40281d6ce74e35c9282c22539e75aa0ac8578892b2a59955ef78d55da1"},
    ),
    "qwen2.5-0.5b": (
        "Qwen/Qwen2.5-0.5B",
        "060db6499f32faf8b98477b0a26969ef7d8b9987",
        {"size": 988_097_824, "sha256": "88c142557820ccad55bb59756bfcfcf891de9cc6202816bd346445188a0ed342"},
    ),
    "qwen3-0.6b": (
        "Qwen/Qwen3-0.6B",
        "c1899de289a04d12100db370d81485cdf75e47ca",
        {"size": 1_503_300_328, "sha256": "f47f71177f32bcd101b7573ec9171e6a57f4f4d31148d38e382306f42996874b"},
    ),
}
KINDS = "gpt2", "llama", "mistral", "qwen2", "qwen3"  # what a config.json may have as its model_type
INSTEAD = f"{', '.join(PINNED)} and gpt2 are models that load here"
# what nanoGPT's checkpoints say of a model
NANOGPT = "n_layer n_head n_embd block_size bias vocab_size dropout".split()
HUB = "https://huggingface.co"
INDEX = ".index.json"  # such a file names those over which a large model is spread
FILES = "model.safetensors", "model.safetensors" + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX
# what torch.compile, DistributedDataParallel, FSDP and activation checkpointing put into names, anywhere
WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")  # computed


# ---------------------------------------------------------------- files


def online(source):
    """Whether a source is on Hugging Face: hf:owner/name[@revision], or a name that stands for one."""
    return source in PINNED or source.startswith("hf:")


def locate(source, name):
    """The path of a file in the folder of weights; from Hugging Face it is downloaded."""
    if not online(source):
        folder = source if os.path.isdir(source) else os.path.dirname(source)
        return os.path.join(folder, name)
    repo, _, revision = source.removeprefix("hf:").partition("@")
    known = {}
    if source in PINNED:
        repo, revision, known = PINNED[source]
    known = known if name == FILES[0] else {}
    return download(f"{HUB}/{repo}/resolve/{revision or 'main'}/{name}", **known)


def find_beside(source, name):
    """The same, but None if there is no such file."""
    try:
        path = locate(source, name)
    except UserError as e:
        if "answers 404" not in str(e):
            raise
        return None
    return path if os.path.exists(path) else None


def read_json(path):
    """The object, {name: value}, in a JSON file."""
    content = config.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {{name: value}}")
    return content


def read_beside(source, name):
    """What is in a JSON file in the folder of weights, {} if there is none."""
    path = find_beside(source, name)
    return read_json(path) if path else {}


def find(source):
    """(paths of the weight files, config.json as a dict, its path or None) of a name, a folder or a file.

    UserError, which says what it is instead, if these are no weights of a model that is known here.
    """
    if not online(source) and not os.path.exists(source):
        names = ", ".join([*SIZES, *PINNED])
        raise UserError(f"{no_such('file or folder', source)}, nor one of {names}, nor hf:owner/name")
    where = locate(source, "config.json") if online(source) else find_beside(source, "config.json")
    paths = find_files(source)
    config = read_json(where) if where else {}
    kind = config.get("model_type")
    if kind not in (None, *KINDS):
        raise UserError(f"{where}: model_type is {kind!r}, expected {either(KINDS)}: {INSTEAD}")
    if config.get("quantization_config"):
        raise UserError(f"{where}: quantized weights; those that they were made from would do")
    return paths, config, where


def find_files(source):
    """The paths of the weight files alone."""
    if not online(source) and os.path.isfile(source):
        return [source]
    for name in FILES:
        path = find_beside(source, name)
        if path and name.endswith(INDEX):
            return [locate(source, shard) for shard in read_index(path)]
        if path:
            return [path]
    adapter = read_beside(source, "adapter_config.json")
    if adapter:
        raise UserError(f"{source}: {LORA.format(adapter.get('base_model_name_or_path'))}")
    if os.path.isdir(source) and any(name.endswith(".gguf") for name in os.listdir(source)):
        raise UserError(f"{source}: {GGUF}")
    raise UserError(f"{source}: none of {', '.join(FILES)} is there")


GGUF = "GGUF, weights for llama.cpp, mostly quantized; the safetensors that they were made from would do"
LORA = "a LoRA adapter, changes to another model ({}): merge them with it (peft: merge_and_unload, save_pretrained)"


def read_index(path):
    """The shards' file names in a model.safetensors.index.json."""
    try:
        shards = sorted(set(read_json(path)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not an index of a model's files: it has no weight_map") from None
    if any(os.path.basename(shard) != shard for shard in shards):  # nothing outside the folder
        raise UserError(f"{path}: a shard's name is a path: {shards}")
    return shards


# ---------------------------------------------------------------- what is in them


def read(source):
    """({name: tensor} of all files, what is known of the model, where that is said) of weights; UserError as find's.

    Of the model its config.json speaks, or else, as nanoGPT's do, the file itself.
    """
    paths, config, where = find(source)
    found = {}
    for path in paths:
        more, own = read_tensors(path)
        found |= more
        if "n_head" in own or not where:
            config, where = own, source
    if any(".lora_" in str(name) for name in found):
        raise UserError(f"{source}: {LORA.format('its base')}")
    return found, config, where


def refuse(config, where, expected):
    """UserError unless what a config says is among what is expected, {name: values}; null is as good as nothing."""
    for name, values in expected.items():
        value = config.get(name)
        if value is not None and value not in values:
            raise UserError(f"{where}: {name} is {value!r}, expected {either(values)}")


def either(values):
    return " or ".join(map(repr, values))


def unwrap(found, anchor, embedding, tied=True):
    """({name: tensor} of the one model in which there is `anchor`, by its own names; the names of all the rest).

    Other programs put words before the names, in any order; where the anchor is, the others are. The tied matrix may
    be stored as the embedding, or as the head, or as both. What is no weight is among the rest. ValueError if it is not
    clear which tensors are the model's.
    """
    plain = {WRAPPER.sub("", str(name)): t for name, t in found.items()}
    if len(plain) < len(found):
        raise ValueError("some tensors have the same name but for a prefix")
    starts = [name.removesuffix(anchor) for name in plain if f".{name}".endswith(f".{anchor}")]
    starts = [start for start in starts if "base_causallm." in start] or starts  # Coconut's base, beside a decoder
    if len(starts) != 1:
        raise ValueError(f"expected one {anchor}, found {len(starts)}{' behind ' * bool(starts)}{some(starts)}")
    start, own, others = starts[0], {}, []
    above = [start[: m.end()] for m in re.finditer(r"^|\.", start)]  # such as "", "base_causallm.", and start itself
    for name in [a + end for end in ("lm_head.weight", "embedding.weight") for a in above]:
        t = plain.pop(name, None)
        if t is None:
            continue
        is_head = name.endswith("lm_head.weight")
        if is_head and not tied:
            own["lm_head.weight"] = t
            continue
        matrix = plain.setdefault(start + embedding, t)
        if is_weight(t) and is_weight(matrix) and torch.equal(t.float(), matrix.float()):
            continue
        if is_head:
            raise ValueError(f"{name} differs from {embedding}, but the head should be tied to it")
        others.append(name)
    for name, t in plain.items():
        inner = name.removeprefix(start)
        if BUFFERS.fullmatch(inner):
            continue
        if name.startswith(start) and is_weight(t):
            own[inner] = t
        else:
            others.append(name)
    return own, others


@contextmanager
def one_line(source, found, model):
    """A ValueError about the tensors found there, as a UserError that says what is in the file."""
    try:
        yield
    except UserError:
        raise
    except ValueError as e:
        what = f"not the weights of {model}"
        why = str(e).removeprefix(f"{source}: ").removeprefix(f"{what}: ")
        odd_first = sorted(found.items(), key=lambda item: is_weight(item[1]))
        names = some(f"{name} {describe(t)}" for name, t in odd_first)
        raise UserError(f"{source}: {what}: {why}; in the file: {names}") from None


def read_pickle(path):
    """({name: tensor}, config or {}) of a torch.save file: a state dict, alone or in a checkpoint. Never runs code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on what is refused below
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as e:  # torch and pickle have a dozen ways to refuse a file
        raise UserError(f"{path}: {why_not_weights(str(e))}") from None
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


def why_not_weights(error):
    """What torch.load(weights_only=True) does not like about a file, from its error, in our words."""
    found = re.search(r"GLOBAL ([\w.]+)", error)  # the first thing that would have to be called
    if found:
        return f"a pickled {found[1]} is in it; save the model's state_dict() alone"
    if "TorchScript" in error:
        return "a TorchScript program; save the model's state_dict()"
    return "not a file that torch.save wrote, or not all of it"


def some(names):
    """The first few names, and how many there are."""
    names = [str(name)[:60] for name in names]
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}, ... ({len(names)} in all)"


def read_tensors(path):
    """({name: tensor}, config or {}) of a file; UserError if it is not sound."""
    if path.endswith(".gguf"):
        raise UserError(f"{path}: {GGUF}")
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
