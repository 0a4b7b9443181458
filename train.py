"""
Teach a GPT to think in silence: the whole curriculum of Coconut in one run. (Its data and files: run.py.)

Stage 0 is ordinary chain of thought. Each later stage replaces one more written step by continuous thoughts, until
none is written. Everything lands in out_dir: ckpt.pt (to go on with), best.pt (to use), log.txt (to plot).

    python prepare_hops.py
    python train.py configs/hops.py
    python train.py configs/hops.py --resume                                     # after ^C
    python train.py configs/hops.py --method=no_cot --out_dir=out/hops_no_cot    # the same model, not thinking
    python train.py --eval_only=out/hops --eval_file=data/hops/valid.json
"""

import dataclasses
import math
import os
import shlex
import signal
import sys
import time
from functools import lru_cache

import torch

import batches
import data
from checkpoint import (
    find_checkpoint,
    is_ours,
    its_thinking,
    load_checkpoint,
    pick_device,
    pretrained_model,
    source_tokenizer,
)
from config import UserError, cli, parse
from curriculum import METHODS, for_stage, stages
from evaluate import describe, evaluate, precision, show_answer, show_progress, show_results
from run import Run, new_optimizer
from settings import TrainConfig
from speed import parallel
from textfile import ours
from tokenizer import to_text

# What an evaluation does with what it is given: with a checkpoint of ours, and with weights from elsewhere
ACTS = {"eval_only", "eval_file", "data_dir", "max_new_tokens", "grading", "eval_batch_size", "device", "dtype"}
ACTS_ON_WEIGHTS = ACTS | {"tokenizer", "question_format", "step_format", "answer_format", "markers", "icot_tokens",
                          "method", "c_thought", "max_latent_stage", "pad_latent_to_max", "remove_from",
                          "feedback", "thought_positions", "passes", "in_place"}  # fmt: skip


def learning_rate(cfg, index, step, n_steps):
    """Linear warm-up, then cosine decay from the stage's lr to min_lr_ratio of it (by default 1: no decay)."""
    warmup = min(1.0, (step + 1) / (cfg.warmup_steps + 1))
    done = max(0, step - cfg.warmup_steps) / max(1, n_steps - cfg.warmup_steps)
    floor = for_stage(cfg.min_lr_ratio, index)
    decay = floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
    return for_stage(cfg.lr, index) * warmup * decay


def train_step(objective, optimizer, rows, cfg):
    """One optimizer step on Rows, in micro-batches. Returns {name: loss}, tensors: "loss", and what it is the sum of.

    FloatingPointError, before any weight is changed, if the loss or the gradient is not finite.
    """
    device = next(objective.parameters()).device
    weights = getattr(objective, "module", objective).weights  # DistributedDataParallel hides what it wraps
    share = parallel.share(rows)
    micros = list(batches.micro_batches(share, cfg)) if share else []
    micros = [batches.collate(micro, device) for micro in micros]
    n_own, n_all = len(micros), parallel.largest(len(micros), device)
    micros += [batches.collate(rows[:1], device)] * (n_all - n_own)  # nobody may stand aside, even with nothing to do
    counts = [getattr(objective, "module", objective).counts(micro) for micro in micros[:n_own]]
    counts = torch.tensor([sum(int(c[name]) for c in counts) for name in weights], device=device)
    counts = dict(zip(weights, parallel.add(counts).clamp(min=1)))  # of all micro-batches of all processes
    total = torch.zeros(len(weights), device=device)
    for i, micro in enumerate(micros):
        with parallel.backward(objective, last=i == n_all - 1):
            with precision(cfg, device):
                losses = objective(micro)
            means = torch.stack([losses[name][0] / counts[name] for name in weights]) * (i < n_own)
            loss = sum(weight * mean for weight, mean in zip(weights.values(), means))
            (loss * parallel.WORLD).backward()  # DDP takes the mean over the processes, where their sum is wanted
        total = total + means.detach()
    total = dict(zip(weights, parallel.add(total)))
    total = {"loss": sum(weights[name] * value for name, value in total.items()), **total}
    norm = parallel.gradient_norm(objective, cfg.grad_clip)
    if not (total["loss"] + norm).isfinite():  # before the optimizer has seen it: the weights are still good
        raise FloatingPointError(f"loss {total['loss'].item():.3g}, norm of the gradient {norm.item():.3g}")
    optimizer.step()
    optimizer.zero_grad()
    return total


def train_stage(run, stop):
    """Train the stage that the run is in, from the step that it is at; returns early if stop() says so."""
    cfg, progress, index, problems = run.cfg, run.progress, run.progress["index"], run.problems["train"]
    stage, n_steps = run.plan[index], run.lengths[index]
    if progress["step"] == 0:
        run.log("stage", stage)
        progress.update(seconds=0.0, best=-1.0, valid={}, least=None, trained=(0.0, 0), curve=[])
    title = f"stage {stage} of {run.plan[-1]}" if len({*run.plan}) > 1 else f"{cfg.method}, a single stage"
    title += f", {for_stage(cfg.data_dir, index)}" * (len(cfg.data_dir) > 1)
    begun = f" (going on after step {progress['step']})" if progress["step"] else ""
    print(f"\n{title}: {describe(cfg, stage, run.longest)}{begun}", flush=True)
    epoch_steps = run.epoch_steps
    began, clock = time.time() - progress["seconds"], (time.time(), progress["step"])

    @lru_cache(1)
    def order(epoch):
        return batches.epoch_order(problems, stage, batches.random_stream(batches.ORDER, cfg, index, epoch), cfg)

    def batch(step):
        epoch, position = divmod(step, epoch_steps)
        chosen = order(epoch)[position * cfg.batch_size : (position + 1) * cfg.batch_size]
        rng = batches.random_stream(batches.ROWS, cfg, index, step)
        forced = bool(cfg.thought_targets) and rng.random() < for_stage(cfg.teacher_forcing, index)
        given = int(rng.integers(for_stage(cfg.rounds, index) + 1)) if forced else None
        return chosen, batches.training_rows(problems, chosen, cfg, run.tok, rng, given)

    ahead = run.thread.submit(batch, progress["step"])  # the next batch is made while the model works on this one
    while progress["index"] == index and not stop():
        if progress["step"] == 0 or (progress["step"] % epoch_steps == 0 and cfg.reset_optimizer == "epoch"):
            run.optimizer = new_optimizer(run.objective, cfg)
        lr = learning_rate(cfg, index, progress["step"], n_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        chosen, rows = ahead.result()
        ahead = run.thread.submit(batch, progress["step"] + 1)
        try:
            losses = train_step(run.forward, run.optimizer, rows, cfg)
        except FloatingPointError as e:
            some = data.name_some([i for i, _ in chosen])
            where = f"stage {stage}, step {progress['step'] + 1}, training examples {some}"
            good = f"{run.last} holds the last good state" if os.path.exists(run.last) else "nothing was saved before"
            raise UserError(f"training broke down ({e}) at {where}; {good}; a lower --lr may help") from None
        progress["step"] += 1
        progress["total"] += 1
        so_far, n = progress["trained"]
        progress["trained"] = so_far + losses.get("ce", losses["loss"]), n + 1

        end = progress["step"] == n_steps
        evaluated = end or progress["step"] % (cfg.eval_every or epoch_steps) == 0
        if evaluated:
            run.validate(stage)
        mastered = evaluated and 0 < cfg.master_at <= progress["valid"]["accuracy"]
        progress["seconds"] = time.time() - began
        if end or mastered or progress["step"] % cfg.log_every == 0:
            for name, value in losses.items():
                run.log(f"train/{name}", value.item())
            ms = (time.time() - clock[0]) / (progress["step"] - clock[1]) * 1000
            show_progress(run, stage, losses["loss"].item(), lr, ms)
            clock = time.time(), progress["step"]
        if end or mastered:
            if cfg.master_at and not mastered:
                print(f"  WARNING: {n_steps} steps were not enough for {cfg.master_at:.1%} accuracy; going on anyway")
            show_answer(run, stage)
            progress["results"].append((stage, progress["step"], progress["seconds"], progress["valid"]))
            progress.update(index=index + 1, step=0)
        save = cfg.save_every and progress["step"] % cfg.save_every == 0
        if evaluated or save or parallel.any_of(time.time() - run.saved_at > cfg.save_minutes * 60, run.device):
            run.save_last()


def show_test(test, n_problems, path):
    as_numbers = f" ({test['number_accuracy']:.1%} as numbers)" if test["number_accuracy"] != test["accuracy"] else ""
    took = f"{test['tokens']:.1f} tokens and {test['thoughts']:.1f} thoughts each"
    print(f"test accuracy {test['accuracy']:.1%}{as_numbers} on {n_problems:,} problems, {took} ({path})")


def check_given(cfg, path, saved_cfg=None):
    """UserError for settings that were given, but would have no effect on the evaluation of a checkpoint, or weights.

    A checkpoint brings its settings along: who gives the same ones is not misled. A config file is read for what acts
    on weights from elsewhere; that it also says how to train does no harm.
    """
    if saved_cfg:
        acts, given = ACTS, {k: how for k, how in cfg.given.items() if getattr(cfg, k) != getattr(saved_cfg, k)}
    else:
        acts, given = ACTS_ON_WEIGHTS, {k: how for k, how in cfg.given.items() if how == f"--{k}"}
    idle = {k: how for k, how in given.items() if k not in acts}
    idle = [how + (f" (there: {getattr(saved_cfg, k)!r})" if saved_cfg else "") for k, how in idle.items()]
    if idle:
        raise UserError(f"--eval_only={path}: without effect on an evaluation: {', '.join(idle)}")
    if given.get("eval_file") and given.get("data_dir") == "--data_dir":
        raise UserError("--eval_file and --data_dir, whose test.json is evaluated: expected one of them")
    if "data_dir" in given and len(cfg.data_dir) > 1:
        raise UserError(f"--eval_only={path}: {given['data_dir']} names several folders, expected one")


def evaluate_only(cfg):
    """A checkpoint of ours in the stage and with the settings that it was trained with, or weights from elsewhere."""
    path = find_checkpoint(cfg.eval_only)
    if is_ours(path):
        model, saved_cfg, tok, saved = load_checkpoint(path)
        check_given(cfg, path, saved_cfg)
        wanted = {k: getattr(cfg, k) for k in ACTS if k in cfg.given or k in ("eval_batch_size", "device", "dtype")}
        cfg, pieces = dataclasses.replace(saved_cfg, **wanted), saved["pieces"]
    else:
        check_given(cfg, path)
        tok = source_tokenizer(path)
        if "tokenizer" in cfg.given and cfg.tokenizer not in ("source", tok.name):
            whose = "GPT-2's weights know GPT-2's" if tok.name == "gpt2" else "these weights know their own"
            raise UserError(f"{path}: {whose} tokens only, but {cfg.given['tokenizer']} is another")
        pieces, saved = [to_text(tok)] if tok.name == "source" else [], None
        its = its_thinking(path) if METHODS[cfg.method].instead == "thought" else {}
        its = {name: value for name, value in its.items() if name not in cfg.given}
        if cfg.passes:
            its["stop"] = ""  # that would need thoughts one after the other
        model, cfg = pretrained_model(path, dataclasses.replace(cfg, tokenizer=tok.name, **its), tok)
    file = cfg.eval_file or os.path.join(cfg.data_dir[-1], "test.json")
    n_unknown, unknown = data.unknown_pieces(data.load_json(file), cfg, pieces) if pieces else (0, [])
    if unknown:
        what = f"{cfg.tokenizer} that the model does not know, such as {data.name_some(unknown)}"
        print(f"WARNING: {n_unknown:,} problems of {file} have {what}")
    problems = data.load(file, cfg, tok, pieces)
    stage = saved["stage"] if saved else stages(cfg, int(problems.n_steps.max()))[0][-1]
    print(f"{path}: {cfg.method}, stage {stage}; {file}")
    model.to(parallel.start(pick_device(cfg.device)))
    show_test(evaluate(model, problems, stage, cfg, tok, progress=True), len(problems), path)


def train(cfg, argv):
    """The whole run, or the rest of it, and its test; returns 130 if it was interrupted."""
    run = Run(cfg)
    if cfg.left_out:
        print(f"left out, since method={cfg.method} has no use for it: {', '.join(cfg.left_out)}")
    n_parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{len(run.problems['train']):,} problems, {n_parameters:,} parameters, on {run.device}, into {cfg.out_dir}")

    interrupts = []

    def stop():
        return parallel.any_of(bool(interrupts), run.device)

    def on_interrupt(signum, frame):
        interrupts.append(signum)  # torchrun passes ^C on as SIGTERM, and so do clusters
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing this step, then saving (^C once more: stop at once)", flush=True)

    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_interrupt)
    if run.progress["index"] == len(run.plan):
        print("this run has been trained to its end already")
    while run.progress["index"] < len(run.plan):
        train_stage(run, stop)
        if stop():
            run.save_last()
            again = [arg for arg in argv if not arg.startswith(("--resume", "--overwrite")) and arg != "true"]
            program = "python" if parallel.WORLD == 1 else "torchrun ..."
            command = f"{program} {shlex.join([sys.argv[0], *again])} --resume"
            print(f"saved {run.last}; to go on: {command}")
            return 130
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is nothing left to lose
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    show_results(run)

    run.model = load_checkpoint(run.best)[0].to(run.device)
    print()
    test = evaluate(run.model, run.problems["test"], run.plan[-1], cfg, run.tok)
    for name, value in test.items():
        run.log(f"test/{name}", value)
    show_test(test, len(run.problems["test"]), run.best)
    print(f"look at its thoughts: python {ours('sample.py')} {shlex.quote(cfg.out_dir)}")


def main(argv):
    parallel.quiet()
    cfg = parse(TrainConfig, argv, __doc__, takes_file=True)
    if cfg.eval_only or cfg.given.get("eval_only") == "--eval_only":  # an empty $CHECKPOINT must not start a training
        code = evaluate_only(cfg)
    elif cfg.eval_file:
        raise UserError("--eval_file belongs to --eval_only=CHECKPOINT: training evaluates valid.json and test.json")
    else:
        code = train(cfg, argv)
    parallel.stop()
    return code


if __name__ == "__main__":
    cli(main)
