"""
Teach a GPT to think in silence: the whole curriculum of Coconut in one run.

Stage 0 is ordinary chain of thought. Each later stage replaces one more written step by continuous thoughts, until
none is written. Everything lands in out_dir: ckpt.pt (to go on with), best.pt (to use), log.txt (to plot).

    python prepare_hops.py
    python train.py configs/hops.py
    python train.py configs/hops.py --resume                                     # after ^C
    python train.py configs/hops.py --method=no_cot --out_dir=out/hops_no_cot    # the same model, not thinking
"""

import dataclasses
import math
import os
import shlex
import signal
import time

import torch

import data
from config import TrainConfig, UserError, check, cli, parse
from evaluate import describe, evaluate, show_answer, show_progress, show_results
from model import GPT, GPTConfig
from tokenizer import SPECIALS, make_tokenizer

FORMAT = 1  # of checkpoints; to be raised when older programs or files will not do any more

# ---------------------------------------------------------------- one step


def learning_rate(cfg, index, step, n_steps):
    """Linear warm-up, then cosine decay from the stage's lr to min_lr_ratio of it (by default 1: no decay)."""
    warmup = min(1.0, (step + 1) / (cfg.warmup_steps + 1))
    done = max(0, step - cfg.warmup_steps) / max(1, n_steps - cfg.warmup_steps)
    decay = cfg.min_lr_ratio + (1 - cfg.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
    return data.of_stage(cfg.lr, index) * warmup * decay


def new_optimizer(model, cfg):
    return torch.optim.AdamW(model.parameters(), betas=(0.9, cfg.beta2), weight_decay=cfg.weight_decay)


def count_scored(rows):
    return sum(label != -100 for *_, labels in rows for label in labels)


def train_step(model, optimizer, rows, cfg):
    """One optimizer step on rows of segments, in micro-batches. Returns the loss (a tensor, nats per scored token)."""
    size, total = cfg.micro_batch_size or len(rows), 0.0
    n_scored, device = count_scored(rows), model.wte.weight.device
    bf16 = cfg.dtype == "bfloat16" or (cfg.dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    for start in range(0, len(rows), size):
        micro = rows[start : start + size]
        *inputs, labels = data.collate(micro, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):  # the weights stay in float32
            _, loss = model(*inputs, labels)
        # the model's mean is over the micro-batch's tokens, the step's is over all: so the split does not matter
        loss = loss * (count_scored(micro) / n_scored)
        loss.backward()
        total = total + loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
    if not (total + norm).isfinite():  # before the optimizer has seen it: the weights are still good
        raise FloatingPointError(f"loss {total.item():.3g}, norm of the gradient {norm.item():.3g}")
    optimizer.step()
    optimizer.zero_grad()
    return total


# ---------------------------------------------------------------- a run: what it has learned, how far it is, its files


def pick_device(name):
    """The name of a device that works here; UserError if it does not."""
    name = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except Exception as e:  # each backend has its own way to say no
        raise UserError(f"--device={name} does not work here: {str(e).splitlines()[0][:90]}") from None
    return name


def new_model(cfg, tok, vocab_size=None):
    """A model with random weights; vocab_size: as the tokenizer's, unless given."""
    sizes = cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.block_size, vocab_size or tok.n_vocab
    return GPT(GPTConfig(*sizes, dropout=cfg.dropout))


def pretrained_model(source, cfg, tok):
    """(a model with weights from `source` and room for the special tokens, cfg with the model's sizes)."""
    model = GPT.from_pretrained(source, cfg.dropout)
    found, wanted = model.config.vocab_size, tok.n_vocab  # GPT-2 itself knows only the first of our special tokens
    if found < wanted - len(SPECIALS) + 1 or (found != wanted and cfg.tokenizer != "gpt2"):
        raise UserError(f"{source}: it knows {found} tokens, but the tokenizer {cfg.tokenizer!r} has {wanted}")
    like = tok.encode_ordinary("<<")  # new tokens start as copies of this one, as in the official code
    model.grow_vocab(wanted, like[0] if len(like) == 1 else None)
    sizes = {k: v for k, v in dataclasses.asdict(model.config).items() if k != "vocab_size"}
    return model, dataclasses.replace(cfg, **sizes)


def load_checkpoint(path):
    """(model in eval mode on the CPU, its TrainConfig, its tokenizer, the whole dict) of a file that Run.save wrote."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["format"] != FORMAT:
            raise UserError(f"{path}: a checkpoint of format {saved['format']}, expected {FORMAT}")
        cfg = TrainConfig(**{k: check(TrainConfig, k, v, path) for k, v in saved["config"].items()})
        tok = make_tokenizer(cfg.tokenizer, saved["pieces"])
        model = new_model(cfg, tok, len(saved["model"]["wte.weight"]))
        model.load_state_dict(saved["model"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; `python train.py configs/NAME.py` makes one") from None
    except (OSError, UserError):
        raise
    except Exception as e:  # torch and pickle have a dozen ways to say that a file is none of ours
        raise UserError(f"{path}: not a checkpoint of this project: {str(e).splitlines()[0][:99]}") from None
    return model.eval(), cfg, tok, saved


def lock(path):
    """An open file that no other process can lock until this one ends, however it ends; UserError if one has."""
    file = open(path, "w")
    try:
        import fcntl  # not on Windows, where two runs in one folder go unnoticed

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        raise UserError(
            f"{os.path.dirname(path)}: another run is writing here: wait for it, or choose --out_dir"
        ) from None
    return file


class Run:
    """A training run: settings, data, plan, model, optimizer, and `at`, which says how far it has come."""

    # what a resumed run may change
    FREE = {"resume", "overwrite", "out_dir", "device", "log_every", "eval_batch_size", "save_minutes"}

    def __init__(self, cfg):
        self.cfg, self.device = cfg, pick_device(cfg.device)
        self.last, self.best = os.path.join(cfg.out_dir, "ckpt.pt"), os.path.join(cfg.out_dir, "best.pt")
        if os.path.exists(self.last) and not (cfg.resume or cfg.overwrite):
            raise UserError(f"{self.last} is there from another run: --resume goes on with it, --overwrite discards it")
        os.makedirs(cfg.out_dir, exist_ok=True)
        self.lock = lock(os.path.join(cfg.out_dir, "lock"))
        torch.manual_seed(cfg.seed)
        self.load_data()
        self.make_plan()
        self.at = {"index": 0, "step": 0, "total": 0, "results": [], "log_size": 0}
        saved = self.load_last() if cfg.resume else {}
        self.model.to(self.device).train()
        self.optimizer = new_optimizer(self.model, cfg)
        if saved:
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
        for path in (self.last, self.best):
            if cfg.overwrite and os.path.exists(path):
                os.remove(path)
        self.saved = time.time()
        self.open_log()
        # what an interrupted run logged after its last checkpoint will come again
        self.log_file.truncate(min(self.at["log_size"], os.path.getsize(self.log_file.name)))

    def load_data(self):
        """Tokenizer, model, problems, in this order: how long a problem may be depends on the model."""
        cfg, paths = self.cfg, {name: f"{self.cfg.data_dir}/{name}.json" for name in ("train", "valid", "test")}
        self.pieces = [] if cfg.tokenizer == "gpt2" else data.find_pieces(data.load_json(paths["train"]), cfg)
        self.tok = make_tokenizer(cfg.tokenizer, self.pieces)
        if cfg.init_from == "scratch":
            self.model = new_model(cfg, self.tok)
        else:
            self.model, cfg = pretrained_model(cfg.init_from, cfg, self.tok)
        self.cfg = cfg
        self.problems = {name: data.load(path, cfg, self.tok, self.pieces) for name, path in paths.items()}

    def make_plan(self):
        """The stages, and the steps in each; a method without a curriculum gets the steps of all stages for its one."""
        self.epoch_steps = math.ceil(len(self.problems["train"]) / self.cfg.batch_size)
        self.longest = int(self.problems["train"].n_steps.max())
        self.plan, n_stages = data.stages(self.cfg, self.longest)
        lengths = self.cfg.steps or [epochs * self.epoch_steps for epochs in self.cfg.epochs]
        lengths = [data.of_stage(lengths, index) for index in range(n_stages)]
        self.lengths = lengths if len(self.plan) > 1 else [sum(lengths)]

    def load_last(self):
        self.model, saved_cfg, _, saved = load_checkpoint(self.last)
        old, new = dataclasses.asdict(saved_cfg), dataclasses.asdict(self.cfg)
        differing = [f"{k} was {old[k]!r}, now {new[k]!r}" for k in new if k not in self.FREE and old[k] != new[k]]
        if saved["pieces"] != self.pieces:
            differing.append("the training data has other words")
        if differing:
            raise UserError(f"{self.last} cannot be resumed with other settings: {'; '.join(differing)}")
        self.at = saved["at"]
        return saved

    def open_log(self):
        os.makedirs(self.cfg.out_dir, exist_ok=True)
        self.log_file = open(os.path.join(self.cfg.out_dir, "log.txt"), "a", encoding="utf-8")

    def log(self, stream, value):
        if not os.path.exists(self.log_file.name):  # deleted underneath: begin again
            self.open_log()
        self.log_file.write(f"{self.at['total']} {stream} {value:.6g}\n")
        self.log_file.flush()

    def save(self, path, **more):
        """Write beside, then rename: there is always a whole checkpoint, the old one or the new."""
        self.at["log_size"] = os.fstat(self.log_file.fileno()).st_size
        checkpoint = {
            "model": self.model.state_dict(),
            "config": dataclasses.asdict(self.cfg),
            "pieces": self.pieces,
            "stage": self.plan[min(self.at["index"], len(self.plan) - 1)],
            "at": self.at,
            "format": FORMAT,
        }
        os.makedirs(self.cfg.out_dir, exist_ok=True)  # somebody may have tidied up
        try:
            torch.save(checkpoint | more, path + ".tmp")
        except (OSError, RuntimeError) as e:  # torch's words for a full disk differ from version to version
            if os.path.exists(path + ".tmp"):
                os.remove(path + ".tmp")
            raise UserError(f"cannot write {path}.tmp, is the disk full? {str(e).splitlines()[0][:99]}") from None
        os.replace(path + ".tmp", path)

    def save_last(self):
        self.save(self.last, optimizer=self.optimizer.state_dict(), rng=torch.get_rng_state())
        self.saved = time.time()

    def validate(self, stage):
        """Evaluate on the validation problems, log it, and keep the weights if they are the stage's best."""
        self.at["valid"] = valid = evaluate(self.model, self.problems["valid"], stage, self.cfg, self.tok)
        for name, value in valid.items():
            self.log(f"valid/{name}", value)
        if valid["accuracy"] > self.at["best"]:
            self.at["best"] = valid["accuracy"]
            self.save(self.best)


# ---------------------------------------------------------------- the curriculum


def train_stage(run, stop):
    """Train the stage that the run is in, from the step that it is at; returns early if stop() says so."""
    cfg, at, index, problems = run.cfg, run.at, run.at["index"], run.problems["train"]
    stage, n_steps = run.plan[index], run.lengths[index]
    if at["step"] == 0:
        run.log("stage", stage)
        at.update(seconds=0.0, best=-1.0, valid={})
    print(f"\nstage {stage} of {run.plan[-1]}: {describe(cfg, stage, run.longest)}", flush=True)
    order, began, clock = None, time.time() - at["seconds"], (time.time(), at["step"])

    while at["index"] == index and not stop():
        epoch, position = divmod(at["step"], run.epoch_steps)
        if order is None or position == 0:
            order = data.epoch_order(problems.n_steps, stage, epoch, cfg)
        if at["step"] == 0 or (position == 0 and cfg.reset_optimizer == "epoch"):
            run.optimizer = new_optimizer(run.model, cfg)
        lr = learning_rate(cfg, index, at["step"], n_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        chosen = order[position * cfg.batch_size : (position + 1) * cfg.batch_size]
        rows = [data.segments(problems[i], k, cfg, run.tok) for i, k in chosen]
        try:
            loss = train_step(run.model, run.optimizer, rows, cfg)
        except FloatingPointError as e:
            where = f"stage {stage}, step {at['step'] + 1}, training examples {[i for i, _ in chosen]}"
            raise UserError(f"training broke down ({e}) at {where}; {run.last} holds the last good state") from None
        at["step"] += 1
        at["total"] += 1

        end = at["step"] == n_steps
        evaluated = end or at["step"] % (cfg.eval_every or run.epoch_steps) == 0
        if evaluated:
            run.validate(stage)
        mastered = evaluated and 0 < cfg.master_at <= at["valid"]["accuracy"]
        at["seconds"] = time.time() - began
        if end or mastered or at["step"] % cfg.log_every == 0:
            run.log("train/loss", loss.item())
            ms = (time.time() - clock[0]) / (at["step"] - clock[1]) * 1000
            show_progress(run, stage, loss.item(), lr, ms)
            clock = time.time(), at["step"]
        if end or mastered:
            if cfg.master_at and not mastered:
                print(f"  WARNING: {n_steps} steps were not enough for {cfg.master_at:.1%} accuracy; going on anyway")
            show_answer(run, stage)
            at["results"].append((stage, at["step"], at["seconds"], at["valid"]))
            at.update(index=index + 1, step=0)
        if evaluated or time.time() - run.saved > cfg.save_minutes * 60:
            run.save_last()


def main(argv):
    cfg = parse(TrainConfig, argv, __doc__, takes_file=True)
    run = Run(cfg)
    n_parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{len(run.problems['train']):,} problems, {n_parameters:,} parameters, on {run.device}, into {cfg.out_dir}")

    interrupts = []

    def on_interrupt(signum, frame):
        interrupts.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing this step, then saving (^C once more: stop at once)", flush=True)

    signal.signal(signal.SIGINT, on_interrupt)
    while run.at["index"] < len(run.plan):
        train_stage(run, stop=lambda: interrupts)
        if interrupts:
            run.save_last()
            again = [arg for arg in argv if not arg.startswith(("--resume", "--overwrite"))]
            print(f"saved {run.last}; to go on: python train.py {shlex.join(again)} --resume")
            return 130
    show_results(run)

    run.model = load_checkpoint(run.best)[0].to(run.device)
    test = evaluate(run.model, run.problems["test"], run.plan[-1], cfg, run.tok)
    for name, value in test.items():
        run.log(f"test/{name}", value)
    as_numbers = f" ({test['number_accuracy']:.1%} as numbers)" if test["number_accuracy"] != test["accuracy"] else ""
    print(f"\ntest accuracy {test['accuracy']:.1%}{as_numbers} on {len(run.problems['test']):,} problems ({run.best})")
    print(f"look at its thoughts: python sample.py --out_dir={cfg.out_dir}")


if __name__ == "__main__":
    cli(main)
