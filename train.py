"""
Teach a GPT to think in silence: the whole curriculum of Coconut in one run.

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
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

import checkpoint
import curriculum
import data
from checkpoint import team
from config import UserError, cli, ours, parse, upstairs
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
    never stopped.
    """

    # What a resumed run may change: what has no part in its steps, and where its files are; then what has a value for
    # each stage, for stages to come.
    FREE = """resume overwrite eval_only eval_file out_dir data_dir device log_every eval_every eval_batch_size
           micro_batch_size micro_batch_tokens speed""".split()
    OF_STAGES = "lr", "min_lr_ratio", "uniform_prob"
    LENGTHS = "steps", "epochs"

    def __init__(self, cfg):
        self.cfg, self.device = cfg, team().start(checkpoint.pick_device(cfg.device))
        self.last, self.best = os.path.join(cfg.out_dir, "ckpt.pt"), os.path.join(cfg.out_dir, "best.pt")
        self.check_folder()
        self.progress = {"index": 0, "step": 0, "total": 0, "results": [], "log_size": 0, "valid": {}, "valid_at": 0,
                         "trained": (0.0, 0), "watch": {}}  # fmt: skip
        torch.manual_seed(cfg.seed)
        saved = checkpoint.load_checkpoint(self.last) if cfg.resume else None
        self.load_data(saved)
        self.make_plan()
        if team().rank == 0:
            os.makedirs(cfg.out_dir, exist_ok=True)
            self.lock = checkpoint.lock(os.path.join(cfg.out_dir, "lock"))
        torch.manual_seed(cfg.seed + team().rank)  # for dropout: each process has other examples
        self.thread = ThreadPoolExecutor(1)
        self.model.to(self.device).train()
        self.objective = curriculum.make_objective(self.model, self.cfg, self.tok).to(self.device)
        for name in self.cfg.speed:
            if name != "shard":  # which is its team's business
                upstairs("speed", name, "speed_up").speed_up(self.model)
        self.forward = team().wrap(self.objective, self.cfg.speed)
        self.optimizer = new_optimizer(self.objective, self.cfg)
        if saved:
            self.go_on(saved[1], saved[3])
        self.saved_at = time.monotonic()
        if team().rank == 0:
            if cfg.overwrite:
                checkpoint.discard(cfg.out_dir)
            self.open_log()
            # what an interrupted run logged after its last checkpoint will come again
            self.log_file.truncate(min(self.progress["log_size"], os.path.getsize(self.log_file.name)))

    def check_folder(self):
        """UserError if there is an earlier run in the folder, and nobody has said what is to become of it."""
        there = [path for path in (self.last, self.best) if os.path.exists(path)]
        if there and not (self.cfg.resume or self.cfg.overwrite):
            ways = "--overwrite discards it, --out_dir=FOLDER leaves it alone"
            if there[0] == self.last:
                ways = f"--resume goes on with it, {ways}"
            raise UserError(f"{there[0]} is there from an earlier run: {ways}")

    def load_data(self, saved):
        """Tokenizer, model, problems, in this order: how long a problem may be depends on the model."""
        cfg = self.cfg
        files = [{split: f"{folder}/{split}.json" for split in data.SPLITS} for folder in cfg.data_dir]
        for path in (path for paths in files for path in paths.values()):
            data.check_exists(path)
        if cfg.tokenizer == "source":
            if cfg.init_from == "scratch":
                raise UserError("--tokenizer=source is that of the weights in init_from, which is 'scratch'")
            self.tok = saved[2] if saved else checkpoint.source_tokenizer(cfg.init_from)
            self.pieces = [to_text(self.tok)]
        else:
            pieces = set()
            if cfg.tokenizer in PATTERNS:
                for paths in files:
                    pieces |= {*data.find_pieces(data.load_json(paths["train"]), cfg)}
            self.pieces = sorted(pieces)
            self.tok = make_tokenizer(cfg.tokenizer, self.pieces)
        if saved:
            self.model = saved[0]
            if cfg.init_from != "scratch":
                self.cfg = checkpoint.sizes(self.model.base, curriculum.change(cfg, model=saved[1].model))
        else:
            self.model, self.cfg = checkpoint.initial_model(cfg, self.tok)
            for name in ("n_layer", "n_head", "n_embd", "block_size"):
                has, given = getattr(self.cfg, name), getattr(cfg, name)
                if has != given and cfg.origin.get(name) == f"--{name}":  # a config file may be that of other weights
                    where = f"{name} is {has!r} in the weights, {cfg.init_from}"
                    raise UserError(f"--{name}={given} has no effect: {where}")
        loaded = {path: data.load(path, self.cfg, self.tok, self.pieces) for paths in files for path in paths.values()}
        self.all_problems = [{split: loaded[path] for split, path in paths.items()} for paths in files]
        self.task = curriculum.make_task(self.cfg, self.tok)
        for paths, problems in zip(files, self.all_problems):
            self.task.check(problems["train"], paths["train"])
        if not saved:
            call("lab", "advice", "on_data", self, files)
            if cfg.init_from == "scratch" and cfg.model == "gpt2":  # init=induction is fitted to where the facts stand
                call("tasks", "facts", "fit", self)

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
        self.plan, n_stages = curriculum.stages(cfg, self.longest)
        if len(self.plan) > 1 and self.longest < cfg.max_latent_stage:
            print(f"WARNING: no problem has more than {self.longest} steps: the stages after that are all the same")
        if len(self.plan) == 1 and len(trained) > 1:
            self.plan, n_stages = self.plan * len(trained), len(trained)
        if len(trained) > len(self.plan):
            raise UserError(f"data_dir: {len(trained)} folders for {len(self.plan)} stages: the last are no stage's")
        self.n_stages = n_stages
        self.lengths = self.stage_lengths(cfg)

    def stage_lengths(self, cfg):
        """The steps in each stage of the plan."""
        lengths = []
        for index in range(self.n_stages):
            n_problems = len(for_stage(self.all_problems, index)["train"])
            steps = math.ceil(n_problems / cfg.batch_size) * for_stage(cfg.epochs, index)
            lengths.append(for_stage(cfg.steps, index) if cfg.steps else steps)
        return lengths if len(self.plan) > 1 else [sum(lengths)]

    def go_on(self, saved_cfg, saved):
        """Take up a checkpoint; UserError for settings or data with which it would not have come where it is."""
        missing = {"progress", "data", "optimizer", "objective", "rng"} - saved.keys()
        if missing:
            why = f"no {', '.join(sorted(missing))} in it: best.pt, renamed? Of format 4? --init_from=FILE begins anew"
            raise UserError(f"{self.last} cannot be resumed: {why}")
        self.progress |= saved["progress"]
        differing = self.differing(saved_cfg, saved["data"])
        if differing:
            reason = "the steps that it has done would have been others"
            raise UserError(f"{self.last} cannot be resumed with other settings, {reason}: {'; '.join(differing)}")
        old_length, last = self.stage_lengths(saved_cfg)[-1], len(self.plan) - 1
        if self.progress["index"] > last and self.lengths[-1] > old_length and not self.is_mastered():
            self.progress["results"].pop()  # the last stage is longer now: it is taken up again
            self.progress.update(index=last, step=old_length)
        team().load_optimizer(self.objective, self.optimizer, saved["optimizer"])
        self.objective.load_state_dict(saved["objective"], strict=False)
        rng, cuda_rng = saved["rng"][team().rank % len(saved["rng"])]
        torch.set_rng_state(rng)
        if self.device.startswith("cuda") and cuda_rng is not None:
            torch.cuda.set_rng_state(cuda_rng, self.device)

    def differing(self, saved_cfg, saved_keys):
        """What speaks against going on, in words. A longer last stage is fine, if the learning rate did not know it."""
        old, new = dataclasses.asdict(saved_cfg), dataclasses.asdict(self.cfg)
        kept = [k for k in new if k not in (*self.FREE, *self.OF_STAGES, *self.LENGTHS)]
        found = [f"{k} was {old.get(k)!r}, now {new[k]!r}" for k in kept if old.get(k) != new[k]]
        if not found and saved_keys != self.data_keys():
            found = [f"the files in {', '.join(self.cfg.data_dir)} are others"]
        begun = self.progress["index"] + (self.progress["step"] > 0)  # stages; the one it is in, after its first step
        for k in self.OF_STAGES:
            if any(for_stage(old[k], i) != for_stage(new[k], i) for i in range(begun)):
                found.append(f"{k} was {old[k]!r}, now {new[k]!r}")
        lengths, last = self.stage_lengths(saved_cfg), len(self.plan) - 1
        if not found and lengths != self.lengths:
            longer = lengths[:-1] == self.lengths[:-1] and self.lengths[-1] > lengths[-1]
            if not longer or (begun > last and for_stage(self.cfg.min_lr_ratio, last) != 1):
                found.append(f"the stages had {lengths} steps, now {self.lengths}")
        return found

    def is_mastered(self):
        return 0 < self.cfg.master_at <= self.progress["valid"]["accuracy"]

    def data_keys(self):
        return [problems.key for splits in self.all_problems for problems in splits.values()]

    def open_log(self):
        os.makedirs(self.cfg.out_dir, exist_ok=True)
        self.log_file = open(os.path.join(self.cfg.out_dir, "log.txt"), "a", encoding="utf-8")

    def log(self, stream, value):
        if team().rank > 0:
            return
        if not os.path.exists(self.log_file.name):  # deleted underneath: begin again
            self.open_log()
        self.log_file.write(f"{self.progress['total']} {stream} {value:.6g}\n")
        self.log_file.flush()

    def save(self, path, **more):
        """Write beside, then rename: there is always a whole checkpoint, the old one or the new."""
        weights, moments = team().states(self.objective, self.optimizer)
        if team().rank > 0:
            return
        if path == self.last:
            more |= {"optimizer": moments, "objective": self.objective.own_state()}
        self.progress["log_size"] = os.fstat(self.log_file.fileno()).st_size
        state = {
            "model": weights,
            "config": dataclasses.asdict(self.cfg),
            "base": dataclasses.asdict(self.model.config),
            "pieces": self.pieces,
            "longest": self.longest,
            "stage": self.plan[min(self.progress["index"], len(self.plan) - 1)],
            "data": self.data_keys(),
            "progress": self.progress,
            "format": checkpoint.FORMAT,
        }
        checkpoint.write_checkpoint(path, state | more)

    def save_last(self):
        cuda_rng = torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else None
        self.save(self.last, rng=team().gather([(torch.get_rng_state(), cuda_rng)]))  # of each process
        self.saved_at = time.monotonic()

    def validate(self, stage):
        """Evaluate on the validation problems, log it, and keep the weights if they are the stage's best."""
        valid = evaluate(self.model, self.problems["valid"], stage, self.cfg, self.tok)
        self.progress.update(valid=valid, valid_at=self.progress["step"])
        for name, value in valid.items():
            self.log(f"valid/{name}", value)
        call("lab", "advice", "on_validation", self, valid)
        self.progress["trained"] = 0.0, 0
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
        run.log("stage", stage)
        progress.update(seconds=0.0, best=-1.0, valid={}, trained=(0.0, 0), watch={})
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

    ahead = run.thread.submit(batch, progress["step"])  # the next batch is made while the model works on this one
    while progress["index"] == index and not stop():
        if progress["step"] == 0 or (progress["step"] % epoch_steps == 0 and cfg.reset_optimizer == "epoch"):
            run.optimizer = new_optimizer(run.objective, cfg)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(cfg, index, progress["step"], n_steps)
        chosen, rows = ahead.result()
        ahead = run.thread.submit(batch, progress["step"] + 1)
        try:
            losses = step_of_team(run.forward, run.optimizer, rows, cfg)
        except FloatingPointError as e:
            raise broke_down(run, stage, e, [i for i, _ in chosen]) from None
        progress["step"] += 1
        progress["total"] += 1
        loss, n = progress["trained"]
        progress["trained"] = loss + losses.get("ce", losses["loss"]), n + 1
        end = progress["step"] == n_steps
        evaluated = end or progress["step"] % (cfg.eval_every or epoch_steps) == 0
        if evaluated:
            run.validate(stage)
        mastered = evaluated and run.is_mastered()
        progress["seconds"] = time.monotonic() - began
        if end or mastered or progress["step"] % cfg.log_every == 0:
            show_progress(run, stage, losses, (time.monotonic() - clock[0]) / (progress["step"] - clock[1]))
            clock = time.monotonic(), progress["step"]
        if end or mastered:
            end_stage(run, stage, mastered)
        if evaluated or team().any_of(time.monotonic() - run.saved_at > SAVE_SECONDS):
            run.save_last()


def end_stage(run, stage, mastered):
    progress, n_steps = run.progress, run.progress["step"]
    if run.cfg.master_at and not mastered:
        print(f"  WARNING: {n_steps} steps were not enough for {run.cfg.master_at:.1%} accuracy; going on anyway")
    show_answer(run, stage)
    progress["results"].append((stage, n_steps, progress["seconds"], progress["valid"]))
    progress.update(index=progress["index"] + 1, step=0)


def broke_down(run, stage, error, chosen):
    where = f"stage {stage}, step {run.progress['step'] + 1}, training examples {data.name_some(chosen)}"
    good = f"{run.last} holds the last good state" if os.path.exists(run.last) else "nothing was saved before"
    return UserError(f"training broke down ({error}) at {where}; {good}; a lower --lr may help")


# ---------------------------------------------------------------- the command


def train(cfg, argv):
    """The whole run, or the rest of it, and its test; returns 130 if it was interrupted."""
    run = Run(cfg)
    cfg = run.cfg
    if cfg.left_out:
        print(f"left out, since method={cfg.method} has no use for it: {', '.join(cfg.left_out)}")
    n_parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{len(run.problems['train']):,} problems, {n_parameters:,} parameters, on {run.device}, into {cfg.out_dir}")

    interrupts = []

    def stop():
        return team().any_of(bool(interrupts))

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
            program = "python" if team().size == 1 else "torchrun ..."
            print(f"saved {run.last}; to go on: {program} {shlex.join([sys.argv[0], *again])} --resume")
            return 130
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is nothing left to lose
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    show_results(run)

    run.model = checkpoint.load_checkpoint(run.best)[0].to(run.device)
    print()
    test = evaluate(run.model, run.problems["test"], run.plan[-1], cfg, run.tok)
    for name, value in test.items():
        run.log(f"test/{name}", value)
    show_test(test, len(run.problems["test"]), run.best)
    print(f"look at its thoughts: python {ours('sample.py')} {shlex.quote(cfg.out_dir)}")


def main(argv):
    if int(os.environ.get("RANK", 0)) > 0:
        sys.stdout = open(os.devnull, "w")  # of several processes only the first prints
    cfg = parse(curriculum.config_class, argv, __doc__, takes_file=True)
    if cfg.eval_only or cfg.origin.get("eval_only") == "--eval_only":  # an empty $CHECKPOINT must not start a training
        code = evaluate_only(cfg)
    elif cfg.eval_file:
        raise UserError("--eval_file belongs to --eval_only=CHECKPOINT: training evaluates valid.json and test.json")
    else:
        code = train(curriculum.leave_out(cfg), argv)
    team().stop()
    return code


if __name__ == "__main__":
    cli(main)
