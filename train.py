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
import signal
import time

import torch

import data
from config import TrainConfig, UserError, check, cli, parse
from model import GPT, GPTConfig

# ---------------------------------------------------------------- evaluation


def solve(model, prompts, tok, max_new_tokens, batch_size):
    """Answer prompts (prefix, n, forced) in batches: yields (text, tokens written, thoughts (n, C)) for each."""
    for start in range(0, len(prompts), batch_size):
        rows = [(prefix, n, forced, []) for prefix, n, forced in prompts[start : start + batch_size]]
        prefix, prefix_len, n, forced, _ = data.collate(rows, model.wte.weight.device)
        tokens, thoughts = model.generate(
            prefix, prefix_len, n, forced, max_new_tokens, eos=tok.eot_token, return_thoughts=True
        )
        for row, states, n_row in zip(tokens.tolist(), thoughts, n.tolist()):
            text = row[: row.index(tok.eot_token)] if tok.eot_token in row else row
            yield tok.decode(text), len(text) + (len(text) < len(row)), states[:n_row]


def evaluate(model, problems, stage, cfg, tok):
    """Let the model solve the problems; the share of exactly right answers, and means of what it took."""
    model.eval()
    longest = max(sum(map(len, p.steps), len(p.answer)) for p in problems)
    prompts = [data.split(p, stage, cfg, tok)[:3] for p in problems]
    solved = list(solve(model, prompts, tok, cfg.max_new_tokens or longest, cfg.eval_batch_size))
    model.train()
    right = [data.read_answer(text, cfg) == data.right_answer(p, cfg, tok) for p, (text, _, _) in zip(problems, solved)]
    norms = torch.cat([thoughts.norm(dim=-1) for _, _, thoughts in solved])  # one for each thought of all problems
    return {
        "accuracy": sum(right) / len(problems),
        "tokens": sum(n_tokens for _, n_tokens, _ in solved) / len(problems),
        "thoughts": len(norms) / len(problems),
        "thought_norm": norms.mean().item() if len(norms) else 0.0,
    }


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
    n_scored = count_scored(rows)
    for start in range(0, len(rows), size):
        micro = rows[start : start + size]
        *inputs, labels = data.collate(micro, model.wte.weight.device)
        _, loss = model(*inputs, labels)
        # the model's mean is over the micro-batch's tokens, the step's is over all: so the split does not matter
        loss = loss * (count_scored(micro) / n_scored)
        loss.backward()
        total = total + loss.detach()
    if cfg.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    return total


# ---------------------------------------------------------------- a run: what it has learned, how far it is, its files


def make_model(cfg, tok):
    try:
        return GPT(GPTConfig(cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.block_size, tok.n_vocab, cfg.dropout))
    except ValueError as e:
        raise UserError(e) from None


def load_checkpoint(path, device="cpu"):
    """(model in eval mode, its TrainConfig, its tokenizer, all of the checkpoint) of a file that Run.save wrote."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        cfg = TrainConfig(**{k: check(TrainConfig, k, v, path) for k, v in saved["config"].items()})
        tok = data.make_tokenizer(cfg.tokenizer, saved["pieces"])
        model = make_model(cfg, tok).to(device)
        model.load_state_dict(saved["model"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; `python train.py configs/NAME.py` makes one") from None
    except (OSError, UserError):
        raise
    except Exception as e:  # torch and pickle have a dozen ways to say that a file is none of ours
        raise UserError(f"{path}: not a checkpoint of this project: {str(e).splitlines()[0][:99]}") from None
    return model.eval(), cfg, tok, saved


class Run:
    """A training run. `at` holds how far it has come; with the weights and the optimizer it is all there is to save."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.last, self.best = os.path.join(cfg.out_dir, "ckpt.pt"), os.path.join(cfg.out_dir, "best.pt")
        if os.path.exists(self.last) and not (cfg.resume or cfg.overwrite):
            raise UserError(f"{self.last} is there from another run: --resume goes on with it, --overwrite discards it")

        paths = {name: os.path.join(cfg.data_dir, f"{name}.json") for name in ("train", "valid", "test")}
        self.pieces = data.find_pieces(data.load_json(paths["train"]), cfg)
        self.tok = data.make_tokenizer(cfg.tokenizer, self.pieces)
        self.problems = {name: data.load(path, cfg, self.tok) for name, path in paths.items()}

        # the plan: stages, and steps in each; a method without curriculum gets the steps of all stages for its one
        self.epoch_steps = math.ceil(len(self.problems["train"]) / cfg.batch_size)
        self.plan, n_stages = data.stages(cfg, self.problems["train"])
        lengths = cfg.steps or [epochs * self.epoch_steps for epochs in cfg.epochs]
        lengths = [data.of_stage(lengths, index) for index in range(n_stages)]
        self.lengths = lengths if len(self.plan) > 1 else [sum(lengths)]

        torch.manual_seed(cfg.seed)
        self.at = {"index": 0, "step": 0, "total": 0, "best": -1.0, "valid": {}, "results": [], "seconds": 0.0}
        self.model = make_model(cfg, self.tok).to(self.device).train()
        self.optimizer = new_optimizer(self.model, cfg)
        if cfg.resume:
            self.model, _, _, saved = load_checkpoint(self.last, self.device)
            self.optimizer = new_optimizer(self.model.train(), cfg)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.at = saved["at"]
            torch.set_rng_state(saved["rng"].cpu())
        os.makedirs(cfg.out_dir, exist_ok=True)
        self.log_file = open(os.path.join(cfg.out_dir, "log.txt"), "a", encoding="utf-8")  # noqa: SIM115
        self.log_file.truncate(self.at.get("log_size", 0))  # what came after the checkpoint will come again

    def log(self, stream, value):
        self.log_file.write(f"{self.at['total']} {stream} {value:.6g}\n")
        self.log_file.flush()

    def save(self, path):
        """Write beside, then rename: whenever the power goes, there is a whole checkpoint, the old one or the new."""
        self.at["log_size"] = os.path.getsize(self.log_file.name)
        checkpoint = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": dataclasses.asdict(self.cfg),
            "pieces": self.pieces,
            "stage": self.plan[min(self.at["index"], len(self.plan) - 1)],
            "at": self.at,
            "rng": torch.get_rng_state(),
        }
        torch.save(checkpoint, path + ".tmp")
        os.replace(path + ".tmp", path)


# ---------------------------------------------------------------- what one sees


def describe(cfg, stage):
    """A stage in words, for someone who watches."""
    things = "continuous thoughts" if cfg.method == "coconut" else "<pause> tokens"
    if cfg.method == "cot" or stage == 0:
        return "every step is written (ordinary chain of thought)"
    if cfg.method == "no_cot":
        return "only the answer is written, and nothing is thought before it"
    n = min(stage, cfg.max_latent_stage) * cfg.c_thought
    if stage > cfg.max_latent_stage:
        return f"{n} {things}, and no step is written any more"
    steps = f"the {'first' if cfg.remove_from == 'front' else 'last'} {f'{stage} steps' if stage > 1 else 'step'}"
    return f"{n} {things if n > 1 else things[:-1]} in place of {steps}; the remaining steps are written"


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def show(run, stage):
    """One held-out problem, answered as this stage would have it."""
    problem = run.problems["valid"][0]
    prompt = data.split(problem, stage, run.cfg, run.tok)[:3]
    text, _, thoughts = next(solve(run.model.eval(), [prompt], run.tok, run.cfg.block_size, 1))
    run.model.train()
    answer, right = data.read_answer(text, run.cfg), data.right_answer(problem, run.cfg, run.tok)
    print(f"  a held-out question:  {run.tok.decode(problem.question).strip()}")
    thinks = f"thinks {len(thoughts)} times and " if len(thoughts) else ""
    print(f"  the model {thinks}writes:  {text.strip()}", end="")
    print("   (right)" if answer == right else f"   (wrong: the answer is {right})", flush=True)


def print_results(run):
    print("\nstage  thoughts  tokens written  valid accuracy  training steps   time")
    for stage, steps, seconds, valid in run.at["results"]:
        print(f"{stage:>5}  {valid['thoughts']:>8.1f}  {valid['tokens']:>14.1f}  {valid['accuracy']:>14.1%}", end="")
        print(f"  {steps:>14}  {duration(seconds):>5}")


# ---------------------------------------------------------------- the curriculum


def train_stage(run, stop):
    """Train the stage that the run is in, from the step that it is at; returns early if stop() says so."""
    cfg, at, model = run.cfg, run.at, run.model
    index, stage, n_steps = at["index"], run.plan[at["index"]], run.lengths[at["index"]]
    problems, order = run.problems["train"], None
    print(f"\nstage {index} of {len(run.plan) - 1}: {describe(cfg, stage)}", flush=True)
    if at["step"] == 0:
        run.log("stage", stage)
        at.update(stage_seconds=0.0, best=-1.0, valid={"accuracy": 0.0, "thought_norm": 0.0})
    began, clock = time.time() - at["stage_seconds"], (time.time(), at["step"])

    while at["index"] == index and not stop():
        epoch, position = divmod(at["step"], run.epoch_steps)
        if order is None or position == 0:
            order = data.epoch_order(problems, stage, epoch, cfg)
        if at["step"] == 0 or (position == 0 and cfg.reset_optimizer == "epoch"):
            run.optimizer = new_optimizer(model, cfg)
        lr = learning_rate(cfg, index, at["step"], n_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        chosen = order[position * cfg.batch_size : (position + 1) * cfg.batch_size]
        loss = train_step(model, run.optimizer, [data.segments(problems[i], k, cfg, run.tok) for i, k in chosen], cfg)
        at["step"] += 1
        at["total"] += 1

        at["stage_seconds"] = time.time() - began
        evaluated = at["step"] % (cfg.eval_every or run.epoch_steps) == 0 or at["step"] == n_steps
        if evaluated:
            at["valid"] = evaluate(model, run.problems["valid"], stage, cfg, run.tok)
            for name, value in at["valid"].items():
                run.log(f"valid/{name}", value)
            if at["valid"]["accuracy"] > at["best"]:
                at["best"] = at["valid"]["accuracy"]
                run.save(run.best)
        mastered = evaluated and 0 < cfg.master_at <= at["valid"]["accuracy"]
        over = mastered or at["step"] == n_steps
        if at["step"] % cfg.log_every == 0 or over:
            run.log("train/loss", loss.item())
            ms = (time.time() - clock[0]) / (at["step"] - clock[1]) * 1000
            eta = duration((n_steps - at["step"] + sum(run.lengths[index + 1 :])) * ms / 1000)
            clock = time.time(), at["step"]
            print(
                f"stage {index}  epoch {epoch}  step {at['step']:>5}/{n_steps}  loss {loss.item():.4f}  "
                f"accuracy {at['valid']['accuracy']:6.1%}  |thought| {at['valid']['thought_norm']:4.1f}  "
                f"lr {lr:.1e}  {ms:.0f} ms/step  ETA {'<' * bool(cfg.master_at)}{eta}",
                flush=True,
            )
        if over:
            if cfg.master_at and not mastered:
                print(f"  WARNING: {n_steps} steps were not enough for {cfg.master_at:.0%} accuracy; going on anyway")
            show(run, stage)
            at["results"].append((stage, at["step"], at["stage_seconds"], at["valid"]))
            at.update(index=index + 1, step=0)
        if evaluated:
            run.save(run.last)


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
            run.save(run.last)
            again = " ".join(arg for arg in argv if arg not in ("--resume", "--overwrite"))
            print(f"saved {run.last}; to go on: python train.py {again} --resume")
            return 130
    print_results(run)

    model, _, _, _ = load_checkpoint(run.best, run.device)
    test = evaluate(model, run.problems["test"], run.plan[-1], cfg, run.tok)
    for name, value in test.items():
        run.log(f"test/{name}", value)
    print(f"\ntest accuracy {test['accuracy']:.1%} on {len(run.problems['test']):,} problems ({run.best})")
    print(f"look at its thoughts: python sample.py --out_dir={cfg.out_dir}")


if __name__ == "__main__":
    cli(main)
