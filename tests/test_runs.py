"""
Runs: training, evaluating, stopping, going on, several processes, the scripts as a user runs them.
"""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from helpers import HERE, command, fails, hops_flags, if_there, only_with, run_to_the_end, start_run, words

import curriculum
import data
import evaluate
import prepare_hops
import sample
import train
from checkpoint import initial_model, load_checkpoint, lock
from coconut import Coconut
from config import TrainConfig, UserError
from curriculum import row_for
from model import GPT, GPTConfig
from test_latent import naive_generate
from tokenizer import EOS, EOT


def test_evaluate_counts_what_is_right():
    """Catches answers held against the wrong problem, an uneven last batch that is lost, and miscounted tokens."""
    cfg, tok, _ = words(eval_batch_size=3, max_new_tokens=6, n_embd=24, n_head=3)
    model = initial_model(cfg, tok)[0].double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    equals, eos = tok.encode_ordinary(" =")[0], tok.encode_single_token(EOS)
    problems, n_right, n_tokens = [], 0, 0
    for i in range(7):
        question, steps = tok.encode_ordinary(" a b"[: 2 + 2 * (i % 2)] + " c" * i), [[1]] * (i % 3)
        prefix, n, after = row_for(curriculum.Problem(question, steps, []), 2, cfg, tok).prompt
        text = naive_generate(model, prefix, n, after, 6, eos)
        n_tokens += len(text)
        if i % 2:  # what follows the mark in an answer that contains no mark is never right
            problems.append(curriculum.Problem(question, steps, tok.encode_ordinary(" = never") + [eos]))
        else:  # no random model writes a mark: so let anything that it writes be its answer
            problems.append(curriculum.Problem(question, steps, text + [eos]))
            n_right += 1
    assert equals not in sum((p.answer for p in problems[::2]), [])
    result = evaluate.evaluate(model, problems, 2, cfg, tok)
    assert result["accuracy"] == n_right / 7 and result["tokens"] == n_tokens / 7
    assert result["thoughts"] == sum(i % 3 for i in range(7)) / 7 and result["thought_norm"] > 0


def test_learning_rate():
    """Catches warm-up that starts at zero or never ends, decay that misses its end, and stages mixed up."""
    cfg = TrainConfig(lr=(1.0, 0.5), warmup_steps=4, min_lr_ratio=(0.1,))
    rates = [train.learning_rate(cfg, 0, step, 104) for step in range(105)]
    assert 0 < rates[0] < rates[3] < 1 == rates[4] > rates[5]
    assert rates[54] == pytest.approx(0.55) and rates[103] == pytest.approx(0.1, abs=1e-3)
    assert train.learning_rate(cfg, 1, 4, 104) == train.learning_rate(cfg, 7, 4, 104) == 0.5
    assert train.learning_rate(TrainConfig(lr=(0.3,)), 2, 77, 99) == 0.3


def test_prepare_train_sample_as_a_user_would(tmp_path):
    """Catches whatever falls between the parts."""
    sizes = ["--train=200", "--valid=20", "--test=30", "--hops=3", "--nodes=7", "--out_dir=data"]
    assert command(tmp_path, "prepare_hops.py", *sizes).returncode == 0
    files = {name: data.load_json(tmp_path / "data" / f"{name}.json") for name in ("train", "valid", "test")}
    assert [len(problems) for problems in files.values()] == [200, 20, 30]
    seen = []
    for p in sum(files.values(), []):
        *nodes, _, node = p["question"].split()
        arrows = dict(zip(nodes[::2], nodes[1::2]))
        for step in p["steps"]:
            assert arrows[node] == step
            node = step
        assert p["answer"] == node and len(p["steps"]) == 3
        seen.append((frozenset(arrows.items()), p["question"].split()[-1]))
    assert len(set(seen)) == 250, "a circle with the same start occurs twice"

    trained = command(tmp_path, "train.py", *hops_flags(), "--out_dir=out/run")
    assert trained.returncode == 0, trained.stderr
    assert "stage 3 of 3: 2 thoughts" in trained.stdout and "test accuracy" in trained.stdout
    progress = [line for line in trained.stdout.splitlines() if "ms/step" in line]
    assert len(progress) == 16 and max(map(len, progress)) <= 120
    log = [line.split() for line in (tmp_path / "out/run/log.txt").read_text().splitlines()]
    assert all(len(line) == 3 for line in log)
    assert [(int(step), float(value)) for step, stream, value in log if stream == "stage"] == [
        (0, 0), (20, 1), (40, 2), (60, 3)]  # fmt: skip
    assert {stream for _, stream, _ in log} >= {"train/loss", "valid/accuracy", "valid/tokens", "test/accuracy"}

    sampled = command(tmp_path, "sample.py", "--count=2")  # the latest run, as many thoughts as trained
    assert sampled.stdout.count("question") == 2 and sampled.stdout.count("thought 2") == 2, sampled.stderr
    sampled = command(tmp_path, "sample.py", "--out_dir=out/run", "--question", "a b b a start a", "--latent", "5")
    assert "thought 5" in sampled.stdout and "WARNING" in sampled.stdout
    again = command(tmp_path, "train.py", *hops_flags(), "--out_dir=out/run")
    assert again.returncode == 2 and "--resume" in again.stderr and "--overwrite" in again.stderr


def test_resumed_equals_never_stopped(tmp_path, monkeypatch):
    """Catches whatever is missing from the checkpoint: moments, place in the data, random state, best score, log."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--uniform_prob=0.3", "--reset_optimizer=epoch"]
    whole = run_to_the_end([*flags, "--out_dir=whole"])
    parts = run_to_the_end([*flags, "--out_dir=parts"], stop_at=(3, 27, 40, 66))
    saved = [torch.load(run.last) for run in (whole, parts)]
    for weights in (
        [run.model.state_dict() for run in (whole, parts)],
        [torch.load(run.best)["model"] for run in (whole, parts)],
    ):
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    one, two = ({**s["progress"], "seconds": 0, "results": [r[:2] for r in s["progress"]["results"]]} for s in saved)
    assert one == two
    assert open("whole/log.txt").read() == open("parts/log.txt").read()


def test_the_seed_decides_everything(tmp_path, monkeypatch):
    """Catches a random number from elsewhere: the same seed gives the same weights, another one other weights."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=3", "--uniform_prob=0.3"]
    runs = [run_to_the_end([*flags, f"--out_dir=out{i}", f"--seed={seed}"]) for i, seed in enumerate((1, 1, 2))]
    weights = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_another_run_is_where_a_run_can_begin(tmp_path, monkeypatch, capsys):
    """Catches words that get the embedding of others when there are new ones, and longer problems that do not fit."""
    monkeypatch.chdir(tmp_path)
    for nodes, name in ((5, "few"), (7, "more")):
        prepare_hops.main([f"--nodes={nodes}", "--train=50", "--valid=9", "--test=9", f"--out_dir={name}"])
    first = run_to_the_end([*hops_flags(), "--data_dir=few", "--out_dir=out/few", "--block_size=24"])
    flags = [*hops_flags(), "--data_dir=more", "--out_dir=out/more", "--init_from=out/few/best.pt"]
    for size in ("--n_embd=98", "--block_size=9"):
        with pytest.raises(UserError, match=f"{size} has no effect: .* in the weights, out/few/best.pt"):
            start_run([*flags, size])
    capsys.readouterr()
    second = start_run(flags)
    assert "out/few/best.pt: 2 of 9 words begin anew" in capsys.readouterr().out
    start_run([*flags, "--data_dir=few", "--out_dir=out/same"])
    assert "anew" not in capsys.readouterr().out
    assert second.cfg.n_embd == 16 and second.model.config.block_size == 64 and second.model.config.dropout == 0.1
    old = load_checkpoint("out/few/best.pt")[0]
    for word in (" a", " =", EOT):
        new_id, old_id = (r.tok.encode(word, allowed_special="all")[0] for r in (second, first))
        assert torch.equal(second.model.base.wte.weight[new_id], old.base.wte.weight[old_id])
    assert torch.equal(second.model.base.wpe.weight[:24], old.base.wpe.weight)
    assert torch.equal(second.model.base.h[0].mlp.c_fc.weight, old.base.h[0].mlp.c_fc.weight)
    assert second.model.base.wte.weight[second.tok.encode_ordinary(" g")].norm() > 0


def test_a_checkpoint_is_evaluated_on_any_file(tmp_path):
    """Catches an evaluation with other settings than those of the training."""
    prepare = ("prepare_hops.py", "--nodes=6", "--hops=2", "--train=50", "--valid=20", "--test=9", "--out_dir=data")
    assert command(tmp_path, *prepare).returncode == 0
    assert command(tmp_path, "train.py", *hops_flags(), "--out_dir=out").returncode == 0
    evaluated = command(tmp_path, "train.py", "--eval_only=out/best.pt", "--eval_file=data/valid.json")
    valid = [line.split()[2] for line in open(tmp_path / "out/log.txt") if " valid/accuracy " in line]
    best = max(float(v) for v in valid[-4:])  # of the last stage's four evaluations
    assert f"test accuracy {evaluate.percent(best, 20)} on 20 problems" in evaluated.stdout
    assert "20 of 20 questions" in evaluated.stdout


def test_only_the_same_run_is_resumed(tmp_path, monkeypatch):
    """Catches a checkpoint that goes on with other settings or other data, or is replaced by them."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--out_dir=out"]
    run = start_run(flags)
    train.train_stage(run, stop=lambda: run.progress["total"] == 5)
    run.save_last()
    before = open(run.last, "rb").read()

    def refused(*more):
        with pytest.raises(UserError) as e:
            start_run([*flags, *more, "--resume"])
        assert open(run.last, "rb").read() == before
        return str(e.value)

    assert "n_layer was 1, now 2, --lr was (0.001,), now (0.5,)" in refused("--lr=0.5", "--n_layer=2")
    assert "--method was 'coconut', now 'no_cot'" in refused("--method=no_cot")
    assert "--lr was (0.001,), now (0.001, 0.001, 0.0005)" in refused("--lr=1e-3,1e-3,5e-4")
    saved = torch.load(run.last)
    torch.save(saved | {"format": 99}, run.last)
    before = open(run.last, "rb").read()
    assert "format 99, this program reads 5" in refused()
    torch.save(saved, run.last)
    before = open(run.last, "rb").read()
    prepare_hops.main(["--train=40", "--valid=9", "--test=9", "--out_dir=data", "--seed=3"])
    assert "the files in data are others" in refused()


def same_weights(one, two):
    pairs = zip(one.objective.parameters(), two.objective.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    "method, short, long, stop_at",
    [
        ("coconut", "20,20,20,9", "20,20,20,13", None),  # the run was over
        ("coconut", "9", "9,9,9,13", 30),  # the last of four stages has begun
        ("coconut", "9", "9,9,9,13", 14),  # it has not
        ("cot", "9", "12", None),  # one stage of 4 * 9 steps
    ],
)
def test_more_steps_are_as_if_they_had_been_there_from_the_start(method, short, long, stop_at, tmp_path, monkeypatch):
    """Catches moments that begin anew, a stage's end that is counted twice, and a test that stays in the log."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), f"--method={method}", "--uniform_prob=0.3"]
    whole = run_to_the_end([*flags, "--out_dir=whole", f"--steps={long}"])
    if stop_at:
        run = start_run([*flags, "--out_dir=parts", f"--steps={short}"])
        while run.progress["total"] != stop_at:
            train.train_stage(run, stop=lambda at=run.progress: at["total"] == stop_at)
        run.save_last()
    else:
        train.main([*flags, "--out_dir=parts", f"--steps={short}"])
    os.rename("data", "moved")
    more = [*flags, "--data_dir=moved", f"--steps={long}", "--eval_every=50", "--log_every=7", "--resume"]
    parts = run_to_the_end([*more, "--out_dir=parts"])
    assert same_weights(whole, parts) and whole.progress["total"] == parts.progress["total"]
    assert [r[:2] for r in whole.progress["results"]] == [r[:2] for r in parts.progress["results"]]
    assert "test/" not in open("parts/log.txt").read() and load_checkpoint(parts.last)[1].data_dir == ("moved",)


def test_what_would_have_changed_the_past_is_refused_with_the_reason(tmp_path, monkeypatch):
    """Catches a resumed run that is none that could have been begun."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=9"]

    def resumed(total, *more, first=()):
        run = start_run([*flags, *first, "--overwrite"])
        while run.progress["total"] != total:
            train.train_stage(run, stop=lambda at=run.progress: at["total"] == total)
        run.save_last()
        try:
            run = start_run([*flags, *first, *more, "--resume"])
            return run.lengths
        except UserError as e:
            return str(e)

    nine = "the stages had [9, 9, 9, 9] steps, now"
    assert f"{nine} [12, 12, 12, 12]" in resumed(18, "--steps=12")
    assert f"{nine} [9, 4, 9, 9]" in resumed(14, "--steps=9,4,9")
    assert f"{nine} [9, 9, 12, 12]" in resumed(14, "--steps=9,9,12")  # although they have not begun
    assert f"{nine} [9, 9, 9, 8]" in resumed(30, "--steps=9,9,9,8")
    assert resumed(30, "--steps=9,9,9,12") == [9, 9, 9, 12]
    for total in (30, 36):  # the learning rate has decayed towards the old end
        assert f"{nine} [9, 9, 9, 12]" in resumed(total, "--steps=9,9,9,12", first=["--min_lr_ratio=0.1"])
    assert resumed(27, "--steps=9,9,9,12", first=["--min_lr_ratio=0.1"]) == [9, 9, 9, 12]
    assert resumed(30, "--steps=9,9,9,12", first=["--min_lr_ratio=0.1,1"]) == [9, 9, 9, 12]
    assert resumed(5, "--epochs=3") == [9] * 4  # steps were given
    prepare_hops.main(["--train=40", "--valid=9", "--test=9", "--out_dir=other"])
    assert "the files in other are others" in resumed(5, "--data_dir=other")


def test_a_last_stage_that_was_mastered_stays_over(tmp_path, monkeypatch):
    """Catches a stage that is taken up again for its new length, although it did not end for want of steps."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=2", "--master_at=0.9", "--out_dir=out"]
    run_to_the_end(flags, stop_at=(8,))
    saved = torch.load("out/ckpt.pt")
    for accuracy, index in ((0.8, 3), (0.9, 4)):
        saved["progress"]["results"][-1][3]["accuracy"] = accuracy
        torch.save(saved, "out/ckpt.pt")
        run = start_run([*flags, "--steps=2,2,2,4", "--resume"])
        assert run.progress["index"] == index


def test_best_is_no_checkpoint_to_go_on_with(tmp_path, capsys, monkeypatch):
    """Catches a traceback where somebody has saved what looked like the better file."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    run_to_the_end([*hops_flags(), "--steps=1", "--out_dir=out"])
    shutil.copy("out/best.pt", "out/ckpt.pt")
    error = fails(train.main, [*hops_flags(), "--steps=1", "--out_dir=out", "--resume"], capsys, monkeypatch)
    assert "out/ckpt.pt cannot be resumed: no optimizer in it: best.pt, renamed?" in error


def test_two_runs_in_one_folder_are_refused(tmp_path, monkeypatch):
    """Catches two processes that overwrite each other's checkpoints."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--out_dir=out"]
    with lock("out"):
        with pytest.raises(UserError, match="out: another run is writing here"):
            train.main(flags)
    assert not os.path.exists("out")  # nothing had come of it


@pytest.mark.parametrize("error", ["training broke down", "n_head=3"])
def test_a_run_that_failed_is_in_nobodys_way(error, tmp_path, monkeypatch):
    """Catches a lock that lives as long as somebody, such as a notebook, keeps the error."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags, kept = [*hops_flags(), "--steps=1", "--out_dir=out", "--overwrite"], []
    for _ in range(2):
        with pytest.raises(UserError, match=error) as e, monkeypatch.context() as patch:
            patch.setattr(train, "train_step", breaks)
            train.main([*flags, "--n_head=3"] if "n_head" in error else flags)
        kept.append(e)  # the exception, and with it all variables of the functions that it went through
    train.main(flags)


def breaks(*args):
    raise FloatingPointError("loss nan")


@pytest.mark.parametrize("what", ["weights", "gradient"])
def test_numbers_that_are_not_finite_stop_the_run_at_once(what, tmp_path, monkeypatch):
    """Catches a run that goes on with NaN, or that saves it: the checkpoint on disk is the last good one."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    run = start_run([*hops_flags(), "--out_dir=out"])
    train.train_stage(run, stop=lambda: run.progress["total"] == 12)
    run.save_last()
    if what == "weights":
        run.model.base.wpe.weight.data[3, 0] = math.inf
    else:  # the loss is finite, its gradient is not
        run.model.base.ln_f.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(UserError, match=r"stage 0, step 13, training examples \d+(, \d+){4} and 3 more; out.ckpt"):
        train.train_stage(run, stop=lambda: False)
    model, _, _, saved = load_checkpoint(run.last)
    assert saved["progress"]["total"] == 12 and all(p.isfinite().all() for p in model.parameters())


def test_a_stage_is_left_when_mastered_or_with_a_warning(tmp_path, monkeypatch, capsys):
    """Catches stages that go on after they are mastered, or that end in silence when they are not."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--nodes=3", "--hops=1", "--train=2", "--valid=2", "--test=2", "--out_dir=data"])
    flags = [*hops_flags(), "--max_latent_stage=1", "--dropout=0", "--lr=0.01", "--steps=500,10", "--master_at=0.5"]
    run = run_to_the_end([*flags, "--out_dir=out"])
    (_, steps, *_, valid), (_, limit, *_) = run.progress["results"]
    assert steps < 500 and valid["accuracy"] >= 0.5 and steps % 5 == 0
    text = capsys.readouterr().out
    assert ("WARNING" in text) == (limit == 10 and run.progress["valid"]["accuracy"] < 0.5)
    run = run_to_the_end([*flags, "--out_dir=out2", "--steps=5"])
    assert [r[1] for r in run.progress["results"]] == [
        5,
        5,
    ] and "WARNING: 5 steps were not enough" in capsys.readouterr().out


def test_interrupting_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    """Catches a ^C that loses work, and a command to go on with that does not work when pasted into a shell."""
    assert command(tmp_path, "prepare_hops.py", "--train=50", "--valid=9", "--test=9", "--out_dir=data").returncode == 0
    script = os.path.join(HERE, "train.py")
    flags = [*hops_flags(), "--steps=100000,5", "--out_dir=out"]
    argv = [sys.executable, "-u", script, *flags]
    with subprocess.Popen(argv, cwd=tmp_path, text=True, stdout=subprocess.PIPE) as p:
        for line in p.stdout:
            if line.startswith("stage 0  "):
                p.send_signal(signal.SIGINT)
                break
        rest = p.stdout.read()
    assert p.returncode == 130
    again = shlex.split(rest[rest.index("to go on: ") :])[3:]
    assert again == ["python", os.path.relpath(script), "--resume", "--out_dir=out"] or again[1] == script
    assert load_checkpoint(tmp_path / "out/ckpt.pt")[3]["progress"]["total"] >= 5
    changed = command(tmp_path, "train.py", *flags, "--resume", "--n_layer=2")
    assert changed.returncode == 2 and "--n_layer was 1, now 2" in changed.stderr
    fresh = command(tmp_path, "train.py", *flags, "--overwrite", "--steps=5")
    assert fresh.returncode == 0 and "test accuracy" in fresh.stdout


SETTINGS = [  # of methods by themselves: tests/methods/
    "--dtype=bfloat16",
    "--feedback=soft --dtype=bfloat16",
    "--feedback=layer:-2",
    "--feedback=gate",
    "--feedback=last+vector",
    "--mixing=proportional",
    "--speed=recompute",
    "--speed=fast",
    "--model=llama --n_kv_head=1 --head_dim=6 --n_inner=20 --rope_theta=99",
    "--model=llama --feedback=gate",
    "--method=coconut+stop",
    "--method=simcot+seq_vcr",
]


@pytest.mark.parametrize("setting", [if_there(setting) for setting in SETTINGS])
def test_a_setting_of_training_is_evaluated_resumed_and_sampled(setting, tmp_path, monkeypatch, capsys):
    """Catches settings that work in a training step, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    flags = [*hops_flags(), "--steps=4,3", "--eval_every=2", "--max_latent_stage=3", *setting.split()]
    whole = run_to_the_end([*flags, "--out_dir=out/whole"])
    assert getattr(whole.model, "fast", False) == (setting == "--speed=fast")
    parts = run_to_the_end([*flags, "--out_dir=out/parts"], stop_at=(3, 11))
    assert same_weights(whole, parts)
    train.main(["--eval_only=out/parts/best.pt"])
    sample.main(["--out_dir=out/parts", "--count=1", "--latent=3"])
    assert "thought 3" in capsys.readouterr().out
    if "stop" in setting:
        sample.main(["out/parts", "--latent=auto"])


def test_teacher_and_decoder_leave_no_trace(tmp_path, monkeypatch):
    """Catches weights in best.pt that only training needs, and a decoder that is not trained, or not gone on with."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main(["--train=50", "--valid=9", "--test=9", "--out_dir=data"])
    plain = Coconut(GPT(GPTConfig(1, 2, 16, 64, 9))).state_dict().keys()
    for method in "simcot", "codi", "pccot":
        if not os.path.exists(os.path.join(HERE, "methods", f"{method}.py")):
            continue
        run = run_to_the_end([*hops_flags(), "--steps=2", f"--method={method}", f"--out_dir={method}"])
        best, last = torch.load(run.best), torch.load(run.last)
        assert best["model"].keys() == last["model"].keys() == plain and not {"objective", "optimizer"} & best.keys()
        decoder = {k.replace("decoder.", "base."): w for k, w in last["objective"].items()}
        assert decoder.keys() == (plain if method == "simcot" else set())
        assert not any(torch.equal(w, last["model"][k]) for k, w in decoder.items())


@pytest.mark.parametrize(
    "name, epochs, thoughts, losses",
    [
        pytest.param("codi", 40, 6, {"ce": 1, "teacher": 1, "distance": 1}, marks=only_with("methods/codi.py")),
        pytest.param("pccot", 40, 24, {"ce": 1, "teacher": 1, "distance": 1}, marks=only_with("methods/pccot.py")),
        pytest.param("simcot", 43, 10, {"ce": 1, "decoder": 1}, marks=only_with("methods/simcot.py")),
        pytest.param("lotus", 50, 60, {"ce": 1, "step_tokens": 0.05}, marks=only_with("methods/lotus.py")),
    ],
)
def test_configs_of_later_methods_in_small(name, epochs, thoughts, losses, tmp_path, monkeypatch, capsys):
    """Catches a value that does not fit the others: epochs of stages that there are not, a loss that is not trained."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("data")
    problems = [
        {"question": f"Tom has {i} eggs.", "steps": [f"<<{i}+{k}={i + k}>>" for k in range(7)], "answer": f"{i + 6}"}
        for i in range(12)
    ]
    for split in ("train", "valid", "test"):
        with open(f"data/{split}.json", "w") as f:
            json.dump(problems, f)
    small = "--data_dir=data --out_dir=out --init_from=scratch --n_layer=1 --n_head=2 --n_embd=16 --block_size=256"
    small += " --batch_size=4 --micro_batch_size=2 --max_new_tokens=3 --device=cpu --log_every=1 --warmup_steps=1"
    argv = [os.path.join(HERE, "configs", f"gsm8k_{name}.py"), *small.split()]
    try:
        run = start_run(argv)
    except UserError as e:
        pytest.skip(str(e)) if "vocabulary" in str(e) else pytest.fail(str(e))
    assert run.objective.weights == losses and run.cfg.method == name
    assert sum(run.lengths) == 3 * epochs and len(run.cfg.epochs) == run.n_stages
    train.main([*argv, "--steps=2"])
    log = open("out/log.txt").read()
    assert all(f" train/{loss} " in log for loss in losses)
    out = capsys.readouterr().out
    assert f"{thoughts}.0 thoughts each" in out and f"{thoughts} thoughts in place of" in out
    assert max(len(line) for line in out.splitlines() if "ms/step" in line) <= 120
    assert re.search(rf"ms/step.*\n  losses: {' [^,]*, '.join(losses)} \S+\n", out), out
    sample.main(["out", "--count=1"])
    assert f"thought {thoughts} " in capsys.readouterr().out
