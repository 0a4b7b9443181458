"""
What one GPU can show in a quarter of an hour: that it computes right, how fast it is, and how far GSM8K gets.

    python prepare_gsm8k.py
    python -m speed.quarter_hour                                       # GPT-2; everything into out/quarter_hour
    python -m speed.quarter_hour --init_from=smollm2-135m --tokenizer=source
    python -m speed.quarter_hour --init_from=FOLDER --minutes=10       # offline: weights that are there
    python -m speed.quarter_hour --device=cpu --preset=small --minutes=4 --data_dir=data/hops --config=configs/hops.py

Parts, each a program of the project with its share of the time; what one leaves over the next ones get:
    tests     tests/test_gpu.py: the same numbers as on a CPU, no thought waits for the GPU
    bench     a step with 6 and 24 thoughts over a plain one, host time, 512 answers; once more with torch.compile
    probe     a few steps of each stage: seconds a step, and so what the full recipe would take
    cot, coconut, no_cot    as many steps as fit; coconut begins with cot's weights, and goes through all its stages
What does not fit is left out, and named. The report is printed, and kept in report.md beside what each part has said.
"""

if not __package__:
    raise SystemExit("error: call it as python -m speed.quarter_hour, from the project's folder")

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from config import UserError, cli, option, ours, parse
from curriculum import config_class, for_stage
from data import SPLITS, load_json

SHARES = {"tests": 10, "bench": 12, "compiled": 14, "probe": 12, "cot": 18, "coconut": 26, "no_cot": 8}
PROBE_STEPS = 6
N_VALID = 100  # problems of each evaluation on the way; the test file is taken as it is
ENDING = 0.75  # of a training's time; loading, validation and test need the rest, or more if the probe says so


@dataclass
class QuarterHourConfig:
    minutes: float = option(15.0, "for everything", least=0.1)
    config: str = option("configs/gsm8k.py", "the recipe")
    init_from: str = option("gpt2", "weights to begin with, as in train.py")
    tokenizer: str = option("", "as in train.py; by default the config's")
    data_dir: str = option("data/gsm8k", "train.json, valid.json and test.json")
    preset: str = option("124M", "size of the model in bench.py")
    parts: tuple[str, ...] = option(tuple(SHARES), "what to do")
    device: str = option("cuda", "as in train.py")
    out_dir: str = option("out/quarter_hour", "where everything goes")


class Report:
    """What is found, a line at a time: printed, and kept in report.md."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "report.md")
        open(self.path, "w").close()

    def say(self, text):
        print(text, flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            print(text, file=file)


class Clock:
    """Seconds that are left for all parts, and for the next one."""

    def __init__(self, minutes, parts):
        self.ends, self.parts = time.monotonic() + 60 * minutes, [*parts]

    def left(self):
        return self.ends - time.monotonic()

    def share(self, part):
        """Of what is left, in proportion to the parts that are still to come."""
        to_come = self.parts[self.parts.index(part) :]
        return self.left() * SHARES[part] / sum(SHARES[name] for name in to_come)


def memory_used():
    """MiB of the first GPU, 0 without one."""
    if not shutil.which("nvidia-smi"):
        return 0
    asks = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(asks, capture_output=True, text=True).stdout.split()
    return int(said[0]) if said and said[0].isdecimal() else 0


def run(command, seconds, log, env=None):
    """(exit code, what it said, seconds, most MiB of the GPU); None for the code if it had to be stopped."""
    began, most, stopped = time.monotonic(), 0, False
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | (env or {}))
        while process.poll() is None:
            time.sleep(0.5)
            most = max(most, memory_used())
            if time.monotonic() - began > seconds + 20:
                process.kill()
            elif time.monotonic() - began > seconds and not stopped:
                process.send_signal(signal.SIGINT)  # a training saves
                stopped = True
    with open(log, encoding="utf-8", errors="replace") as file:
        return (None if stopped else process.returncode), file.read(), time.monotonic() - began, most


def train_command(args, name, *flags):
    """train.py with the recipe, another method, and an out_dir of that name."""
    tokenizer = [f"--tokenizer={args.tokenizer}"] if args.tokenizer else []
    folder = os.path.join(args.out_dir, name)
    return [
        sys.executable, ours("train.py"), args.config, f"--data_dir={args.out_dir}/data", f"--device={args.device}",
        f"--out_dir={folder}", "--overwrite", "--master_at=0", *tokenizer, *flags,
    ]  # fmt: skip


def small_validation(args):
    """Write a data folder with fewer problems to validate with; returns how many there are to train on."""
    folder, n = os.path.join(args.out_dir, "data"), {}
    os.makedirs(folder, exist_ok=True)
    for split in SPLITS:
        problems = load_json(os.path.join(args.data_dir, f"{split}.json"))
        n[split] = len(problems)
        with open(os.path.join(folder, f"{split}.json"), "w", encoding="utf-8") as file:
            json.dump(problems[:N_VALID] if split == "valid" else problems, file)
    return n["train"]


def stage_seconds(said):
    """Seconds of a step in each stage of a run that prints two progress lines a stage: the second is warm."""
    found = {}
    for stage, ms in re.findall(r"^stage (\d+) .* (\d+) ms/step", said, re.MULTILINE):
        found[int(stage)] = int(ms) / 1000
    return [found[stage] for stage in sorted(found)]


def tested(said):
    """The line of a run's test; of one that did not come so far the last line of progress, or its last words."""
    lines = said.splitlines()
    for beginning in ("test accuracy", "stage "):
        found = [line for line in lines if line.startswith(beginning) and "accuracy" in line]
        if found:
            return found[-1]
    return last_line(said)


def last_line(said):
    return (said.strip().splitlines() or ["nothing was said"])[-1]


# ---------------------------------------------------------------- the parts


def tests(args, report, clock, found):
    env = {"NANOCOCONUT_TEST_DEVICE": args.device}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", ours("tests", "test_gpu.py")]
    code, said, seconds, _ = run(command, clock.share("tests"), f"{args.out_dir}/tests.txt", env)
    end = "; stopped, since its time was over" if code is None else ""
    report.say(f"tests: {last_line(said)} ({seconds:.0f} s{end})")


def bench(args, report, clock, found, name="bench", flags=()):
    command = [
        sys.executable, "-m", "speed.bench", f"--preset={args.preset}", f"--device={args.device}",
        "--parts=step,memory,yardstick", "--thoughts=0,6,24", "--rounds=3", *flags,
    ]  # fmt: skip
    if args.preset == "124M":
        command += ["--generate=512", "--batch_size=32"]
    code, said, seconds, _ = run(command, clock.share(name), f"{args.out_dir}/{name}.txt")
    end = "" if code == 0 else " (stopped, since its time was over)" if code is None else f" (exit code {code})"
    report.say(f"\n{name}: {seconds:.0f} s{end}\n\n```\n{said.strip()}\n```")


def compiled(args, report, clock, found):
    bench(args, report, clock, found, "compiled", ["--compile"])


def probe(args, report, clock, found):
    """Seconds a step in each stage, and what they say of the full recipe."""
    flags = [f"--init_from={args.init_from}", f"--steps={PROBE_STEPS}", f"--log_every={PROBE_STEPS // 2}"]
    command = train_command(args, "probe", *flags, "--eval_every=1000000")
    code, said, seconds, most = run(command, clock.share("probe"), f"{args.out_dir}/probe.txt")
    found["step"] = stage_seconds(said)
    if not found["step"]:
        report.say(f"\nprobe: no stage was finished: {tested(said)}")
        return
    found["around"] = max(0.0, seconds - PROBE_STEPS * sum(found["step"])) / len(found["step"])
    cfg = parse(config_class, [args.config], "", takes_file=True)
    steps = -(-found["problems"] // cfg.batch_size)
    hours = [step * steps * for_stage(cfg.epochs, i) / 3600 for i, step in enumerate(found["step"])]
    report.say(
        f"\nprobe: {args.init_from} on {found['problems']:,} problems, {cfg.batch_size} in a step, {most:,} MiB\n"
    )
    report.say(
        "| stage | seconds a step | problems a second | epochs | hours of the full recipe |\n|---|---|---|---|---|"
    )
    for i, (step, h) in enumerate(zip(found["step"], hours)):
        report.say(f"| {i} | {step:.3f} | {cfg.batch_size / step:,.0f} | {for_stage(cfg.epochs, i)} | {h:.1f} |")
    missing = "" if code == 0 else "; its time was over before the last stage"
    report.say(f"\nThe full recipe would take {sum(hours):.1f} hours, evaluations left out{missing}.")


def training(name, args, report, clock, found, init_from, curriculum=False):
    """A run of a method with as many steps in each of its stages as its share of the time allows.

    curriculum: after a single step of stage 0; otherwise there is one stage, which gets the steps of all.
    """
    if not found.get("step"):
        report.say(f"\n{name}: left out, without a probe it is not known how many steps fit")
        return
    seconds, n_stages = clock.share(name), len(found["step"])
    around = found["around"] * (n_stages if curriculum else 1)
    per_step = sum(found["step"][1:]) if curriculum else n_stages * found["step"][0]
    steps = int(min(ENDING * seconds, seconds - around) / per_step)  # in each stage
    if steps < 1:
        report.say(f"\n{name}: left out, {seconds:.0f} s are too little")
        return
    lengths = f"1,{steps}" if curriculum else str(steps)
    flags = [f"--method={name}", f"--init_from={init_from}", f"--steps={lengths}", "--eval_every=1000000"]
    code, said, took, most = run(train_command(args, name, *flags), seconds, f"{args.out_dir}/{name}.txt")
    end = "; stopped, since its time was over" if code is None else ""
    length = f"{steps} steps in each stage" if curriculum else f"{steps * n_stages} steps"
    report.say(f"\n{name}, {length}: {tested(said)}; {took:.0f} s, {most:,} MiB{end}")
    _, title, table = said.partition("stage  thoughts")
    if title:
        report.say(f"\n```\n{title}{table.partition('test accuracy')[0].rstrip()}\n```")


def cot(args, report, clock, found):
    training("cot", args, report, clock, found, args.init_from)


def coconut(args, report, clock, found):
    begin = os.path.join(args.out_dir, "cot", "best.pt")
    training("coconut", args, report, clock, found, begin if os.path.exists(begin) else args.init_from, True)


def no_cot(args, report, clock, found):
    training("no_cot", args, report, clock, found, args.init_from)


PARTS = {f.__name__: f for f in (tests, bench, compiled, probe, cot, coconut, no_cot)}


def main(argv):
    args = parse(QuarterHourConfig, argv, __doc__)
    for part in args.parts:
        if part not in PARTS:
            raise UserError(f"--parts: {part}, expected some of {', '.join(PARTS)}")
    parts = [part for part in PARTS if part in args.parts]
    os.makedirs(args.out_dir, exist_ok=True)
    report, clock, found = Report(args.out_dir), Clock(args.minutes, parts), {}
    found["problems"] = small_validation(args)
    report.say(f"# A quarter of an hour: {args.minutes:g} minutes, {args.device}, {args.init_from}\n")
    for part in parts:
        if clock.left() < 5:
            report.say(f"\n{part}: left out, the time is over")
        else:
            PARTS[part](args, report, clock, found)
    report.say(
        f"\n{args.minutes - clock.left() / 60:.1f} of {args.minutes:g} minutes; what each part said: {args.out_dir}"
    )


if __name__ == "__main__":
    cli(main)
