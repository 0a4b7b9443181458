"""
A training run: its data, plan, model and optimizer, and the files in which it survives whatever happens.

run = Run(cfg) has everything that train.py needs. `progress` says how far a run has come; with weights, moments and
random state that is all a checkpoint holds, so a resumed run equals one never stopped.
"""

import dataclasses
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

import curriculum
import data
from checkpoint import FORMAT, SIZES, load_checkpoint, new_model, pick_device, pretrained_model, source_tokenizer
from config import UserError, first_line
from evaluate import evaluate
from init import induction
from losses import Objective, trained_on
from speed import fast, parallel
from tokenizer import PATTERNS, make_tokenizer, to_text

PLATEAU = 500  # steps after which something should have been learned


def new_optimizer(objective, cfg):
    settings = {"betas": (0.9, cfg.beta2), "weight_decay": cfg.weight_decay}
    return torch.optim.AdamW(objective.parameters(), fused=True, **settings)  # fused: one pass over the weights


def compile_blocks(model):
    """torch.compile for training: once for all blocks, and some variants for prefix, thoughts and suffix."""
    torch._dynamo.config.recompile_limit = 64
    compiled = torch.compile(type(model.h[0]).forward, dynamic=True)
    for block in model.h:
        plain = block.forward
        block.forward = lambda *args, block=block, plain=plain: (
            compiled(block, *args) if torch.is_grad_enabled() else plain(*args)
        )


def lock(path):
    """An open file that no other process can lock until this one ends, however it ends; UserError if one has."""
    file = open(path, "w")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        folder = os.path.dirname(path)
        raise UserError(f"{folder}: another run is writing here: wait for it, or choose another --out_dir") from None
    except (ImportError, OSError):  # no locks on Windows, nor on some network file systems
        pass
    return file


def discard(folder):
    """Remove what a run has left in its folder, but for pictures, and what has been found out about its model."""
    for name in ("ckpt.pt", "best.pt", "log.txt", "analysis.json", "explore.html"):
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


class Run:
    """A training run: settings, data, plan, model, optimizer, and `progress`, which says how far it has come."""

    # What a resumed run may change: what has no part in its steps, and where its files are; then what has a value for
    # each stage, for stages to come.
    FREE = """resume overwrite out_dir data_dir device log_every eval_every eval_batch_size micro_batch_size
           micro_batch_tokens save_every save_minutes gradient_checkpointing compile fast""".split()
    OF_STAGES = "lr", "min_lr_ratio", "uniform_prob"
    LENGTHS = "steps", "epochs"

    def __init__(self, cfg):
        self.cfg, self.device = cfg, parallel.start(pick_device(cfg.device))
        self.last, self.best = os.path.join(cfg.out_dir, "ckpt.pt"), os.path.join(cfg.out_dir, "best.pt")
        there = [path for path in (self.last, self.best) if os.path.exists(path)]
        if there and not (cfg.resume or cfg.overwrite):
            ways = "--resume goes on with it, " * (there[0] == self.last)
            ways += "--overwrite discards it, --out_dir=FOLDER leaves it alone"
            raise UserError(f"{there[0]} is there from an earlier run: {ways}")
        self.progress = {
            "index": 0,
            "step": 0,
            "total": 0,
            "results": [],
            "log_size": 0,
            "valid": {},
            "valid_at": 0,
            "least": None,
            "trained": (0.0, 0),
            "curve": [],
        }  # of the stage; see watch()
        torch.manual_seed(cfg.seed)
        self.saved = load_checkpoint(self.last) if cfg.resume else None
        self.load_data()
        self.make_plan()
        if parallel.RANK == 0:
            os.makedirs(cfg.out_dir, exist_ok=True)
            self.lock = lock(os.path.join(cfg.out_dir, "lock"))
        torch.manual_seed(cfg.seed + parallel.RANK)  # for dropout: each process has other examples
        self.thread = ThreadPoolExecutor(1)
        self.model.to(self.device).train()
        if cfg.compile:
            compile_blocks(self.model)
        elif cfg.fast and self.device == "cpu" and not cfg.shard:
            fast.speed_up(self.model)  # without this line a large model takes longer, that is all
        self.objective = Objective(self.model, trained_on(cfg)).to(self.device)
        self.forward = parallel.wrap(self.objective, cfg.shard)
        self.optimizer = new_optimizer(self.objective, cfg)
        if cfg.resume:
            self.go_on(self.saved[1], self.saved[3])
        self.saved = None
        self.saved_at = time.time()
        if parallel.RANK == 0:
            if cfg.overwrite:
                discard(cfg.out_dir)
            self.open_log()
            # what an interrupted run logged after its last checkpoint will come again
            self.log_file.truncate(min(self.progress["log_size"], os.path.getsize(self.log_file.name)))

    def load_data(self):
        """Tokenizer, model, problems, in this order: how long a problem may be depends on the model."""
        cfg = self.cfg
        files = [{split: f"{folder}/{split}.json" for split in data.SPLITS} for folder in cfg.data_dir]
        for path in (path for paths in files for path in paths.values()):
            data.check_exists(path)
        if cfg.tokenizer == "source":
            if cfg.init_from == "scratch":
                raise UserError("--tokenizer=source is that of the weights in init_from, which is 'scratch'")
            self.tok = self.saved[2] if cfg.resume else source_tokenizer(cfg.init_from)
            self.pieces = [to_text(self.tok)]
        else:
            pieces = set()
            for paths in files if cfg.tokenizer in PATTERNS else ():
                pieces |= {*data.find_pieces(data.load_json(paths["train"]), cfg)}
            self.pieces = sorted(pieces)
            self.tok = make_tokenizer(cfg.tokenizer, self.pieces)
        if cfg.resume:
            self.model = self.saved[0]
            if cfg.init_from != "scratch":
                cfg = dataclasses.replace(cfg, **{k: getattr(self.saved[1], k) for k in SIZES})
        elif cfg.init_from == "scratch":
            self.model = new_model(cfg, self.tok)
        else:
            self.model, cfg = pretrained_model(cfg.init_from, cfg, self.tok)
            for k in SIZES:
                has, given = getattr(cfg, k), getattr(self.cfg, k)
                if has != given and self.cfg.given.get(k) == f"--{k}":  # a config file may be that of other weights
                    raise UserError(f"--{k}={given} has no effect: {k} is {has!r} in the weights, {cfg.init_from}")
        for name in ("gradient_checkpointing", "backprop_thoughts"):
            setattr(self.model.config, name, getattr(cfg, name))
        self.cfg = cfg
        self.all_problems = [
            {split: data.load(path, cfg, self.tok, self.pieces) for split, path in paths.items()} for paths in files
        ]
        trains = [problems["train"] for problems in self.all_problems]
        for paths, train in zip(files, trains) if cfg.names else ():
            data.check_graphs(train, cfg, self.tok, paths["train"])
        for paths, problems in zip(files, self.all_problems) if parallel.RANK == 0 and not cfg.resume else ():
            for split in ("valid", "test"):
                print(data.compare(paths[split], problems[split], trains, cfg, self.tok, self.pieces), flush=True)
        if cfg.init_from == "scratch" and cfg.model == "gpt2" and not cfg.resume:
            self.fit_facts(data.step_distance(trains[0]))

    def fit_facts(self, distance):
        """Weights that look facts up are drawn for facts as they are worded here, or are recommended."""
        cfg, said = self.cfg, parallel.RANK == 0 and distance is not None
        if said:
            where = f"{abs(distance)} token{'s' * (abs(distance) > 1)} {'after' if distance > 0 else 'before'} it"
            print(f"{cfg.data_dir[0]}: in the questions, what follows a step stands {where}: --init=induction ", end="")
            print("looks there" if cfg.init == "induction" else "would look there from the first training step on")
        elif cfg.init == "induction" and parallel.RANK == 0:
            print(f"{cfg.data_dir[0]}: what follows a step has no fixed place in the questions: --init=induction")
            print("    looks one token after it (docs/own_data.md)")
        if cfg.init == "induction" and distance not in (None, 1):  # it has been drawn for 1
            induction(self.model, distance)

    @property
    def problems(self):
        """{"train": Problems, ...} of the stage that the run is in; in the end those of the last one."""
        return curriculum.for_stage(self.all_problems, self.progress["index"])

    @property
    def epoch_steps(self):
        return math.ceil(len(self.problems["train"]) / self.cfg.batch_size)

    def make_plan(self):
        """The stages, and the steps in each; a method without a curriculum gets the steps of all stages for its one.

        With several data folders, or shares of teacher forcing, it is in its one stage several times.
        """
        cfg, trained = self.cfg, [problems["train"] for problems in self.all_problems]
        self.longest = max(int(problems.n_steps.max()) for problems in trained)
        self.plan, n_stages = curriculum.stages(cfg, self.longest)
        if len(self.plan) > 1 and self.longest < cfg.max_latent_stage:
            print(f"WARNING: no problem has more than {self.longest} steps: the stages after that are all the same")
        phases = max(len(trained), len(cfg.teacher_forcing))
        if len(self.plan) == 1 and phases > 1:
            self.plan, n_stages = self.plan * phases, phases
        if len(trained) > len(self.plan):
            raise UserError(
                f"data_dir: {len(trained)} folders for {len(self.plan)} stages: the last would be no stage's"
            )
        self.n_stages = n_stages
        self.lengths = self.stage_lengths(cfg)

    def stage_lengths(self, cfg):
        """The steps in each stage of the plan."""
        trained, stages = [problems["train"] for problems in self.all_problems], range(self.n_stages)
        sizes = [len(curriculum.for_stage(trained, index)) for index in stages]
        epochs = [curriculum.for_stage(cfg.epochs, index) for index in stages]
        lengths = [math.ceil(size / cfg.batch_size) * n for size, n in zip(sizes, epochs)]
        lengths = [curriculum.for_stage(cfg.steps, index) for index in stages] if cfg.steps else lengths
        return lengths if len(self.plan) > 1 else [sum(lengths)]

    def go_on(self, saved_cfg, saved):
        """Take up a checkpoint; UserError for settings or data with which it would not have come where it is."""
        missing = {"progress", "data", "optimizer", "objective", "rng"} - saved.keys()
        if missing:
            why = f"no {', '.join(sorted(missing))} in it: best.pt, renamed? --init_from=FILE begins anew with it"
            raise UserError(f"{self.last} cannot be resumed: {why}")
        self.progress |= saved["progress"]
        old, new = dataclasses.asdict(saved_cfg), dataclasses.asdict(self.cfg)
        kept = {k for k in new if k not in (*self.FREE, *self.OF_STAGES, *self.LENGTHS)}
        differing = [f"{k} was {old[k]!r}, now {new[k]!r}" for k in new if k in kept and old[k] != new[k]]
        if not differing and saved["data"] != self.data_keys():
            differing = [f"the files in {', '.join(self.cfg.data_dir)} are others"]
        if not differing:
            differing = self.check_lengths(self.stage_lengths(saved_cfg))
        begun = range(self.progress["index"] + (self.progress["step"] > 0))
        for k in self.OF_STAGES:
            if any(curriculum.for_stage(old[k], i) != curriculum.for_stage(new[k], i) for i in begun):
                differing.append(f"{k} was {old[k]!r}, now {new[k]!r}")
        if differing:
            raise UserError(f"{self.last} cannot be resumed with other settings: {'; '.join(differing)}")
        parallel.load_optimizer(self.objective, self.optimizer, saved["optimizer"])
        self.objective.load_state_dict(saved["objective"], strict=False)
        rng, cuda_rng = saved["rng"][parallel.RANK % len(saved["rng"])]
        torch.set_rng_state(rng)
        if self.device.startswith("cuda") and cuda_rng is not None:
            torch.cuda.set_rng_state(cuda_rng, self.device)

    def check_lengths(self, old):
        """What speaks against this run's lengths of the stages, where a checkpoint has the old ones.

        Only the last stage may become longer. Then all is as if it had been so long from the start, even if it has
        come to its end: it is taken up again.
        """
        progress, last = self.progress, len(self.plan) - 1
        changed = [i for i, (before, now) in enumerate(zip(old, self.lengths)) if before != now]
        if not changed:
            return []
        first = changed[0]
        what = f"stage {self.plan[first]} had {old[first]} steps, now {self.lengths[first]}"
        if first < last or self.lengths[last] < old[last]:
            return [f"{what}, but only the last stage may become longer"]
        over = progress["index"] > last
        begun = over or (progress["index"] == last and progress["step"] > 0)
        if begun and curriculum.for_stage(self.cfg.min_lr_ratio, last) != 1:
            return [f"{what}, but its learning rate depends on that (min_lr_ratio)"]
        if over:
            _, done, _, valid = progress["results"][-1]
            mastered = 0 < self.cfg.master_at <= valid["accuracy"]
            if not mastered:
                progress["results"].pop()
                progress.update(index=last, step=done)
        return []

    def data_keys(self):
        return [problems.key for splits in self.all_problems for problems in splits.values()]

    def open_log(self):
        os.makedirs(self.cfg.out_dir, exist_ok=True)
        self.log_file = open(os.path.join(self.cfg.out_dir, "log.txt"), "a", encoding="utf-8")

    def log(self, stream, value):
        if parallel.RANK > 0:
            return
        if not os.path.exists(self.log_file.name):  # deleted underneath: begin again
            self.open_log()
        self.log_file.write(f"{self.progress['total']} {stream} {value:.6g}\n")
        self.log_file.flush()

    def save(self, path, **more):
        """Write beside, then rename: there is always a whole checkpoint, the old one or the new."""
        weights, moments = parallel.state_dicts(self.objective, self.optimizer, moments=path == self.last)
        if parallel.RANK > 0:
            return None
        more |= {"optimizer": moments, "objective": self.objective.own_state()} if path == self.last else {}
        self.progress["log_size"] = os.fstat(self.log_file.fileno()).st_size
        checkpoint = {
            "model": weights,
            "config": dataclasses.asdict(self.cfg),
            "model_config": dataclasses.asdict(self.model.config),
            "pieces": self.pieces,
            "longest": self.longest,
            "stage": self.plan[min(self.progress["index"], len(self.plan) - 1)],
            "data": self.data_keys(),
            "progress": self.progress,
            "format": FORMAT,
        }
        tries = 2
        while tries:
            os.makedirs(self.cfg.out_dir, exist_ok=True)  # somebody may have tidied up
            try:
                torch.save(checkpoint | more, path + ".tmp")
                os.replace(path + ".tmp", path)
                break
            except (OSError, RuntimeError) as e:  # torch's words for a full disk differ from version to version
                tries -= 1
                if not os.path.isdir(self.cfg.out_dir) and tries:  # tidied up in this very moment
                    continue
                if os.path.exists(path + ".tmp"):
                    os.remove(path + ".tmp")
                raise UserError(f"cannot write {path}.tmp, is the disk full? {first_line(e)}") from None

    def save_last(self):
        cuda_rng = torch.cuda.get_rng_state(self.device) if self.device.startswith("cuda") else None
        rng = parallel.gather([(torch.get_rng_state(), cuda_rng)])  # of each process
        self.save(self.last, rng=rng)
        self.saved_at = time.time()

    def validate(self, stage):
        """Evaluate on the validation problems, log it, and keep the weights if they are the stage's best."""
        valid = evaluate(self.model, self.problems["valid"], stage, self.cfg, self.tok)
        self.progress.update(valid=valid, valid_at=self.progress["step"])
        for name, value in valid.items():
            self.log(f"valid/{name}", value)
        self.watch(valid["loss"])
        self.watch_plateau(valid)
        missing = parallel.any_of(parallel.RANK == 0 and not os.path.exists(self.best), self.device)
        if valid["accuracy"] > self.progress["best"] or missing:
            self.progress["best"] = valid["accuracy"]
            self.save(self.best)

    def watch(self, valid_loss):
        """Say once if the training loss goes on falling, but the validation loss does not: it learns by heart."""
        progress, (total, n) = self.progress, self.progress["trained"]
        progress["trained"], train_loss = (0.0, 0), float(total) / n  # the mean since the last evaluation
        least = progress["least"]
        if not least or valid_loss < least["valid"]:
            progress["least"] = {"valid": valid_loss, "train": train_loss, "at": progress["total"], "since": 0}
            return
        least["since"] += 1
        falls = train_loss < 0.8 * least["train"] and train_loss < valid_loss / 1.5
        if falls and least["since"] >= 3 and not progress.get("warned"):
            progress["warned"] = True
            print(f"  WARNING: the {len(self.problems['train']):,} training problems are being learned by heart:")
            print(f"    since step {least['at']} their loss has fallen from {least['train']:.2g} to {train_loss:.2g},")
            print(f"    that of validation problems has not: {least['valid']:.2g} then, {valid_loss:.2g} now.")
            print("    More training problems help, or --dropout, or a smaller model.", flush=True)

    def watch_plateau(self, valid):
        """Say once if stage 0, where every step is written, is not being learned: later stages build on it."""
        step, curve = self.progress["step"], self.progress["curve"]
        curve.append((step, valid["loss"]))
        then = [pair for pair in curve if 50 <= pair[0] <= step / 2][-1:]
        if self.plan[self.progress["index"]] > 0 or step < PLATEAU or valid["accuracy"] > 0.5 or not then:
            return
        ((since, loss),) = then
        if 0.8 * loss < valid["loss"] < 1.1 * loss and not self.progress.get("plateau"):
            self.progress["plateau"] = True
            print(f"  WARNING: a plateau: since step {since} the validation loss has gone from {loss:.3g} to")
            print(f"    {valid['loss']:.3g}, with {valid['accuracy']:.1%} right. It may end by itself, or never:")
            print("    docs/own_data.md says what to try.", flush=True)
