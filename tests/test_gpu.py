"""
What only a GPU can show: that it computes what the CPU does, and that no thought waits for it. Skipped without one.

    python -m pytest tests/test_gpu.py
    NANOCOCONUT_TEST_DEVICE=cpu python -m pytest tests/test_gpu.py    # to try the tests themselves
"""

import copy
import os

import pytest
import torch
from helpers import command, hops_flags, if_there, only_with, run_to_the_end, start_run
from torch.nn import functional as F

import data
import prepare_hops
import prepare_prosqa
from coconut import Coconut
from config import upstairs
from curriculum import TABLE_1, make_objective, row_for
from methods import _feedbacks
from model import GPT, GPTConfig
from speed import compiled
from test_latent import NAIVE_FEEDBACKS, VOCAB, assert_close, batch, some_rows

GPU = os.environ.get("NANOCOCONUT_TEST_DEVICE", "cuda")
if GPU == "cuda" and not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

EVERYTHING = [
    *(f"--method={method}" for method in (*TABLE_1, "simcot", "codi", "pccot", "lotus")),
    *(f"--feedback={name}" for name in (*NAIVE_FEEDBACKS, *_feedbacks.FEEDBACKS)),
    "--model=llama --n_kv_head=1",
    "--method=coconut+stop",
    "--method=coconut+ponder",
    "--method=coconut+seq_vcr",
    "--method=coconut+back",
    "--method=coconut+sets",
    "--method=pccot --passes=2 --feedback=last+vector",
    "--method=coconut+cut --backprop_thoughts=1",
    "--speed=recompute",
]


GRAPHS = """--question_format= {} --step_format= {} --answer_format= = {} --task=graphs --names=[ ]\\d+ --questions=3
    --method=no_curriculum+sets --thought_targets=walks --losses=ce:3,members
    --max_latent_stage=3 --pad_latent_to_max --markers=eot
    --init=induction --block_size=99 --n_layer=2 --n_head=2 --n_embd=16 --batch_size=2 --eval_every=4""".split("--")


def gradients_of(objective, rows, device):
    """The sum of all losses of these rows, and {name: gradient} of what is trained, on the CPU."""
    objective.zero_grad()
    loss = sum(objective(data.collate(rows, device)).values())
    loss.backward()
    gradients = {name: p.grad.cpu() for name, p in objective.named_parameters() if p.grad is not None}
    return loss.detach().cpu(), gradients


def assert_same_gradients(run, rows, speed=""):
    """On the GPU as on the CPU, in float64."""
    ours = make_objective(run.model.double(), run.cfg, run.tok).double()
    theirs = make_objective(copy.deepcopy(run.model), run.cfg, run.tok).double()
    theirs.load_state_dict(ours.state_dict())
    if speed:
        upstairs("speed", speed).speed_up(theirs.model)
    theirs.to(GPU)
    (loss, gradients), (expected, others) = gradients_of(ours, rows, "cpu"), gradients_of(theirs, rows, GPU)
    assert_close(loss, expected, 1e-9)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert (gradient - others[name]).abs().max() <= 1e-9 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("flags", [if_there(flags) for flags in EVERYTHING])
def test_loss_and_gradients_are_those_of_the_cpu(flags, tmp_path, monkeypatch):
    """Catches a tensor that is made on the wrong device, and a step that a GPU computes in another way."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=20", "--valid=9", "--test=9", "--hops=3", "--out_dir=data"])
    small = [flag for flag in hops_flags() if not flag.startswith(("--dropout", "--n_layer"))]
    flags, _, speed = flags.partition("--speed=")
    run = start_run([*small, "--n_layer=3", *flags.split(), "--out_dir=out"])
    rng = data.random_stream(data.ROWS, run.cfg, 0, 0)
    chosen = [(i, run.plan[-1]) for i in range(6)]
    rows = data.training_rows(run.problems["train"], chosen, 0, run.cfg, run.task, rng)
    assert_same_gradients(run, rows, speed)


@only_with("methods/sets.py", "tasks/graphs.py")
@pytest.mark.parametrize("given", [-1, 0, 2])
@pytest.mark.parametrize("feedback", ["members", "soft", "last"])
def test_a_search_is_that_of_the_cpu(feedback, given, tmp_path, monkeypatch):
    """Catches the same where graphs are shared and thoughts are supervised."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--nodes=7,8", "--hops=2,3", "--valid=9", "--test=9", "--symbols"]
    prepare_prosqa.main(["--generate=20", *sizes, "--out_dir=data"])
    flags = [f"--{flag.rstrip()}" for flag in GRAPHS[1:]]
    flags += ["--data_dir=data", f"--feedback={feedback}", "--steps=1", "--teacher_forcing=0.5", "--rounds=2"]
    run = start_run([*flags, "--device=cpu", "--out_dir=out"])
    rng = data.random_stream(data.ROWS, run.cfg, 0, 0)
    chosen = [(i, run.plan[-1]) for i in range(4)]
    rows = data.training_rows(run.problems["train"], chosen, 0, run.cfg, run.task, rng)
    rows = [row._replace(extra=row.extra | {"rounds": given}) for row in rows]
    assert rows[0].extra["shared"]
    assert_same_gradients(run, rows)


def llama():
    from pretrained.llama import Llama, LlamaConfig

    return Llama(LlamaConfig(2, 4, 2, 16, 64, 96, 40, VOCAB, qk_norm=True))


MODELS = pytest.mark.parametrize(
    "make_base",
    [lambda: GPT(GPTConfig(2, 4, 64, 40, VOCAB)), pytest.param(llama, marks=only_with("pretrained/llama.py"))],
    ids=["gpt2", "llama"],
)


def some_model(make_base, **settings):
    torch.manual_seed(0)
    model = Coconut(make_base(), **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


@MODELS
@pytest.mark.parametrize("dtype, compile", [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_bfloat16_and_compiled_blocks_have_the_same_gradients(make_base, dtype, compile):
    """Catches a product in bfloat16 that should be exact, and weights whose gradient a compiler has lost."""
    model, rows = some_model(make_base), some_rows()
    names = dict(model.named_parameters())
    expected = torch.autograd.grad(model(*batch(rows))[1], model.parameters())
    model.to(GPU)
    if compile:
        compiled.speed_up(model)
    with torch.autocast(GPU, torch.bfloat16, enabled=dtype == "bfloat16"):
        prefix, prefix_len, n, suffix, labels = batch(rows)
        loss = model(prefix.to(GPU), prefix_len.to(GPU), n, suffix.to(GPU), labels.to(GPU))[1]
    for name, own, theirs in zip(names, torch.autograd.grad(loss, model.parameters()), expected):
        assert own.dtype == torch.float32
        least = 0.97 if dtype == "bfloat16" else 0.9999
        assert F.cosine_similarity(own.flatten().cpu(), theirs.flatten(), 0) > least, name


@MODELS
def test_answers_in_a_batch_are_those_one_by_one(make_base):
    """Catches padding that a GPU's attention kernels let through."""
    model, rows = some_model(make_base).double(), some_rows()
    prefix, prefix_len, n, suffix, _ = batch(rows)
    expected = model.generate(prefix, prefix_len, n, suffix, max_new_tokens=8)
    model.to(GPU)
    whole = model.generate(prefix.to(GPU), prefix_len.to(GPU), n, suffix.to(GPU), max_new_tokens=8).cpu()
    assert torch.equal(whole, expected)
    for i, row in enumerate(rows):
        one = batch([row])
        one = model.generate(one[0].to(GPU), one[1].to(GPU), one[2], suffix[i : i + 1].to(GPU), max_new_tokens=8)
        assert torch.equal(one[0].cpu()[: whole.size(1)], whole[i][: one.size(1)])


@pytest.mark.parametrize(
    "flags", [if_there(flags) for flags in EVERYTHING if "speed" not in flags and "--method=cot" not in flags.split()]
)
def test_no_thought_waits_for_the_gpu(flags, tmp_path, monkeypatch):
    """Catches whatever asks the GPU for a number between two thoughts: then nothing runs while Python thinks on."""
    if GPU == "cpu":
        pytest.skip("a CPU is not waited for")
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=20", "--valid=9", "--test=9", "--hops=3", "--out_dir=data"])
    small = [flag for flag in hops_flags() if not flag.startswith(("--device", "--n_layer"))]
    run = start_run([*small, "--n_layer=3", *flags.split(), f"--device={GPU}", "--out_dir=out"])
    rows = [row_for(problem, run.plan[-1], run.cfg, run.tok) for problem in run.problems["train"]]
    one = data.collate(rows, GPU)
    real = torch.ones_like(one.suffix, dtype=torch.bool)
    segments = one.prefix, one.prefix_len, one.n, one.suffix, real
    run.model.think(*segments).predicting.sum().backward()  # for warming up
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.model.think(*segments).predicting.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resumed_equals_never_stopped(dtype, tmp_path, monkeypatch):
    """Catches a GPU's random numbers, which dropout draws, that are not in the checkpoint. (Not bit for bit: the order
    in which a GPU adds up an embedding's gradient is its own.)"""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    small = [flag for flag in hops_flags() if not flag.startswith("--device")]
    flags = [*small, f"--device={GPU}", f"--dtype={dtype}", "--uniform_prob=0.3", "--log_every=1", "--steps=10"]
    whole = run_to_the_end([*flags, "--out_dir=whole"])
    parts = run_to_the_end([*flags, "--out_dir=parts"], stop_at=(3, 27))
    logs = [[line.split() for line in open(f"{name}/log.txt")] for name in ("whole", "parts")]
    losses = [{(s, name): float(v) for s, name, v in log if name == "train/loss"} for log in logs]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 40
    for key, loss in losses[0].items():
        assert losses[1][key] == pytest.approx(loss, rel=1e-3 if dtype == "float32" else 3e-2), key
    for a, b in zip(whole.model.parameters(), parts.model.parameters()):
        assert_close(a, b, 0.02 if dtype == "float32" else 0.3)


def test_as_a_user_would(tmp_path):
    """Catches whatever falls between the parts, and a checkpoint of a GPU that cannot be read without one."""
    sizes = ["--train=200", "--valid=20", "--test=30", "--out_dir=data"]
    assert command(tmp_path, "prepare_hops.py", *sizes).returncode == 0
    flags = [flag for flag in hops_flags() if not flag.startswith("--device")]
    for name in "plain", "sharded":
        more = [f"--device={GPU}", "--speed=shard" if name == "sharded" else "--peek", f"--out_dir=out/{name}"]
        done = command(tmp_path, "train.py", *flags, *more)
        assert done.returncode == 0 and "test accuracy" in done.stdout, done.stderr
    for device in GPU, "cpu":
        again = command(tmp_path, "train.py", "--eval_only=out/plain", f"--device={device}")
        assert "test accuracy" in again.stdout, again.stderr
        sampled = command(tmp_path, "sample.py", "out/plain", "--count=2", f"--device={device}")
        assert sampled.stdout.count("question") == 2, sampled.stderr
