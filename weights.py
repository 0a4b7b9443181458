"""
Weights in other people's files: GPT-2's own, Hugging Face folders, checkpoints of the official Coconut code.

read_weights gives a flat {name: tensor} with the names of OpenAI's GPT-2 ("wte.weight", "h.0.attn.c_attn.weight", ...)
from whatever kind of file it is; GPT.from_pretrained makes a model of it. Nothing that is read here can run code.
"""

import json
import math
import os
import re

import torch

from config import UserError, first_line
from download import download

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
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"BOOL": torch.bool, "U8": torch.uint8}  # some files' mask buffers, which are left out in the end
# what a config.json may say, since this is what model.py computes
FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


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
                dtype, shape = DTYPES[info["dtype"]], info["shape"]
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
        raise UserError(f"{path}: no such file") from None
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
        raise UserError(f"{source}: no such file or folder, nor one of {', '.join(SIZES)}, nor hf:owner/name")
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


def read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except ValueError as e:
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
    """({name: tensor}, config or {}) of a torch.save file: a state dict, or our own checkpoint. Never runs code."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch and pickle have a dozen ways to refuse a file
        raise UserError(f"{path}: not a file of weights alone: {first_line(e)}") from None
    ours = isinstance(saved, dict) and {"model", "config", "pieces"} <= saved.keys()
    tensors = saved["model"] if ours else saved
    if not isinstance(tensors, dict) or not all(type(k) is str and torch.is_tensor(t) for k, t in tensors.items()):
        raise UserError(f"{path}: expected a state dict: names and tensors")
    if ours:  # our nn.Linear is (out, in); as OpenAI's then, for the rest of this file
        tensors = {k: t.T if is_projection(k) else t for k, t in tensors.items()}
    return tensors, saved["config"] if ours else {}


def is_projection(name):
    """Whether OpenAI's file holds this matrix transposed. (attn.c_proj is square: no shape would give it away.)"""
    return re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) is not None


def read_weights(source):
    """({name: tensor} with OpenAI's names and orientation, the fields of its GPTConfig) from whatever `source` is.

    source: a name in SIZES, hf:owner/name[@revision], a folder, a .safetensors file, a torch.save file. Prefixes of
    other programs are taken off, mask buffers left out, and copies of the tied head checked and dropped.
    """
    paths, config_path = find(source)
    tensors, config = {}, read_json(config_path) if config_path else {}
    if not isinstance(config, dict):
        raise UserError(f"{config_path}: expected {{name: value}}")
    for name, known in FIXED.items():
        if config.get(name, known[0]) not in known:
            raise UserError(f"{config_path}: {name} is {config[name]!r}, but GPT-2 has {known[0]!r}")
    for path in paths:
        if path.endswith(".safetensors"):
            tensors.update(read_safetensors(path))
        else:
            more, own_config = read_pickle(path)
            tensors.update(more)
            config = own_config or config
    n_tensors = len(tensors)
    for prefix in ("module.", "base_causallm.", "transformer."):  # DistributedDataParallel, official Coconut, HF
        tensors = {k.removeprefix(prefix): t for k, t in tensors.items()}
    if len(tensors) < n_tensors:
        raise UserError(f"{source}: some tensors have the same name but for a prefix")
    tensors = {k: t for k, t in tensors.items() if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", k)}
    if not all(k in tensors and tensors[k].dim() == 2 for k in ("wte.weight", "wpe.weight")):
        raise UserError(f"{source}: not a GPT-2: it has no matrices wte.weight and wpe.weight")
    for copy in ("lm_head.weight", "embedding.weight"):
        if copy in tensors and not torch.equal(tensors.pop(copy), tensors["wte.weight"]):
            raise UserError(f"{source}: {copy} differs from wte.weight: not a GPT-2, whose head is tied")
    (vocab_size, n_embd), block_size = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
    n_layer = len({k.split(".")[1] for k in tensors if re.match(r"h\.\d+\.", k)})
    openai = {(layers, width): heads for layers, heads, width in SIZES.values()}
    n_head = config.get("n_head", openai.get((n_layer, n_embd)))
    if type(n_head) is not int or n_head < 1 or n_embd % n_head:
        raise UserError(f"{source}: n_head is {n_head}; a config.json beside the weights should say how many there are")
    return tensors, dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size, vocab_size=vocab_size)
