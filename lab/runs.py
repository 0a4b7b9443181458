"""
Several seeds and methods by one command, and the table of what came of them: README's tables are made so.

    python -m lab.runs configs/hops.py method=coconut,cot,no_cot seed=1,2,3 --jobs=2
    python -m lab.runs configs/hops.py method=coconut,cot seed=1,2,3 --steps=400 --relative_to=cot --out=out/short
    python -m lab.runs configs/hops.py 'losses=ce:1;ce:3,stop:2' seed=1,2 --method=coconut+stop

NAME=VALUE,VALUE varies a setting of train.py; of several, all combinations are run. If values have commas themselves,
`;` separates them (in quotes, or the shell takes it). --NAME=VALUE holds for all runs: a setting of train.py, or one
of those below. The folder of a run is out_dir-VALUE-VALUE, such as out/hops-cot-1; what it says is in run.txt there.

^C stops all runs, and the same command goes on: what is finished stays as it is, what was interrupted is resumed,
what failed is tried again. Seeds share a row of the table: means, and the range of the accuracy; a single run has the
95 % interval instead. Seconds are those of the clock, of all parts of a run; cpu_seconds those of all cores. (Linux and
macOS.)
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.runs, from the project's folder")

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from itertools import product
from statistics import mean

from checkpoint import discard, load_checkpoint, lock
from config import UserError, cli, nearest, option, ours, parse, replacing
from curriculum import change, change_weights, config_class, leave_out, objective_class
from data import SPLITS, load_json
from evaluate import duration, percent
from feedback import make_feedback
from lab.plot import read_log
from train import Run

COLUMNS = {"tokens": ".1f", "thoughts": ".1f", "steps": ",.0f", "seconds": ",.0f", "cpu_seconds": ",.0f"}


@dataclass
class RunsConfig:
    jobs: int = option(1, "runs at a time", least=1, most=1000)
    threads: int = option(1, "threads of each run (OMP_NUM_THREADS)", least=1, most=1000)
    relative_to: str = option("", "row whose seconds count as 1: its values, with - between them")
    out: str = option("", "all numbers of each run go to this CSV file; by default out_dir.csv")


class Job:
    """One run: what tells it from the others (values), what train.py is told (flags), and what has become of it."""

    def __init__(self, values, flags):
        self.values, self.flags, self.cfg = values, flags, settings(flags)
        self.row = "-".join(value for name, value in values.items() if name != "seed")
        files = (os.path.join(self.cfg.out_dir, name) for name in ("ckpt.pt", "log.txt", "run.txt", "took.txt"))
        self.checkpoint, self.log, self.says, self.took = files
        self.begun = os.path.exists(self.checkpoint) and not self.cfg.overwrite
        self.status = "finished" if self.begun and self.is_finished() else "not begun"

    def is_finished(self):
        """Whether it has ended before. If something is amiss, such as other settings or data, train.py will say so."""
        cfg, free = self.cfg, {*Run.FREE} - {"data_dir"}
        try:
            (model, saved, *_), log = load_checkpoint(self.checkpoint), read_log(self.log)
        except (UserError, OSError):
            return False
        data = [os.path.join(folder, f"{split}.json") for folder in cfg.data_dir for split in SPLITS]
        if any(os.path.getmtime(path) > os.path.getmtime(self.checkpoint) for path in data if os.path.exists(path)):
            return False
        if cfg.init_from != "scratch":  # its sizes are those of the weights
            cfg = change(cfg, model=saved.model, **vars(model.config))
        own, there = ({k: v for k, v in asdict(of).items() if k not in free} for of in (cfg, saved))
        return "test/accuracy" in log and own == there

    def start(self, threads):
        command = [sys.executable, ours("train.py"), *self.flags]
        command += ["--resume"] if self.begun else []
        os.makedirs(self.cfg.out_dir, exist_ok=True)
        open(self.took, "a" if self.begun else "w").close()
        with open(self.says, "a", encoding="utf-8") as file:
            print(f"\n$ {shlex.join(command)}", file=file, flush=True)
            more = {"env": os.environ | {"OMP_NUM_THREADS": str(threads)}, "start_new_session": True}  # ^C is ours
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **more)
        self.began = time.monotonic()

    def discard(self):
        """Remove what is there of it; UserError if it is running."""
        if os.path.exists(self.cfg.out_dir):
            with lock(self.cfg.out_dir):
                discard(self.cfg.out_dir)

    def said(self):
        """What it has said since it was last started."""
        with open(self.says, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition("\n$ ")[2].strip()

    def has_ended(self, stopping):
        pid, code, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            code = self.process.returncode = os.waitstatus_to_exitcode(code)
            said = self.said().splitlines()
            error = [line.removeprefix("error: ") for line in said if line.startswith("error: ")] or said
            error = f"signal {-code}" if code < 0 else error[-1]
            self.status = "finished" if code == 0 else "interrupted" if stopping else f"failed: {error}"
            seconds, cpu = time.monotonic() - self.began, usage.ru_utime + usage.ru_stime
            with open(self.took, "a") as file:  # in the format of log.txt; once more each time that it is resumed
                file.write(f"0 seconds {seconds:.1f}\n0 cpu_seconds {cpu:.1f}\n")
        return pid != 0

    def numbers(self):
        """{name: value} of a finished run: its test, training steps, and seconds, unless somebody ran it by hand."""
        if self.status != "finished":
            return {}
        log, took = read_log(self.log), read_log(self.took) if os.path.exists(self.took) else {}
        tested = {name.removeprefix("test/"): of[-1][1] for name, of in log.items() if name.startswith("test/")}
        seconds = {name: sum(value for _, value in of) for name, of in took.items()}
        return tested | {"steps": log["test/accuracy"][-1][0]} | seconds

    def accuracy(self):
        """That of its test, with the 95 % interval."""
        return percent(self.numbers()["accuracy"], len(load_json(os.path.join(self.cfg.data_dir[-1], "test.json"))))


def settings(flags):
    """Those of train.py; UserError for what it would only say when a run has begun."""
    cfg = leave_out(parse(config_class, flags, "", takes_file=True))
    change_weights(objective_class(cfg).all_weights(), cfg.losses)
    make_feedback(cfg.feedback, cfg.n_embd)
    return cfg


def plan(argv):
    """(RunsConfig, [Job, ...]) of a command line."""
    own, varied, common, jobs = [], {}, [], []
    argv, names = list(argv), [f"--{field.name}" for field in fields(RunsConfig)]
    while argv:
        arg = argv.pop(0)
        name, equals, text = arg.partition("=")
        if arg in ("-h", "--help") or name in names:
            own += [arg, argv.pop(0)] if arg in names and argv else [arg]
        elif equals and name.isidentifier():
            varied[name] = text.split(";" if ";" in text else ",")
        else:
            common.append(arg)
    combinations = [[*zip(varied, values)] for values in product(*varied.values())]
    flags = [[f"--{name}={value}" for name, value in values] for values in combinations]
    args = parse(RunsConfig, own, __doc__)
    base = settings([*common, *flags[0]])  # what holds for all may need what varies
    for name in {"resume", "eval_only", "eval_file"} & {*base.origin, *varied}:
        raise UserError(f"{name} has no place here: runs are resumed by themselves, and tested in the end")
    out_dir = base.out_dir.rstrip("/")
    for values, its_flags in zip(combinations, flags):
        folder = "-".join([out_dir, *(re.sub(r"[^\w.,+-]", "_", value) for _, value in values)])
        jobs.append(Job(dict(values), [*common, *its_flags, f"--out_dir={folder}"]))
    if "out_dir" in varied or len({job.cfg.out_dir for job in jobs}) < len(jobs):
        raise UserError("expected NAME=VALUE,VALUE with different values; each run's out_dir is made of them")
    if args.relative_to and args.relative_to not in (rows := [job.row for job in jobs]):
        raise UserError(f"--relative_to={args.relative_to}: there is no such row{nearest(args.relative_to, rows)}")
    args.out = args.out or f"{out_dir}.csv"
    if os.path.isdir(args.out):
        raise UserError(f"--out={args.out}: a folder, expected the name of a CSV file")
    return args, jobs


def run_all(jobs, args):
    """Run what is not finished, args.jobs at a time; returns whether somebody stopped it."""
    waiting, running, stops = [job for job in jobs if job.status != "finished"], [], []
    stopping = False
    print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before", flush=True)
    for job in waiting:  # all at once, or ^C would leave some of the old ones, as if finished
        if job.cfg.overwrite:
            job.discard()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: stops.append(number))
    while running or (waiting and not stopping):
        if stops and not stopping:
            print("\neach run finishes its step, then saves", flush=True)
            stopping = True
            signal.signal(signal.SIGINT, signal.default_int_handler)  # once more, and we are gone; they save even so
            for job in running:
                job.process.terminate()  # what has not begun to train ends at once
        while waiting and len(running) < args.jobs and not stopping:
            waiting[0].start(args.threads)
            running.append(waiting.pop(0))
        time.sleep(0.2)
        for job in [job for job in running if job.has_ended(stopping)]:
            running.remove(job)
            result = job.accuracy() if job.status == "finished" else job.status
            print(f"{job.cfg.out_dir:<40} {duration(time.monotonic() - job.began):>7}  {result}", flush=True)
    return stopping


def make_table(jobs, relative_to):
    """Yields the lines of a Markdown table."""
    names = [name for name in jobs[0].values if name != "seed"]
    title = [*names, "accuracy (%)", *COLUMNS] + (["relative"] if relative_to else [])
    yield f"| {' | '.join(title)} |\n{'|---' * len(title)}|"
    found = {(job.row, name): [] for job in jobs for name in ("accuracy", *COLUMNS)}
    for job in jobs:
        for name, value in job.numbers().items():
            found.get((job.row, name), []).append(value)
    for row, job in {job.row: job for job in jobs}.items():
        shares, its_jobs = [100 * value for value in found[row, "accuracy"]], [job for job in jobs if job.row == row]
        cell = [f"{mean(shares):.1f} ({min(shares):.1f}-{max(shares):.1f})"] if shares else []
        if len(its_jobs) == len(shares) == 1:
            cell = [job.accuracy().replace("%", "")]
        lacking = [job for job in its_jobs if job.status != "finished"]
        cell += [f"{job.cfg.out_dir} {job.status.partition(':')[0]}" for job in lacking]
        cells = [*(job.values[name] for name in names), ", ".join(cell)]
        cells += [f"{mean(of):{form}}" if (of := found[row, name]) else "-" for name, form in COLUMNS.items()]
        if relative_to:
            of, base = found[row, "seconds"], found[relative_to, "seconds"]
            cells.append(f"{mean(of) / mean(base):.2f}" if of and base else "-")
        yield f"| {' | '.join(cells)} |"
    yield "\nIn brackets: the range of the seeds; of a single run the 95 % interval (Wilson)."


def main(argv):
    args, jobs = plan(argv)
    stopped = run_all(jobs, args)
    again = shlex.join(["python", "-m", "lab.runs", *(arg for arg in argv if not arg.startswith("--overwrite"))])
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    with replacing(args.out) as file:
        lines = [{**job.values, "out_dir": job.cfg.out_dir, "status": job.status, **job.numbers()} for job in jobs]
        writer = csv.DictWriter(file, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print("", *make_table(jobs, args.relative_to), f"\n{'to go on' if stopped else 'made by'}: {again}", sep="\n")
    return 130 if stopped else int(any(job.status != "finished" for job in jobs))


if __name__ == "__main__":
    cli(main)
