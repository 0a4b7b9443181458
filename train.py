"""
Teach a GPT to think in silence: the whole curriculum of Coconut in one run.

Stage 0 is ordinary chain of thought. Each later stage replaces one more written step by continuous thoughts, until
none is written. Everything lands in out_dir: ckpt.pt (to go on with), best.pt (to use), log.txt (to plot).

    python prepare_hops.py
    python train.py configs/hops.py
    python train.py --resume --out_dir=out/hops                                  # after ^C
    python train.py configs/hops.py --method=no_cot --out_dir=out/hops_no_cot    # the same model, not thinking
    python train.py --eval_only=out/hops --eval_file=data/hops/valid.json
"""

import dataclasses
import math
import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import lru_cache

import torch

import checkpoint
import curriculum
import data
from checkpoint import Stopped, Stops, team
from config import UserError, cli, first_line, ours, parse, upstairs
from curriculum import for_stage
from evaluate import evaluate, evaluate_only, precision, show_answer, show_progress, show_results, show_stage, show_test
from tokenizer import PATTERNS, make_tokenizer, to_text

SAVE_SECONDS = 600  # longest time between checkpoints


def call(folder, name, function, *args):
    """Call a function of folder/name.py, if that is there."""
    if os.path.exists(ours(folder, f"{name}.py")):
        getattr(upstairs(folder, name), function)(*args)


# ---------------------------------------------------------------- a run


class Run:
    """A training run: settings, data, plan, model, optimizer, and `progress`, which says how far it has come.

    With weights, moments and random state, progress is all that a checkpoint holds: a resumed run equals one that was
    never stopped. Two of them in one folder would overwrite each other's files: train() holds a lock.
    """

    # What a resumed run may change: what has no part in its steps, and where its files are.
    FREE = """resume overwrite eval_only eval_file out_dir data_dir device log_every eval_every eval_batch_size
           micro_batch_size micro_batch_tokens speed""".split()

    def __init__(self, cfg):
        self.device, self.stops = team().start(checkpoint.pick_device(cfg.device)), Stops()
        files = (os.path.join(cfg.out_dir, name) for name in ("ckpt.pt", "best.pt", "log.txt"))
        self.last, self.best, self.log_path = files
        for path, ways in (self.last, "--resume goes on with it, "), (self.best, ""):
            if os.path.exists(path) and not (cfg.resume or cfg.overwrite):
                ways += "--overwrite discards it, --out_dir=FOLDER leaves it alone"
                raise UserError(f"{path} is there from an earlier run: {ways}")
        # due: the evaluation after the step that was made last
        self.progress = {"index": 0, "step": 0, "total": 0, "due": False, "results": [], "log_size": 0, "advice": {}}
        torch.manual_seed(cfg.seed)
        saved = checkpoint.load_checkpoint(self.last) if cfg.resume else None
        why = f"{self.last} cannot be resumed with other settings, its steps would have been others"
        self.cfg = checkpoint.merge(saved.cfg, cfg, {*self.FREE, "steps", "epochs"}, why) if saved else cfg
        self.load_data(saved)
        self.make_plan()
        torch.manual_seed(cfg.seed + team().rank)  # for dropout: each process has other examples
        self.model.to(self.device).train()
        self.objective = curriculum.make_objective(self.model, self.cfg, self.tok).to(self.device)
        for name in self.cfg.speed:
            if name != "shard":  # which is its team's business
                upstairs("speed", name, "speed_up").speed_up(self.model)
        self.forward = team().wrap(self.objective, self.cfg.speed)
        self.optimizer = new_optimizer(self.objective, self.cfg)
        if saved:
            self.go_on(saved)
        else:
            call("lab", "advice", "on_start", self)
        self.saved_at = time.monotonic()
        if team().rank == 0:
            os.makedirs(cfg.out_dir, exist_ok=True)
            if cfg.overwrite:
                checkpoint.discard(cfg.out_dir)
            with open(self.log_path, "a") as f:  # what was logged after the last checkpoint will come again
                f.truncate(min(self.progress["log_size"], f.tell()))

    def load_data(self, saved):
        """Tokenizer, model, problems, in this order: how long a problem may be depends on the model."""
        trains = [f"{folder}/train.json" for folder in self.cfg.data_dir]
        for path in trains:
            data.check_exists(path)
        if saved:
            self.model, self.tok, self.pieces = saved.model, saved.tok, saved.state["pieces"]
        else:
            self.make_tokenizer(trains)
            self.model, self.cfg = checkpoint.initial_model(self.cfg, self.tok)
        self.task, self.all_problems = curriculum.make_task(self.cfg, self.tok), []
        for folder, path in zip(self.cfg.data_dir, trains):
            files = {split: f"{folder}/{split}.json" for split in data.SPLITS}
            self.all_problems.append({k: data.load(file, self.cfg, self.tok, self.pieces) for k, file in files.items()})
            self.task.check(self.all_problems[-1]["train"], path)
        if not saved:
            call("tasks", "facts", "fit", self)

    def make_tokenizer(self, paths):
        kind, pieces = self.cfg.tokenizer, set()
        if kind == "source":
            self.tok = upstairs("pretrained", "weights").load_tokenizer(self.cfg.init_from)
            self.pieces = [to_text(self.tok)]
            return
        if kind in PATTERNS:
            for path in paths:
                pieces |= {*data.find_pieces(data.load_json(path), self.cfg)}
        self.pieces = sorted(pieces)
        self.tok = make_tokenizer(kind, self.pieces)

    @property
    def problems(self):
        """{"train": Problems, ...} of the stage that the run is in; in the end those of the last one."""
        return for_stage(self.all_problems, self.progress["index"])

    @property
    def epoch_steps(self):
        return math.ceil(len(self.problems["train"]) / self.cfg.batch_size)

    def make_plan(self):
        """The stages, and the steps in each; a method without a curriculum gets the steps of all stages for its one.

        With several data folders it is in its one stage several times.
        """
        cfg, trained = self.cfg, [problems["train"] for problems in self.all_problems]
        self.longest = max(int(problems.n_steps.max()) for problems in trained)
        self.plan, self.n_stages = curriculum.stages(cfg, self.longest)
        if len(self.plan) == 1 and len(trained) > 1:
            self.plan, self.n_stages = self.plan * len(trained), len(trained)
        if len(trained) > len(self.plan):
            raise UserError(f"data_dir: {len(trained)} folders for {len(self.plan)} stages: the last are no stage's")
        self.lengths = self.stage_lengths(cfg)

    def stage_lengths(self, cfg):
        """The steps in each stage of the plan."""
        lengths = []
        for index in range(self.n_stages):
            n_problems = len(for_stage(self.all_problems, index)["train"])
            steps = math.ceil(n_problems / cfg.batch_size) * for_stage(cfg.epochs, index)
            lengths.append(for_stage(cfg.steps, index) if cfg.steps else steps)
        return lengths if len(self.plan) > 1 else [sum(lengths)]

    def go_on(self, saved):
        """Take up a checkpoint; UserError for data or lengths with which it would not have come where it is."""
        state = saved.state
        if "optimizer" not in state:
            why = "no optimizer in it: best.pt, renamed? Of format 4? --init_from=FILE begins anew"
            raise UserError(f"{self.last} cannot be resumed: {why}")
        if state["data"] != self.data_keys():
            raise UserError(f"{self.last} cannot be resumed: the files in {', '.join(self.cfg.data_dir)} are others")
        try:
            was = state["progress"]
            changed = any(type(was.get(name, now)) is not type(now) for name, now in self.progress.items())
            if changed or min(was["index"], was["step"]) < 0:
                raise ValueError("somebody has changed its progress")
            self.progress |= was
            team().load_optimizer(self.objective, self.optimizer, state["optimizer"])
            self.objective.load_state_dict(state["objective"], strict=False)
            rng, cuda_rng = state["rng"][team().rank % len(state["rng"])]
            torch.set_rng_state(rng)
        except Exception as e:  # torch has a dozen ways to say no
            raise UserError(f"{self.last} cannot be resumed: {first_line(e)}") from None
        self.check_lengths(self.stage_lengths(saved.cfg))
        if self.device.startswith("cuda") and cuda_rng is not None:
            torch.cuda.set_rng_state(cuda_rng, self.device)

    def check_lengths(self, old):
        """UserError for other lengths of stages, but for a longer last one whose end the learning rate did not know."""
        *others, end = self.lengths
        last, progress = len(others), self.progress
        begun = progress["index"] + (progress["step"] > 0) > last
        decayed = begun and for_stage(self.cfg.min_lr_ratio, last) != 1
        if self.lengths != old and (decayed or others != old[:-1] or end < old[-1]):
            raise UserError(f"{self.last} cannot be resumed: the stages had {old} steps, now {self.lengths}")
        if progress["index"] > last and end > old[-1] and not self.is_mastered():
            progress["results"].pop()  # it is taken up again
            progress.update(index=last, step=old[-1])

    def is_mastered(self):
        return 0 < self.cfg.master_at <= self.progress["valid"]["accuracy"]

    def data_keys(self):
        return [problems.key for splits in self.all_problems for problems in splits.values()]

    def log(self, stream, value):
        if team().rank == 0:
            os.makedirs(os.path.dirname(self.log_path), exist_ok=True)  # somebody may have tidied up
            with open(self.log_path, "a", encoding="utf-8") as f:
                f.write(f"{self.progress['total']} {stream} {value:.6g}\n")

    def save(self, path, **more):
        """Write a checkpoint: there is always a whole one, the old one or the new."""
        weights, moments = team().states(self.objective, self.optimizer)
        if team().rank > 0:
            return
        if path == self.last:
            more |= {"optimizer": moments, "objective": self.objective.own_state()}
        with suppress(FileNotFoundError):
            self.progress["log_size"] = os.path.getsize(self.log_path)
        state = {
            "model": weights,
            "config": dataclasses.asdict(self.cfg),
            "base": dataclasses.asdict(self.model.config),
            "pieces": self.pieces,
            "longest": self.longest,
            "stage": for_stage(self.plan, self.progress["index"]),
            "data": self.data_keys(),
            "progress": self.progress,
            "format": checkpoint.FORMAT,
        }
        checkpoint.write_checkpoint(path, state | more)

    def save_last(self):
        cuda_rng = torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else None
        self.save(self.last, rng=team().gather([(torch.get_rng_state(), cuda_rng)]))  # of each process
        self.saved_at = time.monotonic()
        team().any_of(False)  # all wait until it is written: who leaves early takes the others along

    def evaluate(self, split, stage):
        """Of the problems of a split, in a stage; Stopped if somebody asks, since it can be made again."""
        with self.stops.at_once():
            return evaluate(self.model, self.problems[split], stage, self.cfg, self.tok)

    def validate(self, stage):
        """Evaluate on the validation problems, log it, and keep the weights if they are the stage's best."""
        valid = self.evaluate("valid", stage)
        self.progress.update(valid=valid, valid_at=self.progress["step"], due=False)
        for name, value in valid.items():
            self.log(f"valid/{name}", value)
        call("lab", "advice", "on_validation", self, valid)
        missing = team().any_of(team().rank == 0 and not os.path.exists(self.best))
        if valid["accuracy"] > self.progress["best"] or missing:
            self.progress["best"] = valid["accuracy"]
            self.save(self.best)


# ---------------------------------------------------------------- training


def new_optimizer(objective, cfg):
    settings = {"betas": (0.9, cfg.beta2), "weight_decay": cfg.weight_decay}
    return torch.optim.AdamW(objective.parameters(), fused=True, **settings)  # fused: one pass over the weights


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
    device, weights = next(objective.parameters()).device, objective.weights
    batches = [data.collate(micro, device) for micro in data.micro_batches(rows, cfg)]
    counts = [objective.counts(batch) for batch in batches]
    counts = {name: max(1, sum(int(c[name]) for c in counts)) for name in weights}  # of all micro-batches
    total = dict.fromkeys(weights, 0.0)
    for batch in batches:
        with precision(cfg, device):
            means = {name: loss / counts[name] for name, loss in objective(batch).items()}
            loss = sum(weights[name] * mean for name, mean in means.items())
        loss.backward()
        total = {name: total[name] + mean.detach() for name, mean in means.items()}
    total = {"loss": sum(weights[name] * mean for name, mean in total.items()), **total}
    norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), cfg.grad_clip or math.inf)
    take_step(optimizer, total["loss"], norm)
    return total


def take_step(optimizer, loss, norm):
    """Change the weights, unless loss or gradient are not finite: then they are still good."""
    if not (loss + norm).isfinite():
        raise FloatingPointError(f"loss {loss.item():.3g}, norm of the gradient {norm.item():.3g}")
    optimizer.step()
    optimizer.zero_grad()


def train_stage(run, stop):
    """Train the stage that the run is in, from the step that it is at; returns early if stop() says so."""
    cfg, progress, index, problems = run.cfg, run.progress, run.progress["index"], run.problems["train"]
    stage, n_steps, epoch_steps = run.plan[index], run.lengths[index], run.epoch_steps
    step_of_team = getattr(team(), "train_step", None) or train_step
    if progress["step"] == 0:
        begin_stage(run, stage)
    show_stage(run, stage)
    began, clock = time.monotonic() - progress["seconds"], (time.monotonic(), progress["step"])

    @lru_cache(1)
    def order(epoch):
        return data.epoch_order(problems, stage, data.random_stream(data.ORDER, cfg, index, epoch), cfg)

    def batch(step):
        epoch, position = divmod(step, epoch_steps)
        chosen = order(epoch)[position * cfg.batch_size : (position + 1) * cfg.batch_size]
        rng = data.random_stream(data.ROWS, cfg, index, step)
        return chosen, data.training_rows(problems, chosen, index, cfg, run.task, rng)

    batches = made_ahead(batch, progress["step"])
    while progress["index"] == index and not stop():
        shown = evaluated = progress["due"]  # in an iteration of its own: stop() has been asked before
        if evaluated:
            run.save_last()
            run.validate(stage)
        else:
            step = progress["step"]
            if step == 0 or (step % epoch_steps == 0 and cfg.reset_optimizer == "epoch"):
                run.optimizer.state.clear()  # as a new one
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate(cfg, index, step, n_steps)
            chosen, rows = next(batches)
            try:
                losses = step_of_team(run.forward, run.optimizer, rows, cfg)
            except FloatingPointError as e:
                raise broke_down(run, stage, e, [i for i, _ in chosen]) from None
            step += 1
            due = step == n_steps or step % (cfg.eval_every or epoch_steps) == 0
            progress.update(step=step, total=progress["total"] + 1, due=due)
            shown = step % cfg.log_every == 0 and not due
            if due or shown:
                progress["losses"] = {name: value.item() for name, value in losses.items()}
                for name, value in progress["losses"].items():
                    run.log(f"train/{name}", value)
        progress["seconds"] = time.monotonic() - began
        if shown:
            show_progress(run, stage, (time.monotonic() - clock[0]) / max(1, progress["step"] - clock[1]))
            clock = time.monotonic(), progress["step"]
        if evaluated and (progress["step"] == n_steps or run.is_mastered()):
            end_stage(run, stage)
        if team().any_of(time.monotonic() - run.saved_at > SAVE_SECONDS):
            run.save_last()


def begin_stage(run, stage):
    """What the last stage has taught is worth in this one, before its first step, is logged: `before/accuracy`."""
    progress, before = run.progress, None
    if progress["index"] > 0:
        run.save_last()
        before = run.evaluate("valid", stage)["accuracy"]
        run.log("before/accuracy", before)
    run.log("stage", stage)
    progress.update(seconds=0.0, best=-1.0, valid={}, valid_at=0, advice={}, before=before)


def made_ahead(batch, step):
    """Yields batch(step), batch(step + 1), ...; the next one is made while the model works on this one."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(batch, step)
        while True:
            step, ready = step + 1, ahead.result()
            ahead = thread.submit(batch, step)
            yield ready


def end_stage(run, stage):
    progress, n_steps = run.progress, run.progress["step"]
    if run.cfg.master_at and not run.is_mastered():
        print(f"  WARNING: {n_steps} steps were not enough for {run.cfg.master_at:.1%} accuracy; going on anyway")
    show_answer(run, stage)
    progress["results"].append((stage, n_steps, progress["seconds"], progress["valid"]))
    progress.update(index=progress["index"] + 1, step=0)


def broke_down(run, stage, error, chosen):
    where = f"stage {stage}, step {run.progress['step'] + 1}, training examples {data.name_some(chosen)}"
    good = f"{run.last} holds the last good state" if os.path.exists(run.last) else "nothing was saved before"
    return UserError(f"training broke down ({error}) at {where}; {good}; a lower --lr may help")


# ---------------------------------------------------------------- the command


def train(cfg):
    """The whole run, or the rest of it, and its test; returns 130 if it was stopped."""
    with checkpoint.lock(cfg.out_dir) if team().rank == 0 else nullcontext():
        run = Run(cfg)
        with run.stops:
            try:
                return train_all(run)
            except Stopped:
                program = "python" if team().size == 1 else "torchrun ..."
                again = shlex.join([program, ours("train.py"), "--resume", f"--out_dir={cfg.out_dir}"])
                print(f"saved {run.last}; to go on: {again}")
                return 130


def train_all(run):
    cfg = run.cfg
    if cfg.left_out:
        print(f"left out, since method={cfg.method} has no use for it: {', '.join(cfg.left_out)}")
    n_parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{len(run.problems['train']):,} problems, {n_parameters:,} parameters, on {run.device}, into {cfg.out_dir}")
    if run.progress["index"] == len(run.plan):
        print("this run has been trained to its end already")
    while run.progress["index"] < len(run.plan):
        train_stage(run, run.stops)
        if run.stops() or run.progress["index"] == len(run.plan):
            run.save_last()
        if run.stops():
            raise Stopped
    show_results(run)
    run.model = checkpoint.load_checkpoint(run.best).model.to(run.device)
    print()
    test = run.evaluate("test", run.plan[-1])
    for name, value in test.items():
        run.log(f"test/{name}", value)
    show_test(test, len(run.problems["test"]), run.best)
    what = "thoughts" if test["thoughts"] else "answers"
    print(f"look at its {what}: python {ours('sample.py')} {shlex.quote(cfg.out_dir)}")


def main(argv):
    team()  # of several processes only the first prints
    cfg = parse(curriculum.config_class, argv, __doc__, takes_file=True)
    if "eval_only" in cfg.origin:  # an empty $CHECKPOINT must not start a training
        code = evaluate_only(cfg)
    elif cfg.eval_file:
        raise UserError("--eval_file belongs to --eval_only=CHECKPOINT: training evaluates valid.json and test.json")
    else:
        code = train(curriculum.leave_out(cfg))
    if code is None:
        team().stop()
    return code


if __name__ == "__main__":
    cli(main)
