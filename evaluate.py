"""
A trained model: find and load it, let it answer questions, count what is right. train.py and sample.py use this.

What thoughts hold: lab/analyze.py. When an answer is right: Task in curriculum.py.
"""

import math
import os
import re
import time
from contextlib import nullcontext
from itertools import groupby, islice

import torch

import data
from checkpoint import find_checkpoint, is_ours, load_checkpoint, merge, pick_device, team
from config import UserError, counted, upstairs
from curriculum import Row, for_stage, hooks, make_task, row_for, stages
from tokenizer import BOT, EOS, EOT, PAUSE

LOSS_PROBLEMS = 256  # enough to see where the loss goes, and little beside the answering
# What may be given to an evaluation
FREE = {"eval_only", "eval_file", "data_dir", "max_new_tokens", "task", "eval_batch_size", "device", "dtype"}


# ---------------------------------------------------------------- answering


def precision(cfg, device):
    """A context that multiplies matrices in bfloat16, if cfg.dtype and the device say so; weights stay float32.

    auto: where the GPU has it, or the CPU, if the model is wide enough that it takes half the time (docs/speed.md).
    """
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_it = device.type == "cpu" and cfg.n_embd >= 512 and torch.cpu._is_avx512_bf16_supported()
    bf16 = cfg.dtype == "bfloat16" or (cfg.dtype == "auto" and has_it)
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def length_batches(prompts, batch_size):
    """The numbers of prompts, in batches of similar length: of batch_size, or of 32 where that saves much padding."""
    done, batch, lengths = [], [], [len(prefix) for prefix, *_ in prompts]
    for i in sorted(range(len(prompts)), key=lengths.__getitem__):
        if not batch or len(batch) == batch_size or (len(batch) >= 32 and lengths[i] > 1.25 * lengths[batch[0]]):
            batch = []
            done.append(batch)
        batch.append(i)
    return done


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def percent(share, n, z=1.96):
    """A share, 0 to 1, of n questions in per cent, with its 95 % interval (Wilson 1927): "99.5% (98.8-99.8)"."""
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (max(0.0, middle + side) / (1 + z * z / n) for side in (-half, half))
    return f"{share:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def solve(model, prompts, cfg, tok, max_new_tokens, progress=0, given=None, **sampling):
    """Answer Prompts in batches: (text, tokens written, thoughts (n, C)) of each; given: thoughts to think instead.

    progress: how many questions there are, these and other processes' shares, if it should be said how far it is.
    """
    eos, solved, began, done = tok.encode_single_token(EOS), [None] * len(prompts), time.monotonic(), 0
    max_new_tokens = min(max_new_tokens, model.config.block_size)  # more do not fit, but would be given memory
    device = next(model.parameters()).device
    for chosen in length_batches(prompts, cfg.eval_batch_size):
        batch = data.collate([Row(*prompts[i], labels=[]) for i in chosen], device)  # a prompt's eot is the suffix
        if given is not None:
            sampling["given"] = torch.stack([given[i] for i in chosen]).to(device)
        with precision(cfg, device):
            segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix
            tokens, thoughts = model.generate(*segments, max_new_tokens, eos=eos, return_thoughts=True, **sampling)
        for i, row, states in zip(chosen, tokens.tolist(), thoughts):
            text = row[: row.index(eos)] if eos in row else row
            solved[i] = tok.decode([t for t in text if t < tok.n_vocab]), len(text) + (eos in row), states.float()
        done += len(chosen)
        if progress:
            left = duration((time.monotonic() - began) / done * (len(prompts) - done))
            answered = min(done * team().size, progress)  # the others are about as far
            end = "\n" if done == len(prompts) else ""
            print(f"\ranswered {answered:,} of {progress:,} questions, {left} left  ", end=end, flush=True)
    return solved


def right_answer(problem, task):
    """What Task.read_answer returns for a correct solution."""
    return task.read_answer(task.tok.decode(problem.answer[:-1]))


def most_tokens(problems, cfg):
    """How much a model may write: max_new_tokens, or as much as the longest solution."""
    return cfg.max_new_tokens or max(sum(map(len, p.steps), len(p.answer)) for p in problems)


@torch.no_grad()
def evaluate(model, problems, stage, cfg, tok, progress=False):
    """Let the model solve the problems; the share of right answers, and means of what it took.

    tokens: written ones, the end of text included; thoughts: continuous ones. The paper's table 1 shows their sum.
    """
    was_training, task = model.training, make_task(cfg, tok)
    model.eval()
    prompts = [row_for(p, stage, cfg, tok).prompt for p in problems]
    share = team().share(prompts) or prompts[:1]  # with --speed=shard all have to take part, even without a question
    solved = solve(model, share, cfg, tok, most_tokens(problems, cfg), progress * len(problems))
    solved = [(text, n_tokens, thoughts.norm(dim=-1).tolist()) for text, n_tokens, thoughts in solved]
    solved = team().gather(solved[: len(team().share(prompts))])  # without the one that is not its own
    answers = [(task.read_answer(text), right_answer(p, task)) for p, (text, *_) in zip(problems, solved)]
    norms = [norm for _, _, norms in solved for norm in norms]  # of each thought of all problems
    found = {
        "loss": written_loss(model, problems, stage, cfg, tok),
        "accuracy": sum(task.is_right(*pair) for pair in answers) / len(problems),
        "tokens": sum(n_tokens for _, n_tokens, _ in solved) / len(problems),
        "thoughts": len(norms) / len(problems),
        "thought_norm": sum(norms) / max(1, len(norms)),
    }
    for measure in hooks(cfg, "measure"):
        found |= measure(model, problems, stage, cfg, tok)
    model.train(was_training)
    return found


def batches_of(problems, stage, cfg, tok, device):
    """This process's share of the problems in Batches, as they are trained on, and whether it is one of its own.

    Without a share of its own a process gets the first problem, since all have to take part.
    """
    rows = [row_for(p, stage, cfg, tok) for p in problems]
    share = team().share(rows)
    for start in range(0, max(1, len(share)), cfg.eval_batch_size):
        yield data.collate((share or rows[:1])[start : start + cfg.eval_batch_size], device), bool(share)


def written_loss(model, problems, stage, cfg, tok):
    """Mean cross-entropy, in nats, of what training scores in the first LOSS_PROBLEMS problems: the right solutions."""
    device, found = next(model.parameters()).device, []
    for batch, own in batches_of([*islice(problems, LOSS_PROBLEMS)], stage, cfg, tok, device):
        with precision(cfg, device):
            _, loss = model(batch.prefix, batch.prefix_len, batch.n, batch.suffix, batch.labels)
        if own:
            found.append((loss.item(), int((batch.labels != -100).sum())))
    found = team().gather(found)
    return sum(mean * n for mean, n in found) / max(1, sum(n for _, n in found))


def show_row(row, tok):
    """A row as it is trained on, in one line of at most 118 columns: a dot for each thought, what is scored in []."""
    rest = ["·"] * row.n
    for scored, pairs in groupby(zip(row.suffix, row.labels), lambda pair: pair[0] == pair[1]):
        text = in_line([token for token, _ in pairs], tok)
        rest.append(f"[{text}]" if scored else text)
    rest = " ".join(rest)
    question = shorten(in_line(row.prefix, tok), max(40, 117 - len(rest)))
    return shorten(f"{question} {rest}", 118)


def in_line(tokens, tok):
    """Tokens as text on one line, the special ones by shorter names."""
    text = tok.decode(tokens)
    for name, short in ((BOT, " <bot>"), (EOT, " <eot>"), (PAUSE, " <pause>"), (EOS, "")):
        text = text.replace(name, short)
    return " ".join(text.split())


def shorten(text, width):
    """The text, without its middle if it is longer than that."""
    half = (width - 5) // 2
    return text if len(text) <= width else f"{text[:half]} ... {text[-half:]}"


def in_words(row, problem, tok):
    """What stands in place of how many of a problem's steps in a row of it."""
    n_pauses, n_steps = row.prefix.count(tok.encode_single_token(PAUSE)), len(problem.steps)
    things = [counted(n, word) for n, word in ((row.n, "thought"), (n_pauses, "pause")) if n]
    if row.replaced:
        things.append(f"{len(row.replaced)} of {n_steps} steps")
        return " in place of ".join(things) if len(things) > 1 else f"{things[0]} left out"
    if row.suffix[row.n_eot :] == sum(problem.steps, []) + problem.answer:
        things.append("every step is written" if n_steps else "no problem has steps")
    return ", ".join(things)


def show_stage(run, stage):
    """The beginning of a stage: its title, a row as it is trained on, and what the model is worth so far."""
    cfg, progress, problems = run.cfg, run.progress, run.problems["train"]
    title = f"stage {stage} of {run.plan[-1]}" if len({*run.plan}) > 1 else f"{cfg.method}, a single stage"
    if len(cfg.data_dir) > 1:
        title += f", {for_stage(cfg.data_dir, progress['index'])}"
    longest = problems[int(problems.n_steps.argmax())]
    row = row_for(longest, stage, cfg, run.tok)
    begun = f" (going on after step {progress['step']})" if progress["step"] else ""
    print(f"\n{title}: {in_words(row, longest, run.tok)}{begun}")
    if len(run.plan) == 1 and run.n_stages > 1:
        print(f"  {run.lengths[0]:,} steps, as many as the curriculum's {run.n_stages} stages have together")
    print(f"  {show_row(row, run.tok)}", flush=True)
    if progress["step"] == 0 and progress["before"] is not None:
        print(f"  before its first step: accuracy {progress['before']:.1%}", flush=True)


def show_progress(run, stage, seconds):
    """Print a line of at most 120 columns; what was measured at an earlier step stands in brackets."""
    cfg, progress = run.cfg, run.progress
    step, n_steps, index = progress["step"], run.lengths[progress["index"]], progress["index"]
    left = (n_steps - step + sum(run.lengths[index + 1 :])) * progress["seconds"] / step
    seen = "accuracy     -   |thought|   -  "
    if progress["valid"]:
        valid, form = progress["valid"], " {} " if progress["valid_at"] == step else "({})"
        accuracy, norm = form.format(f"{valid['accuracy']:.1%}"), form.format(f"{valid['thought_norm']:.1f}")
        seen = f"accuracy{accuracy:>8} |thought|{norm:>6}"
        hits = [value for name, value in valid.items() if re.fullmatch(r"thought_\d+", name)]
        if hits:  # how many thoughts name what they should
            seen = f"accuracy{accuracy:>8} thoughts {sum(hits) / len(hits):>6.1%}"
    print(
        f"stage {stage}  epoch {(step - 1) // run.epoch_steps}  step {step:>5}/{n_steps}  "
        f"loss {progress['losses']['loss']:.4f}  {seen} lr {run.optimizer.param_groups[0]['lr']:.1e}  "
        f"{1000 * seconds:.0f} ms/step  ETA {'<' if cfg.master_at else ''}{duration(left)}",
        flush=True,
    )
    if len(progress["losses"]) > 2:  # the loss, and more than one that it is the sum of
        terms = [f"{name} {value:.4f}" for name, value in progress["losses"].items() if name != "loss"]
        print(f"  losses: {', '.join(terms)}", flush=True)


def show_answer(run, stage):
    """One held-out problem, answered as this stage would have it."""
    problem, task = run.problems["valid"][0], run.task
    prompt, most = row_for(problem, stage, run.cfg, run.tok).prompt, most_tokens([problem], run.cfg)
    text, _, thoughts = solve(run.model.eval(), [prompt], run.cfg, run.tok, most)[0]
    run.model.train()
    expected = right_answer(problem, task)
    thinks = f"thinks {counted(len(thoughts), 'thought')} and " if len(thoughts) else ""
    print(f"  a held-out question:  {run.tok.decode(problem.question).strip()}")
    verdict = "right" if task.is_right(task.read_answer(text), expected) else f"wrong: the answer is {expected}"
    print(f"  the model {thinks}writes:  {text.strip()}   ({verdict})", flush=True)


def show_results(run):
    print("\nstage  thoughts  steps written  tokens written       valid accuracy  training steps   time")
    for stage, steps, seconds, valid in run.progress["results"]:
        problems = [*run.problems["valid"]]
        left = sum(len(p.steps) - len(row_for(p, stage, run.cfg, run.tok).replaced) for p in problems) / len(problems)
        print(
            f"{stage:>5}  {valid['thoughts']:>8.1f}  {left:>13.1f}  {valid['tokens']:>14.1f}"
            f"  {percent(valid['accuracy'], len(problems)):>19}  {steps:>14}  {duration(seconds):>5}"
        )


def show_test(test, n_problems, path):
    took = f"{test['tokens']:.1f} tokens and {test['thoughts']:.1f} thoughts each"
    print(f"test accuracy {percent(test['accuracy'], n_problems)} on {n_problems:,} problems, {took} ({path})")


# ---------------------------------------------------------------- train.py --eval_only


def evaluate_only(cfg):
    """A checkpoint of ours in the stage and with the settings that it was trained with, or weights from elsewhere."""
    path, given = find_checkpoint(cfg.eval_only), cfg.origin
    if given.get("data_dir") == "--data_dir" and "eval_file" in given:
        raise UserError("--eval_file and --data_dir, whose test.json is evaluated: expected one of them")
    device = cfg.device  # that of the training may not be here
    if is_ours(path):
        model, old, tok, state = load_checkpoint(path)
        cfg = merge(old, cfg, FREE, f"--eval_only={path}: without effect on an evaluation")
        pieces, stage = state["pieces"], state["stage"]
    else:
        model, cfg, tok, pieces, stage = upstairs("pretrained", "weights").to_evaluate(path, cfg)
    file = cfg.eval_file or os.path.join(cfg.data_dir[-1], "test.json")
    n_unknown, unknown = data.unknown_pieces(data.load_json(file), cfg, pieces)
    if unknown:
        what = f"words or characters that the model does not know, such as {data.name_some(unknown)}"
        print(f"WARNING: {n_unknown:,} problems of {file} have {what}")
    problems = data.load(file, cfg, tok, pieces)
    if stage is None:
        stage = stages(cfg, int(problems.n_steps.max()))[0][-1]
    print(f"{path}: {cfg.method}, stage {stage}; {file}")
    model.to(team().start(pick_device(device)))
    show_test(evaluate(model, problems, stage, cfg, tok, progress=True), len(problems), path)
