"""
Two checkouts train the same, side by side: 20 steps of every stage in float64, from the same weights.

    python tests/side_by_side.py OLD NEW                # folders; everything, in a few minutes
    python tests/side_by_side.py OLD NEW hops family    # some of it

OLD's prepare scripts make the data, once, for both. Each checkout runs in a process of its own, in its own folder, by a
driver that knows its API: DRIVERS. What is printed is the largest relative difference of any loss of any step, and of
the final weights (of a tensor: the difference's norm over its norm). 1e-9 is what rounding may come to.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TOLERANCE = 1e-9
MIXED = "--mixing=uniform --uniform_prob=0.3"  # methods with a single stage never mix
GRAPHS = "--init_from=scratch --init=gpt2 --n_head=2 --n_embd=32 --batch_size=4 --questions=4"
RUNS = {  # {name: (config, data made by, flags)}
    "hops": ("hops", "hops", f"{MIXED} --init=gpt2 --batch_size=32"),
    "family": ("family", "family", f"{MIXED} --init=gpt2 --batch_size=16"),
    "arithmetic_soft": ("arithmetic_soft", "arithmetic", f"{MIXED} --init=gpt2"),
    "prosqa_scratch": ("prosqa_scratch", "prosqa_symbols", f"{MIXED} {GRAPHS}"),
    "prosqa_scratch_last": ("prosqa_scratch_last", "prosqa_symbols", f"{MIXED} {GRAPHS}"),
}
MORE = {  # what is not asked for by default: other methods in the same way
    f"hops {method}": ("hops", "hops", f"{MIXED} --init=gpt2 --method={method}")
    for method in ("simcot", "codi", "pccot", "lotus", "icot", "pause_as_thought")
} | {"hops_mixed": ("hops_mixed", "hops_mixed", f"{MIXED} --init=gpt2")}
SAME = "--steps=20 --master_at=0 --eval_every=1000000 --log_every=1000000 --device=cpu --dropout=0 --overwrite".split()
DATA = {  # {name: how OLD makes it}
    "hops": "prepare_hops.py --train=500 --valid=20 --test=20",
    "hops_mixed": "prepare_hops.py --hops=2,6 --train=500 --valid=20 --test=20",
    "family": "prepare_family.py --train=500 --valid=20 --test=20",
    "arithmetic": "prepare_arithmetic.py --train=500 --valid=20 --test=20",
    "prosqa_symbols": "prepare_prosqa.py --generate=200 --symbols --valid=20 --test=20",
}

# Run with the checkout as current folder: sys.argv = [.., tests/ of this file, where to write, train.py's arguments].
# It writes losses.json, [{name of a loss: value}, ...] of all steps of all stages, and weights.npz, {name at 7185c79:
# value} of all that is trained. weights_of and rename: see
# formula.py and record.py.
DRIVER_7185C79 = """
import json, os, sys
sys.path[:0] = [os.getcwd(), sys.argv[1]]
import numpy as np, torch
import train
from config import parse
from formula import weights_of
from run import Run
from settings import TrainConfig

rename = lambda name: name
torch.set_num_threads(1)
run, losses, step = Run(parse(TrainConfig, sys.argv[3:], "", takes_file=True)), [], train.train_step
run.objective.double()
with torch.no_grad():
    for name, p in run.objective.named_parameters():
        p.copy_(torch.from_numpy(weights_of(rename(name), tuple(p.shape))))

def watched(*args):
    found = step(*args)
    losses.append({name: value.item() for name, value in found.items()})
    return found

train.train_step = watched
while run.progress["index"] < len(run.plan):
    train.train_stage(run, lambda: False)
with open(os.path.join(sys.argv[2], "losses.json"), "w") as f:
    json.dump(losses, f)
weights = {rename(name): p.detach().numpy() for name, p in run.objective.named_parameters()}
np.savez(os.path.join(sys.argv[2], "weights.npz"), **weights)
"""


DRIVER = """
import json, os, sys
sys.path[:0] = [os.getcwd(), sys.argv[1]]
import numpy as np, torch
import curriculum, train
from config import parse
from formula import weights_of
from record import old_name, rename

torch.set_num_threads(1)
cfg = curriculum.leave_out(parse(curriculum.config_class, sys.argv[3:], "", takes_file=True))
run, losses, step = train.Run(cfg), [], train.train_step
run.objective.double()
with torch.no_grad():
    for name, p in run.objective.named_parameters():
        p.copy_(torch.from_numpy(weights_of(rename(name, run.cfg), tuple(p.shape))))

def watched(*args):
    found = step(*args)
    name = lambda loss: loss if loss in ("loss", "ce") else old_name(loss, run.objective)
    losses.append({name(loss): value.item() for loss, value in found.items()})
    return found

train.train_step = watched
while run.progress["index"] < len(run.plan):
    train.train_stage(run, lambda: False)
with open(os.path.join(sys.argv[2], "losses.json"), "w") as f:
    json.dump(losses, f)
weights = {rename(name, run.cfg): p.detach().numpy() for name, p in run.objective.named_parameters()}
np.savez(os.path.join(sys.argv[2], "weights.npz"), **weights)
"""


def driver(checkout):
    """The driver that knows this checkout's API."""
    return DRIVER_7185C79 if os.path.exists(os.path.join(checkout, "losses.py")) else DRIVER


def same_data(checkout, config, folder):
    """The flag for a folder of data: the newer program has it once for each phase."""
    phases = (
        1 if driver(checkout) == DRIVER_7185C79 or not config.startswith(("prosqa_scratch", "arithmetic_soft")) else 2
    )
    return "--data_dir=" + ",".join([folder] * phases)


def prepare(old, folder, names):
    """OLD's data in folder/NAME, as far as it is needed."""
    for name in names:
        script, *flags = DATA[name].split()
        command = [sys.executable, script, *flags, f"--out_dir={os.path.join(folder, name)}"]
        subprocess.run(command, cwd=old, check=True, stdout=subprocess.DEVNULL)


def train(checkout, folder, run, data):
    """Train a run in a checkout: ([{name of a loss: value}, ...] of all steps, {name: weights})."""
    config, task, flags = run
    os.makedirs(folder)
    arguments = [
        f"configs/{config}.py",
        *flags.split(),
        *SAME,
        same_data(checkout, config, f"{data}/{task}"),
        f"--out_dir={folder}/out",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", driver(checkout), HERE, folder, *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: {config}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    with open(os.path.join(folder, "losses.json")) as f:
        losses = json.load(f)
    with np.load(os.path.join(folder, "weights.npz")) as weights:
        return losses, dict(weights)


def off(a, b):
    """How far b is from a, relative to a's norm."""
    difference, norm = np.linalg.norm(np.asarray(a) - np.asarray(b)), np.linalg.norm(a)
    return difference / norm if difference else 0.0


def compare(old, new):
    """(largest relative difference of the losses, of the weights); exits if steps or names are not the same."""
    (losses, weights), (new_losses, new_weights) = old, new
    if [[*step] for step in losses] != [[*step] for step in new_losses]:
        sys.exit(f"other losses or steps: {len(losses)} x {[*losses[0]]}, {len(new_losses)} x {[*new_losses[0]]}")
    if weights.keys() != new_weights.keys():
        sys.exit(f"other parameters: {sorted(weights.keys() ^ new_weights.keys())}")
    of_losses = max(off(a[name], b[name]) for a, b in zip(losses, new_losses) for name in a)
    return of_losses, max(off(value, new_weights[name]) for name, value in weights.items())


def main(old, new, *names):
    runs = {name: (RUNS | MORE)[name] for name in names or RUNS}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        prepare(old, folder, dict.fromkeys(task for _, task, _ in runs.values()))
        for i, (name, run) in enumerate(runs.items()):
            began = time.monotonic()
            both = [train(checkout, f"{folder}/{i}{side}", run, folder) for side, checkout in zip("ab", (old, new))]
            found = compare(*both)
            worst = max(worst, *found)
            first, last = (step["loss"] for step in (both[0][0][0], both[0][0][-1]))
            print(
                f"{name:<24} {len(both[0][0]):>4} steps  loss {first:.3f} to {last:.3f}  largest difference: "
                f"losses {found[0]:.1e}  weights {found[1]:.1e}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(f"largest of all: {worst:.1e}, expected at most {TOLERANCE:.0e}")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    sys.exit(main(*map(os.path.abspath, sys.argv[1:3]), *sys.argv[3:]))
