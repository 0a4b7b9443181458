"""
How fast is it? Ratios, measured side by side in one run, on problems as long as those of GSM8K. (How good: LOG.md.)

    python -m speed.bench                             # 4 layers x 256, batch 32, one thread of the CPU
    python -m speed.bench --preset=124M               # GPT-2's size, batch 8
    python -m speed.bench --preset=124M --device=cuda --compile --batch_size=128 --generate=512
    python -m speed.bench --parts=padding --file=data/gsm8k/valid.json
    python -m speed.bench --parts=feedbacks --thoughts=6
    python -m speed.bench --parts=methods --thoughts=3,6,12,24,48

feedbacks   a training step with each feedback, over one with the hidden state (not among the parts by default)
step        a training step with n thoughts, over one without: with n ordinary tokens in their place (same positions)
yardstick   the step with six thoughts, and generating, beside transformers' GPT-2, if that package is installed
memory      what a step adds at its peak, each in a process of its own
methods     a step of each method's last stage with n thoughts, over one that writes all steps (cot); from which n on
            thoughts in three or six passes take less time than one after the other. Measured only if asked for.
padding     the share of all positions that are padding, with batches sorted by length and without
Variants take turns, in another order each round; a ratio is the median of the rounds' ratios. A step is all of it:
batch, passes, optimizer.
"""

if not __package__:
    raise SystemExit("error: call it as python -m speed.bench, from the project's folder")

import ctypes
import importlib.util
import multiprocessing
import random
import statistics
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

import curriculum
import data
from checkpoint import pick_device
from config import UserError, cli, option, parse
from curriculum import Row, config_class, make_model, make_objective, row_for
from evaluate import length_batches, precision
from model import GPT, GPTConfig
from speed import compiled, fast
from tokenizer import SPECIALS, make_tokenizer
from train import new_optimizer, train_step

PRESETS = {"small": ((4, 4, 256), 32), "124M": ((12, 12, 768), 8)}  # (n_layer, n_head, n_embd), batch size
VOCAB = 50257 + len(SPECIALS) - 1  # as GPT-2's tokenizer has it: <|endoftext|> was there before
EOT, TOKEN = 50258, 100  # <eot>, and some token: what it is does not change how long it takes
# GSM8k-Aug's 500 validation problems in GPT-2's tokens: the 0th, 5th, ..., 100th percentile, and the share of problems
# with 0, 1, ..., 8 steps. Longer questions have more steps, which is left out here: batches are easier to sort there.
QUESTION = 23, 31, 34, 37, 40, 41, 43, 45, 47, 50, 52, 54, 57, 59, 63, 68, 72, 77, 84, 97, 166
STEP = 6, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 10, 10, 10, 11, 28
N_STEPS = 0.012, 0.052, 0.310, 0.280, 0.182, 0.106, 0.036, 0.016, 0.006
ANSWER = 3  # "### 72" and the end of text; 92 % have so many


PARTS = "step", "yardstick", "memory", "padding", "feedbacks", "methods"
FEEDBACKS = "layer:-2", "suppressed:0.5", "zero", "embedding", "soft", "members", "fusion:0.6", "projection", "gate"


@dataclass
class BenchConfig:
    preset: str = option("small", "size of the model", tuple(PRESETS))
    parts: tuple[str, ...] = option(("step", "yardstick", "memory", "padding"), "what to measure")
    thoughts: tuple[int, ...] = option((0, 2, 6, 12, 24), "numbers of thoughts in a training step", least=0, most=200)
    batch_size: int | None = option(
        None, "problems in a training step; by default 32 small ones, 8 of 124M", least=1, most=10**5
    )
    generate: int = option(64, "answers to generate (beside a single one)", least=1, most=10**5)
    new_tokens: int = option(24, "tokens of an answer", least=1, most=1000)
    rounds: int = option(7, "times that everything is measured, after one that is not", least=1)
    file: str = option("", "a data file of problems, to measure their padding")
    device: str = option("cpu", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")
    dtype: str = option("auto", "auto: bfloat16 where the GPU has it, else float32", ("auto", "float32", "bfloat16"))
    compile: bool = option(False, "torch.compile")
    fast: bool = option(False, "steps of thoughts also with --speed=fast")
    threads: int = option(1, "threads on the CPU", least=1, most=1000)
    peak_tflops: float = option(989.0, "of the GPU in bfloat16, for its utilisation; 989: H100, H200", least=1)
    seed: int = option(1, "decides the lengths of the problems", least=0)

    def __post_init__(self):
        if self.fast and (self.compile or self.device != "cpu"):
            raise UserError("--fast is for a CPU, and without --compile")
        unknown = {*self.parts} - {*PARTS}
        if unknown:
            raise UserError(f"--parts: expected some of {','.join(PARTS)}, found {min(unknown)!r}")
        self.batch_size = self.batch_size or PRESETS[self.preset][1]

    def train_config(self, **more):
        """GSM8K's settings, as far as they matter here."""
        settings = {"tokenizer": "gpt2", "max_latent_stage": 3, "c_thought": 2, "block_size": 1024, "sort_window": 100,
                    "batch_size": self.batch_size, "dtype": self.dtype, "seed": self.seed, **more}  # fmt: skip
        return config_class(settings)(**settings)


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


def make_row(problem, n, stage=3):
    """The problem as GSM8K has it at stage 3, but with n thoughts."""
    written = sum(problem.steps[stage:], []) + problem.answer
    return Row(problem.question + [TOKEN], n, [EOT, *written], [-100, *written])


def without_thoughts(row):
    """The same row with ordinary tokens in place of its thoughts."""
    return row._replace(prefix=row.prefix + [TOKEN] * row.n, n=0)


def new_base(args):
    n_layer, n_head, n_embd = PRESETS[args.preset][0]
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer, n_head, n_embd, 1024, VOCAB))


def new_model(args, cfg, device, tok=None, faster=False):
    model = make_model(new_base(args), cfg, tok).to(device)
    if args.compile:
        compiled.speed_up(model)
    return fast.speed_up(model) if faster else model


def take_turns(variants, args):
    """{name: seconds of each round}; variants {name: function of the round's number}, each round in a new order."""
    seconds, order = {name: [] for name in variants}, random.Random(args.seed)
    for i in range(args.rounds + 1):
        for name in order.sample(list(variants), len(variants)):
            began = time.perf_counter()
            variants[name](i)
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: s[1:] for name, s in seconds.items()}  # the first round is for warming up


def ratio(a, b):
    """The median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b))


def sorted_batches(args, problems, cfg):
    """Problems in batches as train.py makes them."""
    order = [i for i, _ in data.epoch_order(problems, 3, np.random.default_rng(args.seed), cfg)]
    return [[problems[i] for i in order[k : k + args.batch_size]] for k in range(0, len(order), args.batch_size)]


def print_values(**values):
    """Lines for machines."""
    for name, value in values.items():
        print(f"{name} {value:.4g}")


# ---------------------------------------------------------------- parts


def measure_steps(args, device):
    cfg, kinds = args.train_config(), ["plain", "tokens"]
    if args.fast:
        kinds.insert(1, "fast")
    chosen = sorted_batches(args, draw_problems(100 * args.batch_size, args.seed), cfg)
    models = {kind: new_model(args, cfg, device, faster=kind == "fast") for kind in kinds}
    objectives = {kind: make_objective(model, cfg, None) for kind, model in models.items()}
    optimizers = {kind: new_optimizer(objective, cfg) for kind, objective in objectives.items()}

    def step(n, kind):
        def call(i):
            rows = [make_row(p, n) for p in chosen[i % len(chosen)]]
            rows = [without_thoughts(r) for r in rows] if kind == "tokens" else rows
            train_step(objectives[kind], optimizers[kind], rows, cfg)

        return call

    variants = {(n, kind): step(n, kind) for n in args.thoughts for kind in kinds}
    if "yardstick" in args.parts and has_transformers():
        variants["transformers"] = transformers_step(args, device, chosen)
    seconds = take_turns(variants, args)
    n_parameters = sum(p.numel() for p in objectives["tokens"].parameters())
    print(f"\ntraining step, {args.preset} ({n_parameters / 1e6:.1f} M parameters), batch {args.batch_size}")
    print("         ms a step with so many       over the step with tokens")
    title = "number  thoughts  with --fast  tokens  thoughts  with --fast  tokens/s"
    print(title + "  used" if device != "cpu" else title)
    lengths = [(len(p.question), sum(map(len, p.steps[3:]))) for b in chosen[1 : args.rounds + 1] for p in b]
    mean = sum(q + s + 2 + ANSWER for q, s in lengths) / len(lengths)  # tokens of a row without thoughts
    over = {(n, kind): ratio(seconds[n, kind], seconds[n, "tokens"]) for n in args.thoughts for kind in kinds}
    for n in args.thoughts:
        ms = {kind: 1000 * statistics.median(seconds[n, kind]) for kind in kinds}
        per_second = 1000 * (mean + n) * args.batch_size / ms["plain"]
        quick = (f"{ms['fast']:.0f}", f"{over[n, 'fast']:.2f}") if args.fast else ("-", "-")
        line = f"{n:>6}  {ms['plain']:>8.0f}  {quick[0]:>11}  {ms['tokens']:>6.0f}  {over[n, 'plain']:>8.2f}"
        line += f"  {quick[1]:>11}  {per_second:>8.0f}"
        used = 6 * n_parameters * per_second / (args.peak_tflops * 1e12)  # forward and backward: 6 operations a weight
        print(f"{line}  {used:>4.0%}" if device != "cpu" else line)
    for n in args.thoughts:
        print_values(**{f"step_over_plain_n{n}": over[n, "plain"]})
        if args.fast:
            print_values(**{f"step_over_plain_with_fast_n{n}": over[n, "fast"]})
    if device != "cpu":
        print_values(host_ms_per_thought=host_time(objectives["plain"], cfg, chosen[0]))
    if "transformers" in seconds and 6 in args.thoughts:
        print_values(step_over_transformers=ratio(seconds[6, "plain"], seconds["transformers"]))


def measure_feedbacks(args, device):
    n = max(args.thoughts)
    chosen = sorted_batches(args, draw_problems(100 * args.batch_size, args.seed), args.train_config())

    def step(feedback):
        cfg = args.train_config(feedback=feedback)
        objective = make_objective(new_model(args, cfg, device), cfg, None)
        optimizer = new_optimizer(objective, cfg)
        return lambda i: train_step(objective, optimizer, [make_row(p, n) for p in chosen[i % len(chosen)]], cfg)

    seconds = take_turns({name: step(name) for name in ("last", *FEEDBACKS)}, args)
    print(f"\ntraining step with {n} thoughts, {args.preset}, batch {args.batch_size}\nfeedback          ms  over last")
    for name, s in seconds.items():
        print(f"{name:<14}  {1000 * statistics.median(s):>4.0f}  {ratio(s, seconds['last']):>9.2f}")


KINDS = {  # what they are called here, and the settings of each
    "cot": {"method": "cot"},
    "coconut": {"method": "coconut"},
    "coconut_3_passes": {"method": "coconut+pccot", "passes": 3, "losses": ("teacher:0", "distance:0")},
    "coconut_6_in_place": {"method": "coconut+lotus", "passes": 6, "losses": ("step_tokens:0",)},
    **{name: {"method": name} for name in ("simcot", "codi", "pccot", "lotus")},
    "simcot_head": {"method": "simcot", "decoder": "head"},
}


def measure_methods(args, device):
    """All of them train models of the same size, on the same problems."""
    tok = make_tokenizer("words", map(str, range(50_000)))  # knows the tokens of draw_problems
    chosen = sorted_batches(args, draw_problems(100 * args.batch_size, args.seed), args.train_config())
    base, variants, optimizers = new_base(args).to(device), {}, {}
    if args.compile:
        compiled.speed_up(curriculum.Coconut(base))
    for name, settings in KINDS.items():
        cfg = args.train_config(pad_latent_to_max=True, **settings)
        model = make_model(base, cfg, tok).to(device)
        objective = make_objective(model, cfg, tok).to(device)
        trained = frozenset(objective.parameters())  # one optimizer for all that train the same
        optimizer = optimizers.setdefault(trained, new_optimizer(objective, cfg))

        def step(i, cfg, objective, optimizer):
            stage = 0 if cfg.method == "cot" else cfg.max_latent_stage + 1
            rows = [row_for(p, stage, cfg, tok) for p in chosen[i % len(chosen)]]
            train_step(objective, optimizer, rows, cfg)

        for n in filter(None, (1,) if name == "cot" else args.thoughts):
            c = n // 3 if n % 3 == 0 else 1  # for three steps, as GSM8K has them
            of = curriculum.change(cfg, c_thought=c, max_latent_stage=n // c)
            variants[name, n] = partial(step, cfg=of, objective=objective, optimizer=optimizer)
    seconds = take_turns(variants, args)
    ns = [n for n in args.thoughts if n]
    cot = seconds["cot", 1]
    ms = 1000 * statistics.median(cot)
    print(f"\ntraining step, {args.preset}, batch {args.batch_size}, over one of cot, which takes {ms:.0f} ms")
    print(f"{'thoughts':<20}" + "".join(f"{n:>7}" for n in ns))
    for name in [*KINDS][1:]:
        print(f"{name:<20}" + "".join(f"{ratio(seconds[name, n], cot):>7.2f}" for n in ns))
    for name in "coconut_3_passes", "coconut_6_in_place":
        slower = [n for n in ns if ratio(seconds[name, n], seconds["coconut", n]) >= 1]
        sooner = [n for n in ns if n > max(slower, default=0)]
        since = f"from {min(sooner)} thoughts on" if sooner else "for none of them"
        print(f"{name} takes less than coconut {since}")
    for name in [*KINDS][1:]:
        print_values(**{f"{name}_over_cot_n{n}": ratio(seconds[name, n], cot) for n in ns})


def host_time(objective, cfg, problems):
    """What a thought costs the CPU that feeds a GPU, forward and backward, in ms: it must not wait for the GPU."""
    took = {}
    for n in (4, 4, 20):  # the first is for warming up
        batch = data.collate([make_row(p, n) for p in problems], next(objective.parameters()).device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        with precision(cfg, batch.prefix.device):
            loss = objective(batch)["ce"]
        loss.backward()
        took[n] = time.perf_counter() - began
        torch.cuda.synchronize()
    return 1000 * (took[20] - took[4]) / 16


def has_transformers():
    found = importlib.util.find_spec("transformers") is not None
    if not found:
        print("transformers is not installed: no yardstick")
    return found


def transformers_model(args, device):
    from transformers import GPT2Config, GPT2LMHeadModel

    n_layer, n_head, n_embd = PRESETS[args.preset][0]
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "vocab_size": VOCAB}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).to(device)


def transformers_step(args, device, chosen):
    """Its plain step on the same positions as our step with six thoughts; its logits are those of all positions."""
    model, cfg = transformers_model(args, device), args.train_config()
    optimizer = new_optimizer(model, cfg)

    def call(i):
        rows = [without_thoughts(make_row(p, 6)) for p in chosen[i % len(chosen)]]
        width = max(len(r.prefix) + len(r.suffix) for r in rows)
        fill = [width - len(r.prefix) - len(r.suffix) for r in rows]
        x = torch.tensor([r.prefix + r.suffix + [0] * f for r, f in zip(rows, fill)], device=device)
        y = torch.tensor([[-100] * len(r.prefix) + r.labels + [-100] * f for r, f in zip(rows, fill)], device=device)
        with precision(cfg, x.device):
            loss = model(input_ids=x, labels=y).loss  # padding is on the right: causal attention never sees it
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def measure_generation(args, device):
    """Six thoughts and an answer, against as many tokens from transformers: a pass for each.

    Ours are answered as evaluation does it, in batches of similar length.
    """
    cfg = args.train_config()
    model, other = new_model(args, cfg, device).eval(), transformers_model(args, device).eval()
    problems = [p.question + [TOKEN] for p in draw_problems(args.generate, args.seed)]

    @torch.no_grad()
    def ours(questions):
        rows = [Row(q, 6, [EOT], []) for q in questions]
        for chosen in length_batches(rows, len(rows)):
            batch = data.collate([rows[i] for i in chosen], device)
            segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
            with precision(cfg, batch.prefix.device):
                assert model.generate(*segments, args.new_tokens).size(1) == args.new_tokens

    def theirs(questions):
        width, new = max(map(len, questions)), args.new_tokens + 6
        x = torch.tensor([[0] * (width - len(q)) + q for q in questions], device=device)
        real = torch.tensor([[0] * (width - len(q)) + [1] * len(q) for q in questions], device=device)
        settings = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        with precision(cfg, x.device):
            assert other.generate(x, attention_mask=real, **settings).size(1) == width + new

    print(f"\ngenerating, six thoughts and {args.new_tokens} tokens each; transformers: {args.new_tokens + 6} tokens")
    print("     answers     ms  transformers' ms  ratio")
    for size, name in ((1, "b1"), (args.generate, f"b{args.generate}")):
        several = {"ours": lambda i, s=size: ours(problems[:s]), "theirs": lambda i, s=size: theirs(problems[:s])}
        t = take_turns(several, args)
        ours_ms, theirs_ms = (1000 * statistics.median(t[name]) for name in ("ours", "theirs"))
        print(f"{size:>15}  {ours_ms:>4.0f}  {theirs_ms:>16.0f}  {ratio(t['theirs'], t['ours']):>5.2f}")
        print_values(**{f"generate_over_transformers_{name}": ratio(t["theirs"], t["ours"])})


def added_memory(args, n):
    """Bytes that a training step with n thoughts adds at its peak, gradients included."""
    torch.set_num_threads(args.threads)
    device, cfg = pick_device(args.device), args.train_config()
    model = make_objective(new_model(args, cfg, device), cfg, None)
    optimizer = new_optimizer(model, cfg)
    chosen = sorted_batches(args, draw_problems(20 * args.batch_size, args.seed), cfg)
    train_step(model, optimizer, [make_row(chosen[0][0], 1)], cfg)  # now AdamW has its moments
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train_step(model, optimizer, [make_row(p, n) for p in chosen[0]], cfg)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or the step would find room in it
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins anew
    train_step(model, optimizer, [make_row(p, n) for p in chosen[0]], cfg)
    return memory("VmHWM") - before


def memory(key):
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(key))


def measure_memory(args):
    try:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            added = {n: pool.apply(added_memory, (args, n)) for n in args.thoughts}
    except (OSError, AttributeError) as e:
        return print(f"\nmemory: only on Linux or a GPU ({e})")
    print(f"\nmemory that a step adds at its peak, {args.preset}, batch {args.batch_size}\nthoughts    MB")
    for n, size in added.items():
        print(f"{n:>8}  {size / 1e6:>4.0f}")
    if {6, 24} <= added.keys():
        print_values(memory_n24_over_n6=added[24] / added[6])


def padding_share(problems, stage, cfg):
    """The share of positions in an epoch's batches that are padding."""
    cells, used = 0, 0
    order = data.epoch_order(problems, stage, np.random.default_rng(cfg.seed), cfg)
    for k in range(0, len(order), cfg.batch_size):
        rows = [make_row(problems[i], 2 * stage, stage) for i, _ in order[k : k + cfg.batch_size]]
        lengths = np.array([(len(row.prefix), len(row.suffix)) for row in rows])
        cells, used = cells + len(rows) * lengths.max(0).sum(), used + lengths.sum()
    return 1 - used / cells


def measure_padding(args):
    cfg = args.train_config()
    if args.file:
        problems = data.encode(data.load_json(args.file), cfg, make_tokenizer("gpt2"))
    else:
        problems = draw_problems(20_000, args.seed)
    shares = {}
    for window in 1, cfg.sort_window:
        of = curriculum.change(cfg, batch_size=32, sort_window=window)
        shares |= {(window, stage): padding_share(problems, stage, of) for stage in (0, 3)}
    print(f"\npadding in batches of 32 ({args.file or 'drawn lengths'}, {len(problems):,} problems)")
    print("stage  random  sorted by length")
    for stage in (0, 3):
        print(f"{stage:>5}  {shares[1, stage]:>6.1%}  {shares[cfg.sort_window, stage]:>16.1%}")
    print_values(**{f"padding_stage{stage}": shares[cfg.sort_window, stage] for stage in (0, 3)})


def main(argv):
    args = parse(BenchConfig, argv, __doc__)
    torch.set_num_threads(args.threads)
    args.device = device = pick_device(args.device)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{device}, {args.threads} thread(s)"
    print(f"torch {torch.__version__} on {name}, dtype {args.dtype}, medians of {args.rounds}")
    if "padding" in args.parts:
        measure_padding(args)
    if "step" in args.parts:
        measure_steps(args, device)
    if "methods" in args.parts:
        measure_methods(args, device)
    if "yardstick" in args.parts and has_transformers():
        measure_generation(args, device)
    if "memory" in args.parts:
        measure_memory(args)
    if "feedbacks" in args.parts:
        measure_feedbacks(args, device)


if __name__ == "__main__":
    cli(main)
