"""
Weights in other people's files: GPT-2's own, Hugging Face folders, checkpoints of the official Coconut code, nanoGPT's.

read_weights gives a flat {name: tensor} with the names of OpenAI's GPT-2 ("wte.weight", "h.0.attn.c_attn.weight", ...)
from whatever kind of file it is; GPT.from_pretrained makes a model of it. Nothing that is read here can run code.
"""

import json
import math
import os
import re
import warnings
from contextlib import suppress

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from config import UserError
from download import download
from textfile import no_such, read_text

# name: (layers, heads, width), and the copy on Hugging Face, pinned where its hash is known
SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
PINNED = {
    "gpt2": {
        "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "size": 548_105_171,
        "sha256": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    },
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
HUB = "https://huggingface.co"
INDEX = "model.safetensors.index.json"  # names the files over which a large model is spread
FILES = "model.safetensors", INDEX, "pytorch_model.bin"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# some files' buffers, which are left out in the end
DTYPES |= {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8}
DTYPES |= {"I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
# what a config.json may say, since this is what model.py computes
FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
NANOGPT = "n_layer n_head n_embd block_size bias vocab_size dropout".split()  # what its checkpoints say of a model
# what torch.compile, DistributedDataParallel, FSDP and activation checkpointing put into names, anywhere
WRAPPER = re.compile(r"(^|(?<=\.))(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


# ---------------------------------------------------------------- safetensors: length, JSON header, packed bytes


def read_safetensors(path):
    """{name: tensor} of a .safetensors file. UserError unless header and bytes agree to the last byte.

    The format: 8 bytes little-endian length of the header; the header, JSON {name: {dtype, shape, data_offsets}};
    then the tensors' bytes, one after the other without a hole. Offsets count from the end of the header.
    """

    def no_duplicates(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice in the header")
        return dict(pairs)

    tensors, end = {}, 0
    try:
        with open(path, "rb") as f:
            length, size = int.from_bytes(f.read(8), "little"), os.path.getsize(path)
            if length > min(size - 8, 100_000_000):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(f.read(length), object_pairs_hook=no_duplicates)
            header.pop("__metadata__", None)
            for name, (start, stop, info) in sorted(
                ((name, (*info["data_offsets"], info)) for name, info in header.items()), key=lambda item: item[1][:2]
            ):
                dtype, shape = DTYPES.get(info["dtype"]), info["shape"]
                if not dtype:
                    raise UserError(f"{path}: {name} has the dtype {info['dtype']!r}, expected {' or '.join(DTYPES)}")
                if not all(type(n) is int and n >= 0 for n in shape):
                    raise ValueError(f"{name} has the shape {shape}")
                if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > size - 8 - length:
                    raise ValueError(f"{name} should be at bytes {end} to ..., but is at {start} to {stop}")
                data, end = bytearray(f.read(stop - start)), stop
                tensors[name] = (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(
                    shape
                )
            if end != size - 8 - length:
                raise ValueError(f"the tensors take {end} bytes of {size - 8 - length}")
    except FileNotFoundError:
        raise UserError(no_such("file", path)) from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{path}: not a sound safetensors file: {type(e).__name__}: {str(e)[:150]}") from None
    return tensors


def write_safetensors(path, tensors):
    """The counterpart: {name: float32 tensor} to a file."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        start, end = end, end + t.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            f.write(t.detach().float().cpu().contiguous().numpy().tobytes())


# ---------------------------------------------------------------- from a name to tensors with OpenAI's names


def on_hub(name):
    """hf:owner/name@revision of a model that has a name here; whatever else it may be, as it is."""
    if name in SIZES:
        return f"hf:openai-community/{name}@{PINNED.get(name, {}).get('revision', 'main')}"
    return "hf:{repo}@{revision}".format(**PINNED[name]) if name in PINNED else name


def find(source):
    """Paths of the weight files, and of config.json (None if there is none), of a name, a folder or a file."""
    source = on_hub(source)
    if source.startswith("hf:"):
        repo, _, revision = source[3:].partition("@")
        return find_online(f"{HUB}/{repo}/resolve/{revision or 'main'}", revision)
    if not os.path.exists(source):
        names = ", ".join(SIZES | PINNED)
        raise UserError(f"{no_such('file or folder', source)}, nor one of {names}, nor hf:owner/name")
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    config = os.path.join(folder, "config.json")
    config = config if os.path.exists(config) else None
    if os.path.isfile(source):
        return [source], config
    for name in FILES:
        path = os.path.join(source, name)
        if os.path.exists(path):
            return [os.path.join(source, shard) for shard in read_index(path)] if name == INDEX else [path], config
    raise UserError(f"{source}: none of {', '.join(FILES)} is in this folder")


def find_online(url, revision):
    """The same for a folder on Hugging Face, whose files are downloaded."""
    config = download(f"{url}/config.json")
    pinned = [p for p in PINNED.values() if p["revision"] == revision]
    for name in FILES:
        known = {k: pinned[0][k] for k in ("size", "sha256")} if pinned and name == "model.safetensors" else {}
        try:
            path = download(f"{url}/{name}", **known)
        except UserError as e:
            if "answers 404" not in str(e):
                raise
            continue
        return [download(f"{url}/{shard}") for shard in read_index(path)] if name == INDEX else [path], config
    raise UserError(f"{url}: none of {', '.join(FILES)} is there")


def find_beside(source, name):
    """The path of another file beside the weights, source as in find; None if it is not there."""
    source = on_hub(source)
    if source.startswith("hf:"):
        repo, _, revision = source[3:].partition("@")
        try:
            return download(f"{HUB}/{repo}/resolve/{revision or 'main'}/{name}")
        except UserError as e:
            if "answers 404" not in str(e):
                raise
            return None
    path = os.path.join(source if os.path.isdir(source) else os.path.dirname(source), name)
    return path if os.path.exists(path) else None


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


def is_projection(name):
    """Whether OpenAI's file holds this matrix transposed. (attn.c_proj is square: no shape would give it away.)"""
    return re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) is not None


# ---------------------------------------------------------------- which of the tensors are a GPT-2


def gpt2_shapes(n_layer, n_embd, block_size, vocab_size):
    """{name: shape} of a GPT-2's tensors in OpenAI's file, where projections are (in, out)."""
    C = n_embd
    shapes = {"wte.weight": (vocab_size, C), "wpe.weight": (block_size, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    matrices = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    for i in range(n_layer):
        shapes |= {f"h.{i}.{ln}.{kind}": (C,) for ln in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"h.{i}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"h.{i}.{name}.bias": shape[1:] for name, shape in matrices.items()}
    return shapes


def describe(t):
    """A tensor's shape, and its dtype if it is no weight; or what else it is."""
    if not torch.is_tensor(t):
        return type(t).__name__
    return f"{[*t.shape]}" if is_weight(t) else f"{[*t.shape]} of {str(t.dtype).removeprefix('torch.')}"


def is_weight(t):
    """Whether it is a tensor of real numbers, with all of them in it."""
    return torch.is_tensor(t) and t.is_floating_point() and t.layout == torch.strided and t.device.type != "meta"


def find_gpt2(found):
    """({name: tensor} of the GPT-2 among what was found, with OpenAI's names; the names of all the rest).

    Other programs put words before GPT-2's names, in any order; where wpe.weight is, the others are. The tied matrix
    may be stored as wte.weight, or as the head, or as both. ValueError if this is not clear.
    """
    plain = {WRAPPER.sub("", str(name)): t for name, t in found.items()}
    if len(plain) < len(found):
        raise ValueError("some tensors have the same name but for a prefix")
    starts = [name.removesuffix("wpe.weight") for name in plain if re.search(r"(^|\.)wpe\.weight$", name)]
    starts = [start for start in starts if "base_causallm." in start] or starts  # Coconut's base, beside a decoder
    if len(starts) != 1:
        raise ValueError(f"expected one wpe.weight, found {len(starts)}{' behind ' * bool(starts)}{some(starts)}")
    start, tensors, others = starts[0], {}, []
    above = [start[: m.end()] for m in re.finditer(r"^|\.", start)]  # such as "", "base_causallm.", and start itself
    heads = {name: plain.pop(name) for name in [a + "lm_head.weight" for a in above] if name in plain}
    copies = {name: plain.pop(name) for name in [a + "embedding.weight" for a in above] if name in plain}
    for name, t in plain.items():
        own = name.removeprefix(start)
        if not name.startswith(start):
            others.append(name)
        elif not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", own):  # the causal mask
            tensors[own] = t
    for name, t in {**heads, **copies}.items():
        wte = tensors.setdefault("wte.weight", t)
        if not (is_weight(t) and is_weight(wte) and torch.equal(t.float(), wte.float())):
            if name in heads:
                raise ValueError(f"{name} differs from wte.weight, but a GPT-2's head is tied")
            others.append(name)
    for name in ("wte.weight", "wpe.weight"):
        if not is_weight(tensors.get(name)) or tensors[name].dim() != 2 or not tensors[name].numel():
            raise ValueError(f"expected a matrix {name} of real numbers")
    return tensors, others


def check_config(config, path, shape):
    """UserError if a config says something else than what model.py computes, or than the shapes of the weights."""
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected {{name: value}}")
    for name, known in FIXED.items():
        if config.get(name, known[0]) not in known:
            raise UserError(f"{path}: {name} is {config[name]!r}, but GPT-2 has {known[0]!r}")
    for name, true in {**shape, "n_positions": shape["block_size"]}.items():
        if config.get(name, true) != true:
            raise UserError(f"{path}: {name} is {config[name]!r}, but the weights have {true}: another model's config?")


def fit(tensors, shape, config):
    """The tensors that a GPT-2 of this shape has, in OpenAI's orientation, float32; ValueError if some do not fit."""
    C, expected = shape["n_embd"], gpt2_shapes(**shape)
    transposed = getattr(tensors.get("h.0.attn.c_attn.weight"), "shape", ()) == (3 * C, C)  # nn.Linear's (out, in)
    if transposed:
        expected = {k: s[::-1] if is_projection(k) else s for k, s in expected.items()}
    if config.get("bias") is False and not any(k.endswith(".bias") for k in tensors):  # nanoGPT's: zeros are the same
        tensors = tensors | {k: torch.zeros(s) for k, s in expected.items() if k.endswith(".bias")}
    wrong = [f"no {k}" for k in expected if k not in tensors]
    wrong += [f"unknown {k}" for k, t in tensors.items() if k not in expected and is_weight(t)]
    for k in [k for k in expected if k in tensors]:
        if not is_weight(tensors[k]) or tensors[k].shape != expected[k]:
            wrong.append(f"{k} is {describe(tensors[k])}, expected {[*expected[k]]}")
    if wrong:
        raise ValueError(some(wrong))
    return {k: (tensors[k].T if transposed and is_projection(k) else tensors[k]).detach().float() for k in expected}


def read_weights(source):
    """({name: tensor} with OpenAI's names and orientation, the fields of its GPTConfig) from whatever `source` is.

    source: a name in SIZES, hf:owner/name[@revision], a folder, a .safetensors file, a torch.save file. The tensors are
    exactly a GPT-2's, in float32; UserError if that cannot be. What else there is, is left out and named.
    """
    paths, config_path = find(source)
    found, config = {}, {}
    for path in paths:
        more, config = (read_safetensors(path), {}) if path.endswith(".safetensors") else read_pickle(path)
        found.update(more)
    if "n_head" in config or not config_path:
        config_path = source
    else:
        config = read_json(config_path)
    try:
        tensors, others = find_gpt2(found)
        wte, wpe = tensors["wte.weight"], tensors["wpe.weight"]
        n_layer = len({k.split(".")[1] for k in tensors if re.match(r"h\.\d+\.", k)})
        shape = {"n_layer": n_layer, "n_embd": wte.size(1), "block_size": len(wpe), "vocab_size": len(wte)}
        check_config(config, config_path, shape)
        fitting = fit(tensors, shape, config)
    except UserError:
        raise
    except ValueError as e:
        names = some(f"{name} {describe(t)}" for name, t in found.items())
        raise UserError(f"{source}: not the weights of a GPT-2: {e}; in the file: {names}") from None
    openai = {(layers, width): heads for layers, heads, width in SIZES.values()}
    n_head = config.get("n_head", openai.get((n_layer, wte.size(1))))
    if type(n_head) is not int or n_head < 1 or wte.size(1) % n_head:
        raise UserError(f"{source}: n_head is {n_head}; a config.json beside the weights should say how many there are")
    others += [k for k in tensors if k not in fitting]
    if others:
        print(f"{source}: left out, since a GPT-2 has no such parts: {some(others)}")
    if "bias" in config:
        print(f"{source}: nanoGPT's GELU is exact, GPT-2's an approximation: outputs differ a little")
    return fitting, shape | {"n_head": n_head}


def load(model, tensors):
    """The model with what read_weights returned as its weights; projections are (out, in) there, as in nn.Linear."""
    model.load_state_dict({k: (t.T if is_projection(k) else t).contiguous() for k, t in tensors.items()}, assign=True)
    return model
