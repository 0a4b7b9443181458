"""
Weights from a formula over parameters' names: the same in any version of the program, on any machine. See record.py.
"""

import math
import zlib

import numpy as np

# of vectors, the middle of their values: 1 for norms, 0 for all that are not named here
CENTRES = {"model.feedback.L": 2.0, "model.stop_head.bias": -0.2}


def formula(name, size):
    """Numbers between -1 and 1 that look random, (size,) float64: the splitmix64 hash of a name and 0, 1, 2, ..."""
    x = np.arange(size, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    x = x * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64, as it should be
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def weights_of(name, shape):
    """A parameter's values, float64: softmaxes are neither flat nor certain, a stop head stops sooner or later.

    name: as in the parameters of 7185c79's Objective, such as "model.h.0.attn.c_attn.weight". Bytes that no answer
    consists of are less likely than other tokens, or nothing right would ever be predicted.
    """
    values = formula(name, math.prod(shape)).reshape(shape)
    if len(shape) == 1:
        norm = "norm" in name or ".ln_" in name or name.endswith("feedback.layers.4.weight")
        return 0.3 * values + (1.0 if norm and name.endswith("weight") else CENTRES.get(name, 0.0))
    values *= 4 / math.sqrt(shape[1])
    if name.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight")):
        values[:32] *= 0.3
        values[64:256] *= 0.3
        return values
    return values if name.endswith("stop_head.weight") else 0.6 * values
