"""
Does depth do what thoughts do? hops with 2 and 4 arrows, from 1 to 6 layers: thoughts, and pauses in their place.

    python prepare_hops.py --hops=2 --out_dir=data/hops2 && python prepare_hops.py
    python -m lab.depth --jobs=2                        # all cells, one seed
    python -m lab.depth --cells=2x4 --seeds=1,2,3       # 2 arrows, 4 layers

Both sides have the same data, width, order of problems, initial weights and steps in each stage. A run's last stage
ends when it is mastered, or when its accuracy has moved by less than a point over the last third of its steps, or
after --minutes of a core. ^C stops all runs, and the same command goes on. What came out: OUT.csv, a line for each
run in OUT: accuracy, core-minutes to 90 %, and why it ended. (Linux: seconds of a core are read in /proc.)
"""

if not __package__:
    raise SystemExit("error: call it as python -m lab.depth, from the project's folder")

import csv
import glob
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import mean

from config import UserError, cli, option, ours, parse, replacing

TICKS = os.sysconf("SC_CLK_TCK")  # of /proc, in a second
MASTERED = 0.999
STAGE_STEPS, LAST_STEPS = 2500, 200_000  # most steps of a stage between the first and the last; of the last one
LEAST_STEPS = 3000  # of the last stage, before it may be said to stand still


@dataclass
class DepthConfig:
    cells: tuple[str, ...] = option(("2x1", "2x2", "2x4", "4x2", "4x4", "4x6"), "ARROWSxLAYERS")
    methods: tuple[str, ...] = option(("coconut", "pause_as_thought"), "methods of train.py")
    seeds: tuple[int, ...] = option((1,), "seeds", least=0)
    lr: float = option(5e-4, "learning rate of the stages after the first", least=0)
    stage_steps: int = option(STAGE_STEPS, "most steps of a stage between the first and the last", least=1)
    minutes: float = option(60.0, "core-minutes after which a run ends", least=0)
    jobs: int = option(1, "runs at a time", least=1, most=100)
    out: str = option("out/depth", "folder of the runs")


class DepthRun:
    """One run of train.py, watched; points: [core-seconds, steps, stage, steps of the stage, validation accuracy]."""

    def __init__(self, args, cell, method, seed):
        self.args, self.cell, self.method, self.seed = args, cell, method, seed
        self.hops, self.layers = map(int, cell.split("x"))
        self.folder = os.path.join(args.out, f"{cell}-{method}-{seed}")
        self.record = os.path.join(self.folder, "depth.json")
        self.state = {"points": [], "end": "", "test": None, "cpu": 0.0}
        if os.path.exists(self.record):
            with open(self.record) as f:
                self.state = json.load(f)
        self.process = None

    def flags(self):
        data = "data/hops" if self.hops == 4 else f"data/hops{self.hops}"
        steps = [3000] + [self.args.stage_steps] * (self.hops - 1) + [LAST_STEPS]
        return [
            ours("configs", "hops.py"), f"--data_dir={data}", f"--out_dir={self.folder}",
            f"--max_latent_stage={self.hops}", f"--n_layer={self.layers}",
            f"--method={self.method}", f"--seed={self.seed}", f"--steps={','.join(map(str, steps))}",
            f"--lr=1e-3,{self.args.lr}", "--eval_every=100", "--log_every=500", f"--master_at={MASTERED}",
        ]  # fmt: skip

    def start(self):
        os.makedirs(self.folder, exist_ok=True)
        resume = ["--resume"] if os.path.exists(os.path.join(self.folder, "ckpt.pt")) else []
        self.before = self.state["cpu"]
        self.run([*self.flags(), *resume])

    def run(self, flags):
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(os.path.join(self.folder, "run.txt"), "a") as file:
            command = [sys.executable, ours("train.py"), *flags]
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)

    def watch(self):
        """Note what is new; returns why the training should end, or "". (/proc: CPU time of what still runs.)"""
        try:
            with open(f"/proc/{self.process.pid}/stat") as f:
                user, system = f.read().rpartition(")")[2].split()[11:13]
            self.state["cpu"] = self.before + (int(user) + int(system)) / TICKS
        except (FileNotFoundError, ProcessLookupError):
            pass
        self.state["points"] = self.points()
        return self.ended()

    def points(self):
        """All evaluations so far, from log.txt; the core-seconds of those that are known are kept."""
        known = {point[1]: point[0] for point in self.state["points"]}
        points, stage, began = [], 0, 0
        path = os.path.join(self.folder, "log.txt")
        for line in open(path) if os.path.exists(path) else ():
            total, stream, value = line.split()
            if stream == "stage":
                stage, began = int(value), int(total)
            if stream == "valid/accuracy":
                total = int(total)
                points.append([known.get(total, self.state["cpu"]), total, stage, total - began, float(value)])
        return points

    def ended(self):
        """Why the training should end: "mastered", "stands still", "time", or "" if it should not."""
        if not self.state["points"]:
            return ""
        last = [point for point in self.state["points"] if point[2] >= self.hops]
        if self.state["cpu"] > 60 * self.args.minutes:
            return "time"
        if last and last[-1][4] >= MASTERED:
            return "mastered"
        third = [point[4] for point in last[-(len(last) // 3) :]]
        if last and last[-1][3] >= LEAST_STEPS:
            part = max(1, len(third) // 4)
            if abs(mean(third[-part:]) - mean(third[:part])) < 0.01:
                return "stands still"
        return ""

    def stop(self):
        """Let it save, then wait for it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def save(self):
        with replacing(self.record) as file:
            json.dump(self.state, file)

    def finish(self, why):
        """End the training, and test the weights that validated best in the last stage that was reached."""
        if self.process.poll() is None:
            self.stop()
        self.state["end"] = why
        command = [sys.executable, ours("train.py"), f"--eval_only={os.path.join(self.folder, 'best.pt')}"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if "test accuracy" not in done.stdout:
            raise UserError(f"{self.folder}: {done.stderr.strip()}; what train.py said: run.txt there")
        self.state["test"] = float(done.stdout.rpartition("test accuracy ")[2].partition("%")[0]) / 100
        self.state["stage"] = self.state["points"][-1][2]
        self.save()

    def line(self):
        """What goes into the table."""
        points = self.state["points"]
        at = next((p for p in points if p[2] >= self.hops and p[4] >= 0.9), None)
        best = max((p[4] for p in points if p[2] >= self.hops), default=None)
        return {
            "arrows": self.hops, "layers": self.layers, "method": self.method, "seed": self.seed,
            "test": self.state["test"], "best_valid_last_stage": best, "stage": self.state.get("stage"),
            "steps": points[-1][1] if points else 0, "core_minutes": round(self.state["cpu"] / 60, 1),
            "minutes_to_90": round(at[0] / 60, 1) if at else None, "steps_to_90": at[1] if at else None,
            "end": self.state["end"],
        }  # fmt: skip


def main(argv):
    args = parse(DepthConfig, argv, __doc__)
    runs = [DepthRun(args, cell, method, seed) for seed in args.seeds for cell in args.cells for method in args.methods]
    waiting, running, stops = [run for run in runs if not run.state["end"]], [], []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: stops.append(number))
    try:
        while (waiting or running) and not stops:
            while waiting and len(running) < args.jobs:
                waiting[0].start()
                running.append(waiting.pop(0))
            time.sleep(2)
            for run in [*running]:
                why = run.watch()
                ended = run.process.poll() is not None
                if why or ended:
                    running.remove(run)
                    run.finish(why or "ended")
                    print(run.line(), flush=True)
    finally:  # also if one of them has failed: none goes on unseen
        for run in running:
            run.stop()
            run.save()
    names = [os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(args.out, "*", "depth.json"))]
    lines = [DepthRun(args, *name.split("-")).line() for name in sorted(names)]  # also those of earlier calls
    if not lines:
        return 130
    with replacing(f"{args.out}.csv") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return 130 if stops else 0


if __name__ == "__main__":
    cli(main)
