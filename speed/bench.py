"""
How fast is it? Ratios, measured side by side in one run, on problems as long as those of GSM8K. (How good: LOG.md.)

    python -m speed.bench                             # 4 layers x 256, batch 32, one thread of the CPU
    python -m speed.bench --preset=124M               # GPT-2's size, batch 8
    python -m speed.bench --preset=124M --device=cuda --compile --batch_size=128 --generate=512
    python -m speed.bench --parts=padding --file=data/gsm8k/valid.json
    python -m speed.bench --parts=feedbacks --thoughts=6
    python -m speed.bench --parts=methods --thoughts=3,6,12,24,48

step        a training step with n thoughts, over one with n ordinary tokens in their place (the same positions)
yardstick   the same step, and generating, with transformers' GPT-2, if that package is installed
memory      what a step adds at its peak, each in a process of its own
padding     the share of all positions that are padding, with batches sorted by length and without
dtype       a training step in bfloat16, over one in float32
feedbacks   a training step with each feedback, over one with the hidden state
methods     a step of each method with n thoughts, over one that writes all steps (cot): from which n on do thoughts in
            three or six passes take less time than one after the other? These three are measured only if asked for.
Variants take turns, in another order each round; a ratio is the median of the rounds' ratios. A step is all of it:
batch, passes, optimizer. A line is a name, a value, and a ratio: of "thoughts_n6", 6 is the number of thoughts.
"""

if not __package__:
    raise SystemExit("error: call it as python -m speed.bench, from the project's folder")

import ctypes
import importlib.util
import multiprocessing
import random
import time
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch

import data
from checkpoint import new_base, pick_device
from config import cli, option, parse, upstairs
from curriculum import Objective, change, config_class, make_model, make_objective, row_for
from evaluate import precision, solve
from tokenizer import make_tokenizer
from train import new_optimizer, train_step

# sizes, and the batch size that is measured
PRESETS = {
    "small": {"n_layer": 4, "n_head": 4, "n_embd": 256, "batch_size": 32},
    "124M": {"n_layer": 12, "n_head": 12, "n_embd": 768, "batch_size": 8},
}
# GSM8k-Aug's 500 validation problems in GPT-2's tokens: the 0th, 5th, ..., 100th percentile, and the share of problems
# with 0, 1, ..., 8 steps. Longer questions have more steps, which is left out here: batches are easier to sort there.
QUESTION = 23, 31, 34, 37, 40, 41, 43, 45, 47, 50, 52, 54, 57, 59, 63, 68, 72, 77, 84, 97, 166
STEP = 6, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 10, 10, 10, 11, 28
N_STEPS = 0.012, 0.052, 0.310, 0.280, 0.182, 0.106, 0.036, 0.016, 0.006
ANSWER = 3  # "### 72" and the end of text; 92 % have so many
TOK = make_tokenizer("words", map(str, range(50_000)))  # as large as GPT-2's; which tokens there are does not matter
NEW_TOKENS = 24  # that are written as an answer
TRAINING = {  # {part: {name: settings}}; ratios are those to the first one
    "step": {"tokens": {"method": "pause_as_thought"}, "thoughts": {}},
    "dtype": {"float32": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}},
    "feedbacks": {name: {"feedback": name} for name in (
        "last", "layer:-2", "suppressed:0.5", "zero", "embedding", "soft", "members", "fusion:0.6", "projection", "gate"
    )},
    "methods": {
        "cot": {"method": "cot"},
        "coconut": {},
        "coconut_3_passes": {"method": "coconut+pccot", "passes": 3, "losses": ("teacher:0", "distance:0")},
        "coconut_6_in_place": {"method": "coconut+lotus", "passes": 6, "losses": ("step_tokens:0",)},
        "simcot": {"method": "simcot"},
        "codi": {"method": "codi"},
        "pccot": {"method": "pccot"},
        "lotus": {"method": "lotus"},
    },
}  # fmt: skip


@dataclass
class BenchConfig:
    preset: str = option("small", "size of the model", tuple(PRESETS))
    parts: tuple[str, ...] = option(
        ("step", "yardstick", "memory", "padding"), "what to measure",
        ("step", "yardstick", "memory", "padding", "dtype", "feedbacks", "methods"),
    )  # fmt: skip
    thoughts: tuple[int, ...] = option((0, 2, 6, 12, 24), "numbers of thoughts in a training step", least=0, most=200)
    batch_size: int = option(0, "problems in a training step; 0: 32 small ones, 8 of 124M", least=0, most=10**5)
    generate: int = option(64, "answers to generate (beside a single one)", least=1, most=10**5)
    rounds: int = option(7, "times that everything is measured, after one that is not", least=1)
    file: str = option("", "a data file of problems, to measure their padding")
    device: str = option("cpu", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")
    dtype: str = option(
        "auto", "auto: bfloat16 where GPU or CPU gain by it, else float32", ("auto", "float32", "bfloat16")
    )
    compile: bool = option(False, "torch.compile")
    fast: bool = option(False, "steps of thoughts also with --speed=fast")
    threads: int = option(1, "threads on the CPU", least=1, most=1000)
    peak_tflops: float = option(989.0, "of the GPU in bfloat16, for its utilisation; 989: H100, H200", least=1)
    seed: int = option(1, "decides the lengths of the problems", least=0)

    def settings(self, n=6, **more):
        """GSM8K's settings, as far as they matter here, with n thoughts: for three steps, as GSM8K has them, or one."""
        stages = 3 if n % 3 == 0 else 1
        given = {"tokenizer": "gpt2", "max_latent_stage": stages, "c_thought": n // stages, "pad_latent_to_max": True,
                 "block_size": 1024, "sort_window": 100, "dtype": self.dtype, "seed": self.seed,
                 "speed": ("compiled",) if self.compile else (), **PRESETS[self.preset], **more}  # fmt: skip
        return config_class(given)(**given | ({"batch_size": self.batch_size} if self.batch_size else {}))


# ---------------------------------------------------------------- what it is measured on


def draw_problems(n, seed):
    """n Problems of random tokens, as long as GSM8K's."""
    rng = np.random.default_rng(seed)

    def draw(percentiles):
        return round(np.interp(rng.random() * 100, range(0, 101, 5), percentiles))

    lengths, first = [0], [0]
    for _ in range(n):
        n_steps = rng.choice(len(N_STEPS), p=N_STEPS)
        lengths += [draw(QUESTION), *(draw(STEP) for _ in range(n_steps)), ANSWER]
        first.append(first[-1] + 2 + n_steps)
    bounds = np.cumsum(lengths)
    return data.Problems(rng.integers(0, 50000, bounds[-1], dtype=np.uint16), bounds, np.array(first))


def sorted_batches(problems, cfg, stage):
    """Problems in batches as train.py makes them."""
    order = [i for i, _ in data.epoch_order(problems, stage, np.random.default_rng(cfg.seed), cfg)]
    return [[problems[i] for i in order[k : k + cfg.batch_size]] for k in range(0, len(order), cfg.batch_size)]


def new_model(cfg, args):
    torch.manual_seed(0)
    model = make_model(new_base(cfg, TOK), cfg, TOK).to(args.device)
    for name in cfg.speed:
        upstairs("speed", name).speed_up(model)
    return model


def transformers_model(args):
    """Its GPT-2 of the same size; None if it is not installed."""
    if not importlib.util.find_spec("transformers"):
        return print("transformers is not installed: no yardstick")
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {**PRESETS[args.preset], "vocab_size": TOK.n_vocab, "bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).to(args.device)


class Yardstick(Objective):
    """A plain step of transformers, on as many positions; its logits are those of all of them."""

    def forward(self, batch):
        x = torch.cat((batch.prefix, batch.suffix), 1)
        labels = torch.cat((torch.full_like(batch.prefix, -100), batch.labels), 1)
        return {"ce": self.model(input_ids=x, labels=labels).loss * (labels != -100).sum()}


# ---------------------------------------------------------------- how it is measured


def show(name, value, ratio=None):
    print(f"{name:<28} {value:10.4g}" + ("" if ratio is None else f" {ratio:8.2f}"))


def take_turns(title, variants, base, args):
    """Time variants {(name, n): function of the round's number}, which take turns, in another order each round.

    Prints the median of each, in ms, and its ratio to (base, n); returns the seconds of each, {(name, n): [...]}.
    """
    seconds, order = {key: [] for key in variants}, random.Random(args.seed)
    for i in range(args.rounds + 1):
        for key in order.sample(list(variants), len(variants)):
            began = time.perf_counter()
            variants[key](i)
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds[key].append(time.perf_counter() - began)
    seconds = {key: of[1:] for key, of in seconds.items()}  # the first round is for warming up
    print(f"\n{title}, {args.preset}: ms, and over {base}")
    for (name, n), of in seconds.items():
        show(f"{name}_n{n}", 1000 * median(of), median(x / y for x, y in zip(of, seconds[base, n])))
    return seconds


def training_steps(args, variants, ns):
    """{(name, n): function of the round's number, that trains for a step}; variants {name: settings}."""
    problems, steps = draw_problems(100 * args.settings().batch_size, args.seed), {}
    batches = sorted_batches(problems, args.settings(), stage=3)
    for name, settings in variants.items():
        cfg = args.settings(**settings)
        if name == "transformers":
            objective = Yardstick(transformers_model(args), cfg, TOK)
        else:
            objective = make_objective(new_model(cfg, args), cfg, TOK).to(args.device)
        optimizer = new_optimizer(objective, cfg)

        def step(i, cfg, objective, optimizer):
            stage = 0 if cfg.method == "cot" else cfg.max_latent_stage
            train_step(objective, optimizer, [row_for(p, stage, cfg, TOK) for p in batches[i % 100]], cfg)

        for n in ns:
            of = args.settings(n, **settings)
            steps[name, n] = partial(step, cfg=of, objective=objective, optimizer=optimizer)
    return steps


def measure_training(part, args):
    variants, ns = {**TRAINING[part]}, args.thoughts
    if part == "step" and args.fast:
        variants["thoughts_with_fast"] = {"speed": ("fast",)}
    if part == "step" and "yardstick" in args.parts and transformers_model(args):
        variants["transformers"] = variants["tokens"]
    if part in ("feedbacks", "methods"):
        ns = [n for n in ns if n]  # who thinks, must have a thought
    steps = training_steps(args, variants, ns)
    title = f"training step, batch of {args.settings().batch_size}"
    seconds = take_turns(title, steps, [*variants][0], args)
    if part == "step":
        show_throughput(args, steps, seconds)


def show_throughput(args, steps, seconds):
    """Tokens per second; on a GPU also what they make use of, and what a thought costs the CPU."""
    rows = [row_for(p, 3, args.settings(0), TOK) for p in draw_problems(1000, args.seed)]
    length = sum(len(row.prefix + row.suffix) for row in rows) / len(rows)
    for n in args.thoughts:
        cfg, objective = (steps["thoughts", n].keywords[name] for name in ("cfg", "objective"))
        per_second = (length + n) * cfg.batch_size / median(seconds["thoughts", n])
        show(f"tokens_per_second_n{n}", per_second)
        if args.device != "cpu":  # forward and backward: 6 operations a weight
            n_weights = sum(p.numel() for p in objective.parameters())
            show(f"utilisation_n{n}", 6 * n_weights * per_second / (args.peak_tflops * 1e12))
    if args.device.startswith("cuda"):
        show("host_ms_per_thought", host_time(objective, args))


def host_time(objective, args):
    """What a thought costs the CPU that feeds a GPU, forward and backward, in ms: it must not wait for the GPU."""
    took = {}
    for n in (3, 3, 18):  # the first is for warming up
        cfg = args.settings(n)
        rows = [row_for(p, 3, cfg, TOK) for p in draw_problems(cfg.batch_size, args.seed)]
        batch = data.collate(rows, args.device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        with precision(cfg, batch.prefix.device):
            loss = objective(batch)["ce"]
        loss.backward()
        took[n] = time.perf_counter() - began
        torch.cuda.synchronize()
    return 1000 * (took[18] - took[3]) / 15


def measure_generation(args):
    """Six thoughts and an answer, as evaluation does it, against as many tokens from transformers: a pass for each."""
    cfg, other = args.settings(), transformers_model(args)
    if not other:
        return
    model = new_model(cfg, args).eval()
    prompts = [row_for(p, 3, cfg, TOK).prompt for p in draw_problems(args.generate, args.seed)]

    def ours(i, n):
        with torch.no_grad():
            solve(model, prompts[:n], cfg, TOK, NEW_TOKENS)

    def theirs(i, n):
        x = torch.from_numpy(data.pad([p.prefix[::-1] for p in prompts[:n]], -1)).flip(1)  # padding is on the left
        x, length = x.to(args.device), {"min_new_tokens": NEW_TOKENS + 6, "max_new_tokens": NEW_TOKENS + 6}
        with precision(cfg, x.device):
            other.eval().generate(x.clamp(min=0), attention_mask=x >= 0, do_sample=False, pad_token_id=0, **length)

    kinds = {"generate": ours, "generate_transformers": theirs}
    variants = {(name, n): partial(kinds[name], n=n) for n in (1, args.generate) for name in kinds}
    title = f"n answers, each six thoughts and {NEW_TOKENS} tokens; transformers: all of it tokens"
    take_turns(title, variants, "generate", args)


def added_memory(args, n):
    """Bytes that a training step with n thoughts adds at its peak, gradients included."""
    torch.set_num_threads(args.threads)
    steps = training_steps(args, {"thoughts": {}}, (0, n))
    steps["thoughts", 0](1)  # now AdamW has its moments
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps["thoughts", n](0)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or the step would find room in it
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins anew
    steps["thoughts", n](0)
    return memory("VmHWM") - before


def memory(key):
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(key))


def measure_memory(args):
    print(f"\nmemory that a step adds at its peak, {args.preset}: MB, and over the first")
    added = []
    try:
        for n in args.thoughts:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own
                added.append(pool.apply(added_memory, (args, n)))
            show(f"memory_n{n}", added[-1] / 1e6, added[-1] / added[0])
    except (OSError, AttributeError) as e:
        print(f"only on Linux or a GPU ({e})")


def padding_share(problems, stage, cfg):
    """The share of positions in an epoch's batches that are padding."""
    cells, used = 0, 0
    for batch in sorted_batches(problems, cfg, stage):
        rows = [row_for(p, stage, cfg, TOK) for p in batch]
        lengths = np.array([(len(row.prefix), len(row.suffix)) for row in rows])
        cells, used = cells + len(rows) * lengths.max(0).sum(), used + lengths.sum()
    return 1 - used / cells


def measure_padding(args):
    cfg, problems = args.settings(), draw_problems(20_000, args.seed)
    if args.file:
        problems = data.encode(data.load_json(args.file), cfg, make_tokenizer("gpt2"))
    print(f"\nshare of padding ({args.file or 'drawn lengths'}): batches of 32 sorted by length, and at random")
    sorted_ones, at_random = (change(cfg, batch_size=32, sort_window=window) for window in (cfg.sort_window, 1))
    for stage in (0, 3):
        shares = (padding_share(problems, stage, of) for of in (sorted_ones, at_random))
        show(f"padding_stage{stage}", *shares)


def main(argv):
    args = parse(BenchConfig, argv, __doc__)
    torch.set_num_threads(args.threads)
    args.device = pick_device(args.device)
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{args.threads} thread(s)"
    print(f"torch {torch.__version__}, {args.device}, {where}, dtype {args.dtype}, medians of {args.rounds}")
    for part in args.parts:
        if part in TRAINING:
            measure_training(part, args)
        else:
            {"yardstick": measure_generation, "memory": measure_memory, "padding": measure_padding}[part](args)


if __name__ == "__main__":
    cli(main)
