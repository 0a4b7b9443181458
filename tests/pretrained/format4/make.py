"""
How the files beside it were made, with the code of commit 7185c79, the last that wrote checkpoints of format 4.

    git clone . /tmp/old && cd /tmp/old && git checkout 7185c79
    PYTHONPATH=. python HERE/tests/pretrained/format4/make.py HERE/tests/pretrained/format4          (in /tmp/old)

NAME.pt is the best.pt of a tiny model after a few steps; TASK.json the problems; expected.json says what that code gave
for them: {NAME: {"accuracy", "loss", ... of the evaluation, "answers": [[tokens, thoughts], ...] of five questions}}.
NAME/ has what export.py wrote of some, but for the weights of the base model.
"""

import json
import os
import random
import shutil
import subprocess
import sys

import torch
from batches import collate

from checkpoint import load_checkpoint
from curriculum import Row, split
from data import load
from evaluate import evaluate
from tokenizer import EOS

TINY = """--n_layer=2 --n_head=2 --n_embd=12 --block_size=64 --batch_size=16 --steps=60 --eval_every=60 --lr=1e-2
    --max_latent_stage=2 --device=cpu --tokenizer=words --question_format= {} --step_format= {} --answer_format= = {}"""
GRAPHS = "--method=no_curriculum --names= \\d+ --questions=3 --batch_size=4 --markers=eot --max_latent_stage=3"
MODELS = {  # name: (task, flags)
    "coconut": ("circle", "--peek"),
    "gate": ("circle", "--feedback=gate"),
    "ponder": ("circle", "--stop=ponder"),
    "classifier": ("circle", "--stop=classifier"),
    "llama": ("circle", "--model=llama --n_kv_head=1 --head_dim=6"),
    "codi": ("circle", "--method=codi --feedback=projection"),
    "learned": ("circle", "--thought_positions=learned --feedback=soft+layer:-2 --backprop_thoughts=1"),
    "lotus": ("circle", "--method=lotus --c_thought=2 --passes=2"),
    "pccot": ("circle", "--method=pccot --feedback=projection --thought_positions=learned"),
    "in_place": ("circle", "--passes=2 --in_place"),
    "back": ("circle", "--method=simcot --decoder=head --remove_from=back"),
    "cot": ("circle", "--method=cot"),
    "sets": ("graph", f"{GRAPHS} --thought_targets=walks --feedback=members --losses=ce:3,thoughts,members "
                      "--teacher_forcing=1,0.5 --rounds=0,2"),
}  # fmt: skip
EXPORTED = "gate", "learned", "classifier", "in_place", "pccot"


def circle(rng):
    """Arrows in a circle, and how many of them to follow."""
    n, nodes = rng.randrange(4), rng.sample("abcdefgh", 5)
    arrows = [f"{a} {b}" for a, b in zip(nodes, nodes[1:] + nodes[:1])]
    question = f"{' '.join(rng.sample(arrows, 5))} go {n} start {nodes[0]}"
    return {"question": question, "steps": nodes[1 : n + 1], "answer": nodes[n]}


def graph(rng):
    """Two paths: which of two nodes can be reached?"""
    n, nodes = rng.randrange(1, 4), [str(k) for k in rng.sample(range(12), 8)]
    edges = [*zip(nodes[:4], nodes[1:4]), *zip(nodes[4:], nodes[5:])]
    asked = rng.sample([nodes[n], nodes[7]], 2)
    question = " ".join(f"{a} {b} |" for a, b in rng.sample(edges, 6)) + f" to {asked[0]} or {asked[1]} from {nodes[0]}"
    return {"question": question, "steps": nodes[1 : n + 1], "answer": nodes[n]}


@torch.no_grad()
def expected(path, file):
    """What the model at path gives for the problems of a file."""
    model, cfg, tok, saved = load_checkpoint(path)
    problems = load(file, cfg, tok, saved["pieces"])
    found = evaluate(model, problems, saved["stage"], cfg, tok)
    rows = [Row(*split(problem, saved["stage"], cfg, tok)[0], labels=[]) for problem in [*problems][:5]]
    batch, eos = collate(rows), tok.encode_single_token(EOS)
    tokens, thoughts = model.generate(
        batch.prefix, batch.prefix_len, batch.n, batch.suffix, 8, eos=eos, return_thoughts=True
    )
    return found | {"answers": [*zip(tokens.tolist(), [x.tolist() for x in thoughts])]}


def main(folder):
    torch.set_num_threads(1)
    found = {}
    for task in circle, graph:
        rng = random.Random(task.__name__)
        os.makedirs(f"data/{task.__name__}", exist_ok=True)
        for split_name, n in ("train", 300), ("valid", 20), ("test", 40):
            with open(f"data/{task.__name__}/{split_name}.json", "w") as f:
                json.dump([task(rng) for _ in range(n)], f)
        shutil.copy(f"data/{task.__name__}/test.json", os.path.join(folder, f"{task.__name__}.json"))
    for name, (task, flags) in MODELS.items():
        given = " ".join(TINY.split("\n")) + " " + flags
        argv = ["--" + flag.rstrip() for flag in given.split("--")[1:]]
        argv += [f"--data_dir=data/{task}", f"--out_dir=out/{name}", "--overwrite"]
        subprocess.run([sys.executable, "train.py", *argv], check=True)
        path = os.path.join(folder, f"{name}.pt")
        shutil.copy(f"out/{name}/best.pt", path)
        found[name] = expected(path, os.path.join(folder, f"{task}.json"))
        os.remove(os.path.join(folder, f"{task}.json.npz"))
    for name in EXPORTED:
        subprocess.run([sys.executable, "export.py", f"out/{name}/best.pt", f"out/{name}/exported"], check=True)
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        for file in "config.json", "thinking.safetensors":
            shutil.copy(f"out/{name}/exported/{file}", os.path.join(folder, name))
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(found, f)


if __name__ == "__main__":
    main(sys.argv[1])
