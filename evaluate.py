"""
Let a model answer questions, count what is right, and tell it in words and tables. train.py and sample.py use this.

When an answer is right: tasks/grading.py. What thoughts hold: lab/analyze.py.
"""

import time
from contextlib import nullcontext
from itertools import islice

import torch

import batches
from curriculum import METHODS, Row, count, make_row, split
from speed import parallel
from tasks.grading import read_answer, same_number
from tokenizer import EOS

LOSS_PROBLEMS = 256  # enough to see where the loss goes, and little beside the answering


def precision(cfg, device):
    """A context that multiplies matrices in bfloat16, if cfg.dtype and the device say so; weights stay float32."""
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = cfg.dtype == "bfloat16" or (cfg.dtype == "auto" and on_gpu)
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def length_batches(prompts, batch_size):
    """The numbers of prompts, in batches of similar length: of batch_size, or of 32 where that saves much padding."""
    done, batch, lengths = [], [], [len(prefix) for prefix, *_ in prompts]
    for i in sorted(range(len(prompts)), key=lengths.__getitem__):
        if not batch or len(batch) == batch_size or (len(batch) >= 32 and lengths[i] > 1.25 * lengths[batch[0]]):
            done.append(batch := [])
        batch.append(i)
    return done


def solve(model, prompts, cfg, tok, max_new_tokens, progress=0, given=None, **sampling):
    """Answer Prompts in batches: (text, tokens written, thoughts (n, C)) of each; given: thoughts to think instead.

    progress: how many questions there are, these and other processes' shares, if it should be said how far it is.
    """
    eos, solved, began, done = tok.encode_single_token(EOS), [None] * len(prompts), time.time(), 0
    max_new_tokens = min(max_new_tokens, model.config.block_size)  # more do not fit, but would be given memory
    device = next(model.parameters()).device
    for chosen in length_batches(prompts, cfg.eval_batch_size):
        batch = batches.collate([Row(*prompts[i], labels=[]) for i in chosen], device)
        thoughts = torch.stack([given[i] for i in chosen]).to(device) if given is not None else None
        with precision(cfg, device):
            tokens, thoughts = model.generate(
                batch.prefix, batch.prefix_len, batch.n, batch.suffix, max_new_tokens, eos=eos, return_thoughts=True,
                given=thoughts, **sampling,
            )  # fmt: skip
        for i, row, states in zip(chosen, tokens.tolist(), thoughts):
            text = row[: row.index(eos)] if eos in row else row
            solved[i] = tok.decode([t for t in text if t < tok.n_vocab]), len(text) + (eos in row), states.float()
        done += len(chosen)
        if progress:
            left = duration((time.time() - began) / done * (len(prompts) - done))
            answered = min(done * parallel.WORLD, progress)  # the others are about as far
            end = "\n" if done == len(prompts) else ""
            print(f"\ranswered {answered:,} of {progress:,} questions, {left} left  ", end=end, flush=True)
    return solved


def find_answer(text, cfg):
    """The answer in a solution: what follows the last mark, such as "###"; None if there is no mark."""
    return read_answer(text, cfg.answer_format.partition("{}")[0].strip(), commas=cfg.grading != "gsm8k")


def right_answer(problem, cfg, tok):
    """What find_answer returns for a correct solution."""
    return find_answer(tok.decode(problem.answer[:-1]), cfg)


def most_tokens(problems, cfg):
    """How much a model may write: max_new_tokens, or as much as the longest solution."""
    return cfg.max_new_tokens or max(sum(map(len, p.steps), len(p.answer)) for p in problems)


def most_thoughts(stage, cfg):
    """The most thoughts that a problem may have at this stage."""
    return cfg.c_thought * min(stage, cfg.max_latent_stage)


def evaluate(model, problems, stage, cfg, tok, progress=False):
    """Let the model solve the problems; the share of exactly right answers, and means of what it took.

    tokens: written ones, the end of text included; thoughts: continuous ones. The paper's table 1 shows their sum.
    """
    prompts = [split(p, stage, cfg, tok)[0] for p in problems]
    model.eval()
    share = parallel.share(prompts) or prompts[:1]  # with --shard all have to take part, even without a question
    may_stop = bool(cfg.stop)
    if may_stop:  # then the stage gives no more than a limit
        share = [prompt._replace(n=most_thoughts(stage, cfg)) for prompt in share]
    solved = solve(model, share, cfg, tok, most_tokens(problems, cfg), progress * len(problems), may_stop=may_stop)
    solved = [(text, n_tokens, thoughts.norm(dim=-1).tolist()) for text, n_tokens, thoughts in solved]
    solved = parallel.gather(solved[: len(parallel.share(prompts))])
    model.train()
    answers = [(find_answer(text, cfg), right_answer(p, cfg, tok)) for p, (text, *_) in zip(problems, solved)]
    norms = [norm for _, _, norms in solved for norm in norms]  # of each thought of all problems
    model.eval()
    with torch.no_grad():
        loss = written_loss(model, problems, stage, cfg, tok)
        hits = thought_hits(model, problems, stage, cfg, tok) if cfg.thought_targets else {}
    model.train()
    return {
        **{f"thought_{k}": hit for k, hit in hits.items()},
        "loss": loss,
        "accuracy": sum(answer == right for answer, right in answers) / len(problems),
        "number_accuracy": sum(bool(same_number(*pair)) for pair in answers) / len(problems),
        "tokens": sum(n_tokens for _, n_tokens, _ in solved) / len(problems),
        "thoughts": len(norms) / len(problems),
        "thought_norm": sum(norms) / max(1, len(norms)),
    }


def written_loss(model, problems, stage, cfg, tok):
    """Mean cross-entropy, in nats, of what training scores in the first LOSS_PROBLEMS problems: the right solutions."""
    device, found = next(model.parameters()).device, []
    rows = [make_row(p, stage, cfg, tok) for p in islice(problems, LOSS_PROBLEMS)]
    share = parallel.share(rows) or rows[:1]  # as in evaluate()
    for start in range(0, len(share), cfg.eval_batch_size):
        batch = batches.collate(share[start : start + cfg.eval_batch_size], device)
        with precision(cfg, device):
            _, loss = model(batch.prefix, batch.prefix_len, batch.n, batch.suffix, batch.labels)
        found.append((loss.item(), int((batch.labels != -100).sum())))
    found = parallel.gather(found if parallel.share(rows) else [])
    return sum(mean * n for mean, n in found) / max(1, sum(n for _, n in found))


def thought_hits(model, problems, stage, cfg, tok):
    """{number of a thought: how often, of all problems, the likeliest token of its state is right}.

    Only where there is something to predict. With thought_targets = "tokens" its state is the one *at* the thought,
    otherwise the one before it, of which the thought is made.
    """
    device, hits = next(model.parameters()).device, []
    share = [make_row(p, stage, cfg, tok) for p in parallel.share(list(problems))]
    for start in range(0, len(share), cfg.eval_batch_size):
        batch = batches.collate(share[start : start + cfg.eval_batch_size], device)
        with precision(cfg, device):
            states = model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix).states
            top = model.head(states).argmax(-1, keepdim=True)  # (B, N+1, 1)
        hits += zip((batch.targets == top).any(-1).tolist(), (batch.targets[..., 0] >= 0).tolist())
    hits = parallel.gather(hits)
    n_states = max(len(asked) for _, asked in hits)
    found = [[hit[k] for hit, asked in hits if k < len(asked) and asked[k]] for k in range(n_states)]
    first = 0 if cfg.thought_targets == "tokens" else 1
    return {k + first: sum(hit) / len(hit) for k, hit in enumerate(found) if hit}


# ---------------------------------------------------------------- what one sees


def describe(cfg, stage, n_steps):
    """A stage in words; n_steps: of the longest problem."""
    removed, n = count(n_steps, stage, cfg)
    thing = "<pause> token" if METHODS[cfg.method].instead == "pause" else "continuous thought"
    thinks = f"{n} {thing}{'s' * (n != 1)}" + (f" (all at once, in {cfg.passes} passes)" if cfg.passes else "")
    if not n_steps:
        return f"no problem has steps: {f'{thinks}, and then ' if n else ''}nothing is written but the answer"
    if not removed:
        return "every step is written"
    if cfg.method == "icot" and stage < cfg.max_latent_stage:
        return f"the first {cfg.icot_tokens * stage} tokens of the steps left out, the others are written"
    end = "first" if cfg.remove_from == "front" else "last"
    which = "all steps" if removed == n_steps else f"the {end} {f'{removed} steps' if removed > 1 else 'step'}"
    instead = f"{thinks} in place of {which}, " if n else f"{which} left out, "
    if removed == n_steps:
        return instead + "nothing is written but the answer"
    return instead + ("the others are written" if end == "first" else "the others are given")


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def show_progress(run, stage, loss, lr, ms):
    """Print a line of at most 120 columns; what was measured at an earlier step stands in brackets."""
    cfg, progress, valid = run.cfg, run.progress, "accuracy     -   |thought|   -  "
    step, n_steps = progress["step"], run.lengths[progress["index"]]
    left = (n_steps - step + sum(run.lengths[progress["index"] + 1 :])) * progress["seconds"] / step
    if progress["valid"]:
        hits = [100 * value for name, value in progress["valid"].items() if name.startswith("thought_")][:-1]
        hits = [f"{hit:.0f}" for hit in ([sum(hits) / len(hits)] if len(hits) > 6 else hits)]  # their mean, if many
        accuracy, norm = f"{progress['valid']['accuracy']:.1%}", f"{progress['valid']['thought_norm']:.1f}"
        new = progress["valid_at"] == step
        accuracy, norm = (f" {accuracy} ", f" {norm} ") if new else (f"({accuracy})", f"({norm})")
        valid = f"accuracy{accuracy:>8} " + (f"thoughts {' '.join(hits)} % " if hits else f"|thought|{norm:>6}")
    print(
        f"stage {stage}  epoch {(step - 1) // run.epoch_steps}  step {step:>5}/{n_steps}  loss {loss:.4f}  "
        f"{valid} lr {lr:.1e}  {ms:.0f} ms/step  ETA {'<' * bool(cfg.master_at)}{duration(left)}",
        flush=True,
    )


def show_answer(run, stage):
    """One held-out problem, answered as this stage would have it."""
    problem = run.problems["valid"][0]
    prompt, _ = split(problem, stage, run.cfg, run.tok)
    may_stop = bool(run.cfg.stop)
    if may_stop:
        prompt = prompt._replace(n=most_thoughts(stage, run.cfg))
    most = most_tokens([problem], run.cfg)
    text, _, thoughts = solve(run.model.eval(), [prompt], run.cfg, run.tok, most, may_stop=may_stop)[0]
    run.model.train()
    expected = right_answer(problem, run.cfg, run.tok)
    thinks = f"thinks {len(thoughts)} thought{'s' * (len(thoughts) > 1)} and " if len(thoughts) else ""
    print(f"  a held-out question:  {run.tok.decode(problem.question).strip()}")
    print(f"  the model {thinks}writes:  {text.strip()}", end="")
    print(
        "   (right)" if find_answer(text, run.cfg) == expected else f"   (wrong: the answer is {expected})", flush=True
    )


def show_results(run):
    print("\nstage  thoughts  steps written  tokens written  valid accuracy  training steps   time")
    n_steps = run.problems["valid"].n_steps.tolist()
    for stage, steps, seconds, valid in run.progress["results"]:
        left = sum(n - count(n, stage, run.cfg)[0] for n in n_steps) / len(n_steps)
        print(
            f"{stage:>5}  {valid['thoughts']:>8.1f}  {left:>13.1f}  {valid['tokens']:>14.1f}"
            f"  {valid['accuracy']:>14.1%}  {steps:>14}  {duration(seconds):>5}"
        )
