"""
What a problem becomes at each stage, for each row of table 1: rows, prompts, stages, order, batches, what is scored.

Later methods' rows are tested in tests/methods, the model in test_latent.py.
"""

import importlib
import math
import os
import re
import sys

import numpy as np
import pytest
import torch
from helpers import HERE, live, spell, words

import curriculum
import data
import evaluate
import feedback
import prepare_gsm8k
import prepare_hops
from checkpoint import new_base
from config import TrainConfig, UserError, parse, upstairs
from curriculum import Objective, Problem, Row, change, config_class, objective_class, row_for
from tokenizer import SPECIALS, make_tokenizer
from train import Run, train_step


@pytest.mark.parametrize(
    "settings, stage, expected",
    [  # prefix | number of thoughts | suffix; tokens in [] are not scored
        ({}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({}, 1, " a b <bot> | 1 | [<eot>] d e f = g <eos>"),
        ({}, 2, " a b <bot> | 2 | [<eot>] f = g <eos>"),
        ({}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),  # the final stage: no step left, no more thoughts
        ({"c_thought": 2}, 2, " a b <bot> | 4 | [<eot>] f = g <eos>"),
        ({"max_latent_stage": 5}, 4, " a b <bot> | 3 | [<eot>] = g <eos>"),  # a problem shorter than the stage
        ({"max_latent_stage": 5, "pad_latent_to_max": True}, 4, " a b <bot> | 4 | [<eot>] = g <eos>"),
        ({"markers": "bot"}, 1, " a b <bot> | 1 | d e f = g <eos>"),
        ({"markers": "none"}, 1, " a b | 1 | d e f = g <eos>"),
        # every other row of the paper's table 1, at each stage that it has
        ({"method": "cot"}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "no_cot"}, 3, " a b | 0 | = g <eos>"),
        ({"method": "pause"}, 3, " a b <pause> <pause> | 0 | = g <eos>"),
        ({"method": "no_curriculum"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        ({"method": "pause_as_thought"}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({"method": "pause_as_thought"}, 1, " a b <bot> <pause> | 0 | [<eot>] d e f = g <eos>"),
        ({"method": "pause_as_thought"}, 2, " a b <bot> <pause> <pause> | 0 | [<eot>] f = g <eos>"),
        ({"method": "pause_as_thought"}, 3, " a b <bot> <pause> <pause> | 0 | [<eot>] = g <eos>"),
        ({"method": "no_thought"}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "no_thought"}, 1, " a b | 0 | d e f = g <eos>"),
        ({"method": "no_thought"}, 2, " a b | 0 | f = g <eos>"),
        ({"method": "no_thought"}, 3, " a b | 0 | = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 1, " a b | 0 | d e f = g <eos>"),
        ({"method": "icot", "icot_tokens": 3, "max_latent_stage": 3}, 1, " a b | 0 | f = g <eos>"),
        ({"method": "icot", "icot_tokens": 1}, 2, " a b | 0 | = g <eos>"),  # the last stage removes what is left
    ],
)
def test_segments(settings, stage, expected):
    """Catches any error in what a method shows and scores at a stage."""
    cfg, tok, problem = words(**settings)
    assert spell(row_for(problem, stage, cfg, tok), tok) == expected


def test_icot_removes_some_more_tokens_now_and_then():
    """Catches an offset that is not drawn by P(o) = (1 - e^-4) e^-4o, in evaluation too, or at the last stage."""
    cfg, tok, problem = words(method="icot", icot_tokens=1)
    rng, size = np.random.default_rng(0), 20_000
    lengths = [len(row_for(problem, 0, cfg, tok, rng).suffix) for _ in range(size)]
    assert set(lengths) >= {7, 6, 5}  # c d e f = g <eos>, and what is left after one or two more
    assert abs(lengths.count(6) / size - (1 - math.exp(-4)) * math.exp(-4)) < 0.003
    assert spell(row_for(problem, 2, cfg, tok, rng), tok) == " a b | 0 | = g <eos>"


def test_peek_scores_the_place_before_eot_with_what_comes_after_it():
    cfg, tok, problem = words(peek=True)
    row = row_for(problem, 1, cfg, tok)
    assert row.labels[0] == row.suffix[1] and row.labels[1:] == row.suffix[1:]
    assert row.prompt.eot == row.suffix[:1], "<eot> is still what the model is given"


def test_stages_of_each_method():
    """Catches a final stage that is forgotten (steps remain) or superfluous (none do)."""
    for method, longest, expected in (
        ("coconut", 2, [0, 1, 2]), ("coconut", 3, [0, 1, 2, 3]), ("pause_as_thought", 3, [0, 1, 2, 3]),
        ("cot", 3, [0]), ("no_cot", 3, [3]),
    ):  # fmt: skip
        assert curriculum.stages(TrainConfig(method=method, max_latent_stage=2), longest)[0] == expected


def test_single_stage_methods_train_as_long_as_the_curriculum():
    """Catches baselines that get more or fewer steps than the method that they are compared with."""
    papers, single = [6, 3, 3, 3, 35], [50]
    for name, lengths in {"gsm8k": papers, "gsm8k_cot": single, "gsm8k_no_cot": single}.items():
        run = Run.__new__(Run)  # the plan alone: the problems' numbers are all that it needs
        path = os.path.join(HERE, "configs", f"{name}.py")
        run.cfg = parse(config_class, [path, "--batch_size=1"], "", takes_file=True)
        one_of_six_steps = data.Problems(np.zeros(8), np.arange(9), np.array([0, 8]))
        run.all_problems = [{"train": one_of_six_steps}]
        run.make_plan()
        assert run.lengths == lengths


def test_icot_removes_eight_tokens_an_epoch_up_to_39():
    """Catches stages that iCoT does not have, drawn by stage mixing, and a config that removes everything too soon."""
    cfg = parse(config_class, [os.path.join(HERE, "configs", "gsm8k_icot.py")], "", takes_file=True)
    numbers, n = curriculum.stages(cfg, longest=8)
    assert numbers == [0, 1, 2, 3, 4, 5] and n == 6 and sum(cfg.epochs) == 50
    tok, problem = make_tokenizer("words"), Problem([1], [[7] * 10] * 8, [9])
    left = [row_for(problem, stage, cfg, tok).suffix.count(7) for stage in numbers]
    assert left == [80, 72, 64, 56, 48, 0]
    mixed = change(cfg, uniform_prob=(1.0,), batch_size=32, sort_window=1)
    order = data.epoch_order(some_problems([[3] * 10] * 500), 5, np.random.default_rng(1), mixed)
    assert {stage for _, stage in order} == {0, 1, 2, 3, 4, 5}


def test_the_page_of_methods_names_all_of_them():
    """Catches a method, a feedback or a loss that docs/methods.md does not know."""
    with open(os.path.join(HERE, "docs", "methods.md"), encoding="utf-8") as f:
        text = f.read()
    files = [f[:-3] for f in os.listdir(os.path.join(HERE, "methods")) if f.endswith(".py") and f[0] != "_"]
    feedbacks = feedback.FEEDBACKS | upstairs("methods", "_feedbacks").FEEDBACKS
    weights = [objective_class(change(TrainConfig(), method=name)).all_weights() for name in files]
    for name in {*curriculum.TABLE_1, *files, *feedbacks}.union(*weights):
        assert f"`{name}" in text or f"+{name}`" in text, name


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("kind", ["words", "chars", "gpt2"])
def test_tokenizers_give_back_any_text_and_control_tokens_stay_text(kind):
    """Catches text lost between words, and a user's "<|latent|>" that becomes a control token."""
    try:
        tok = make_tokenizer(kind, [" every", " rempus", "é", ".", "<"])
    except UserError:
        pytest.skip("GPT-2's vocabulary is neither cached nor can it be downloaded")
    for text in ("every rempus. 12\n\n+ é  \t<|latent|> 猫🙂<|endoftext|>", " ", ""):
        tokens = tok.encode_ordinary(text)
        assert tok.decode(tokens) == text
        assert all(t < tok.n_vocab - 4 for t in tokens)
    ids = [tok.encode_single_token(name) for name in SPECIALS]
    assert ids == list(range(tok.n_vocab - 4, tok.n_vocab)) and (kind != "gpt2" or ids[0] == 50256)


def test_a_word_is_one_token_wherever_it_stands():
    """Catches formats in which the node of a step is another token than the same node in the question."""
    cfg, tok, problem = words()
    assert [len(x) for x in (problem.question, *problem.steps, problem.answer)] == [2, 1, 2, 1, 3]
    assert data.encode([{"question": "g", "steps": [], "answer": "a"}], cfg, tok)[0].question == problem.answer[1:2]


def test_the_answer_is_what_follows_the_one_mark():
    """Catches a model that writes marks until it gets an answer right, and one that answers twice."""
    task = curriculum.Task(TrainConfig(), None)
    for text, answer in (
        ("<<1+1=2>>\n### 2", "2"),
        ("1\n### Tom is a cat. ", "Tom is a cat."),
        ("1 ### ### ### ### 2", None),
        ("### 1\n### 2", None),
        ("### 1,234,567", "1234567"),
        ("### 1,2 or 12,34", "1,2 or 12,34"),
        ("2", None),
        ("###", ""),
    ):
        assert task.read_answer(text) == answer
    assert task.is_right("2", "2") and not task.is_right("2.0", "2") and not task.is_right(None, "2")


def test_hops_of_mixed_length_say_how_many(tmp_path):
    """Catches a question that does not tell, a graph with an arrow from "go", and lengths that never come."""
    prepare_hops.main(["--hops=2,5", "--train=200", "--valid=20", "--test=20", f"--out_dir={tmp_path}"])
    problems = data.load_json(tmp_path / "train.json")
    for problem in problems:
        *arrows, go, number, start, _ = problem["question"].split()
        assert (go, start) == ("go", "start") and number == str(len(problem["steps"]))
        assert len(arrows) == 20 and len({*arrows[::2]}) == 10
    assert {len(problem["steps"]) for problem in problems} == {2, 3, 4, 5}
    for hops in ("5,2", "1,2,3"):
        with pytest.raises(UserError):
            prepare_hops.main([f"--hops={hops}"])


# ---------------------------------------------------------------- the order of an epoch


def some_problems(lengths):
    """Problems of the given lengths (question, step, ..., answer), whatever their tokens."""
    sizes = np.array([n for lens in lengths for n in lens])
    first = np.cumsum([0, *map(len, lengths)])
    return data.Problems(np.zeros(sizes.sum(), np.uint16), np.cumsum([0, *sizes]), first)


def test_order_depends_on_seed_stage_and_epoch_alone():
    """Catches a global random state, lost or doubled examples, and a wrong share or range of mixed stages."""
    g = np.random.default_rng(0)
    problems = some_problems([g.integers(1, 90, 5).tolist() for _ in range(2000)])
    for window in (1, 7):
        cfg = TrainConfig(uniform_prob=(0.4,), sort_window=window, batch_size=32)

        def order(index, epoch, cfg=cfg):
            return data.epoch_order(problems, 2, data.random_stream(data.ORDER, cfg, index, epoch), cfg)

        first = order(2, 5)
        torch.manual_seed(5)
        assert first == order(2, 5)
        assert sorted(i for i, _ in first) == list(range(2000))
        others = order(3, 5), order(2, 6), order(2, 5, change(cfg, seed=2))
        assert all([i for i, _ in first] != [i for i, _ in other] for other in others)
        share = [sum(stage == s for _, stage in first) / 2000 for s in range(4)]
        assert all(abs(x - y) < 0.04 for x, y in zip(share, (0.1, 0.1, 0.7, 0.1)))


@pytest.mark.parametrize("window", [1, 7])
def test_mixing_draws_stages_as_it_says(window):
    """Catches stages that are later than the present one, weights off by one, and a mixing where there is none."""
    problems = some_problems([[3] * 6] * 6000)

    def shares(stage, **settings):
        cfg = TrainConfig(sort_window=window, batch_size=32, **settings)
        order = data.epoch_order(problems, stage, np.random.default_rng(3), cfg)
        assert sorted(i for i, _ in order) == list(range(6000))
        return [sum(drawn == k for _, drawn in order) / 6000 for k in range(5)]

    for stage in range(4):
        expected = [2 * (i + 1) / ((stage + 1) * (stage + 2)) if i <= stage else 0 for i in range(5)]
        found = shares(stage, mixing="proportional", uniform_prob=(0.9,))
        assert found == pytest.approx(expected, abs=0.03) and sum(found) == pytest.approx(1)
    for settings in ({"mixing": "none"}, {"method": "cot"}, {"mixing": "proportional", "method": "no_curriculum"}):
        assert shares(2, uniform_prob=(0.9,), **settings) == [0, 0, 1, 0, 0]
    assert shares(2, uniform_prob=(1.0,)) == pytest.approx([0.2] * 5, abs=0.03)


def padding(rows, batch_size):
    """The share of positions that are padding, in batches of the rows in their order."""
    cells = real = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        lengths = np.array([(len(row.prefix), row.n, len(row.suffix)) for row in batch])
        cells, real = cells + len(lengths) * lengths.max(0).sum(), real + lengths.sum()
    return 1 - real / cells


@pytest.mark.parametrize("stage", [0, 3])
def test_sorting_by_length_leaves_little_padding(stage):
    """Catches sorting by the wrong lengths: real rows of GSM8K, at most 15 % of all positions are padding."""
    path = os.path.join(HERE, "../shared/data/gsm8k/openai_train.jsonl")
    if not os.path.exists(path):
        pytest.skip("GSM8K is not in ../shared/data/gsm8k")
    cfg = TrainConfig(
        tokenizer="gpt2", block_size=1024, c_thought=2, max_latent_stage=3, batch_size=32, sort_window=100
    )
    try:
        tok = make_tokenizer("gpt2")
    except UserError:
        pytest.skip("GPT-2's vocabulary is neither cached nor can it be downloaded")
    problems = data.encode(prepare_gsm8k.read_lines(path), cfg, tok)

    def rows(cfg):
        order = data.epoch_order(problems, stage, np.random.default_rng(1), cfg)
        return [row_for(problems[i], k, cfg, tok) for i, k in order]

    assert padding(rows(cfg), 32) <= 0.15 < 0.45 < padding(rows(change(cfg, sort_window=1)), 32)


def test_random_streams_are_different_ones():
    """Catches rows that are renamed by the very numbers that have ordered the epoch, where step equals epoch."""
    cfg = TrainConfig()
    streams = [
        data.random_stream(purpose, cfg, 1, number).random()
        for purpose in (data.ORDER, data.ROWS)
        for number in range(9)
    ]
    assert len(set(streams)) == 18


# ---------------------------------------------------------------- batches


def test_micro_batches_keep_to_their_limits():
    """Catches rows that are lost, and micro-batches that are larger than what was asked for."""
    g = np.random.default_rng(0)
    rows = [Row([0] * g.integers(1, 50), int(g.integers(0, 6)), [i] * g.integers(1, 20), [0]) for i in range(200)]
    second = [row._replace(extra={"second": Row([0] * 3, 0, [0] * g.integers(20, 40), [0])}) for row in rows]
    for some, size, tokens in (rows, 0, 0), (rows, 16, 0), (rows, 0, 300), (rows, 3, 300), (second, 0, 500):
        cfg = TrainConfig(micro_batch_size=size, micro_batch_tokens=tokens)
        parts = list(data.micro_batches(some, cfg))
        assert sorted(row.suffix[0] for part in parts for row in part) == list(range(200))
        for part in parts:
            assert len(part) <= (cfg.micro_batch_size or 200)
            batch = data.collate(part)
            width = sum(x.prefix.size(1) + int(x.n.max()) + x.suffix.size(1) for x in (batch, *batch.extra.values()))
            assert not cfg.micro_batch_tokens or width * len(part) <= cfg.micro_batch_tokens
        assert len(parts) < 80 or cfg.micro_batch_size == 3


def test_rows_become_tensors_whatever_is_in_them():
    """Catches what is filled up with the wrong number, and a list that is empty where others hold lists."""
    inner = [Row([5], 1, [6], [6], extra={"x": 1}), Row([5, 4], 0, [6], [-100], extra={"x": 2})]
    rows = [
        Row([1], 2, [3, 4], [-100, 4], extra={"k": 7, "flat": [1, 2], "deep": [[1], [2, 3]], "row": inner[0]}),
        Row([1, 2], 0, [3], [3], extra={"k": 8, "flat": [], "deep": [], "row": inner[1]}),
    ]
    batch = data.collate(rows)
    assert batch.prefix.tolist() == [[1, 0], [1, 2]] and batch.prefix_len.tolist() == [1, 2]
    assert batch.n.tolist() == [2, 0] and batch.suffix.tolist() == [[3, 4], [3, 0]]
    assert batch.labels.tolist() == [[-100, 4], [3, -100]]
    assert batch.extra["k"].tolist() == [7, 8] and batch.extra["flat"].tolist() == [[1, 2], [-1, -1]]
    assert batch.extra["deep"].tolist() == [[[1, -1], [2, 3]], [[-1, -1], [-1, -1]]]
    assert batch.extra["row"].prefix.tolist() == [[5, 0], [5, 4]] and batch.extra["row"].extra["x"].tolist() == [1, 2]
    for deep, shape in (([], []), (2, 0)), (([[]], [[], []]), (2, 2, 0)), (([[[1]]], []), (2, 1, 1, 1)):
        assert data.collate([Row([1], 0, [1], [1], extra={"deep": each}) for each in deep]).extra["deep"].shape == shape


# ---------------------------------------------------------------- what is scored


class WithLength(Objective):
    """As a method's file would have it: one loss more, the mean square of the states that thoughts come from."""

    weights = {"length": 0.5, "unused": 0.0}

    def counts(self, batch):
        return super().counts(batch) | {"length": batch.n.sum()}

    def losses(self, thinking, batch):
        own = torch.arange(thinking.fed.size(1)) < thinking.n[:, None]  # a row's own thoughts
        return super().losses(thinking, batch) | {"length": thinking.fed[own].square().mean(-1).sum(), "unused": None}


def test_a_method_brings_its_losses_along():
    """Catches a weight that is given in vain, and a loss that weighs nothing but is trained all the same."""
    cfg, tok, _ = words()

    def weights(*losses):
        return WithLength(None, change(cfg, losses=losses), tok).weights

    assert weights() == {"ce": 1, "length": 0.5}
    assert weights("length:2") == {"ce": 1, "length": 2} and weights("length") == {"ce": 1, "length": 1}
    assert weights("ce:0.5", "unused:3", "length:0") == {"ce": 0.5, "unused": 3}
    for wrong, said in (
        ("lenght:2", "with a name of ce, length, unused, a weight of"),
        ("ce:-1", "at least 0"),
        ("ce:x", "at least 0"),
    ):
        with pytest.raises(UserError, match=said):
            weights(wrong)


def test_losses_of_micro_batches_add_up():
    """Catches a mean of means where several losses have counts of their own."""
    cfg, tok, problem = words(n_embd=24, n_head=3, grad_clip=1.0)
    rows, seen = [row_for(problem, stage, cfg, tok) for stage in (0, 1, 1, 2, 3)], []
    for size in (0, 1, 2, 3):
        torch.manual_seed(0)
        model = curriculum.make_model(new_base(cfg, tok), cfg, tok).double()
        objective = WithLength(model, cfg, tok)
        optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
        found = train_step(objective, optimizer, rows, change(cfg, micro_batch_size=size))
        assert found["loss"].item() == pytest.approx((found["ce"] + 0.5 * found["length"]).item())
        seen.append(torch.cat([found["loss"][None], *(p.flatten() for p in objective.parameters())]))
    assert all((each - seen[0]).abs().max() < 1e-12 for each in seen)


# ---------------------------------------------------------------- what is said of a stage


@pytest.mark.parametrize(
    "settings, stage, said",
    [
        ({}, 0, "a b <bot> <eot> [c d e f = g]"),
        ({}, 1, "a b <bot> · <eot> [d e f = g]"),
        ({}, 3, "a b <bot> · · <eot> [= g]"),
        ({"peek": True}, 1, "a b <bot> · <eot> [d e f = g]"),
        ({"markers": "none", "c_thought": 2}, 1, "a b · · [d e f = g]"),
        ({"method": "pause"}, 3, "a b <pause> <pause> [= g]"),
        ({"method": "pause_as_thought"}, 1, "a b <bot> <pause> <eot> [d e f = g]"),
        ({"method": "icot", "icot_tokens": 1}, 1, "a b [d e f = g]"),
        ({"step_format": "{}\n", "question_format": " {}\n"}, 1, "a b <bot> · <eot> [d e f = g]"),
    ],
)
def test_a_stage_begins_with_its_row(settings, stage, said):
    """Catches what is said of a stage and is not what is trained: thoughts, markers, what is scored."""
    cfg, tok, problem = words(**settings)
    assert evaluate.show_row(row_for(problem, stage, cfg, tok), tok) == said


def test_a_long_row_is_shown_on_one_line():
    """Catches a question, or steps, that push the thoughts out of sight."""
    cfg, tok, problem = words()
    row = row_for(problem, 1, cfg, tok)
    question, answer = row.prefix[:1] * 500, row.suffix[-3:]
    long = evaluate.show_row(row._replace(prefix=question + row.prefix), tok)
    assert len(long) <= 118 and re.fullmatch(r"[a ]+ \.\.\. [a ]+b <bot> · <eot> \[d e f = g\]", long)
    more = row.suffix[:1] + row.suffix[1:2] * 300 + answer
    long = evaluate.show_row(row._replace(prefix=question + row.prefix, suffix=more, labels=[-100, *more[1:]]), tok)
    assert len(long) <= 118 and re.fullmatch(r"a [a ]+\.\.\. [a ]+b <bot> · <eot> \[d .*\.\.\. .* = g\]", long)


ODD = '''
"""Odd steps are thought, even ones are written."""

from curriculum import count, make_prompt, write_row

base = "no_curriculum"


def change_row(row, problem, stage, cfg, tok, rng=None):
    thought, written = problem.steps[::2], sum(problem.steps[1::2], [])
    return write_row(make_prompt(problem.question, len(thought), cfg, tok), written + problem.answer, thought, cfg)
'''


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A method of one's own, in a folder of one's own."""
    (tmp_path / "odd.py").write_text(ODD)
    import methods

    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(
        curriculum, "upstairs", lambda folder, name, **known: importlib.import_module(f"{folder}.{name}")
    )
    yield
    sys.modules.pop("methods.odd", None)
    curriculum.methods_of.cache_clear()
    curriculum.kind_of.cache_clear()


def test_a_method_with_rows_of_its_own_is_told_of_as_it_is(odd, tmp_path, monkeypatch, capsys):
    """Catches a description, a table of results, an evaluation or a sample that follows from anything but the rows."""
    run, said = live("odd", tmp_path, monkeypatch, capsys)
    stage = "odd, a single stage: 2 thoughts in place of 2 of 4 steps"
    assert said.count(stage) == 4, "two runs, one of which was taken up twice"
    assert len(re.findall(r"\n  .* start . <bot> · · <eot> \[\w \w = \w\]\n", said)) == 4
    assert "going on after step 3" in said and "2.0 thoughts each" in said
    assert "thought 2" in said and "thought 3" not in said
    evaluate.show_results(run)
    (line,) = capsys.readouterr().out.strip().splitlines()[1:]
    assert line.split()[1:3] == ["2.0", "2.0"], "thoughts, and steps written"


# ---------------------------------------------------------------- all of it


@pytest.mark.parametrize("method", curriculum.TABLE_1)
def test_each_row_of_table_1_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    _, said = live(method, tmp_path, monkeypatch, capsys, "--icot_tokens=1", "--uniform_prob=0.3")
    thinks = curriculum.TABLE_1[method].instead == "thought"
    assert ("thought 3" in said) == thinks and ("3.0 thoughts each" in said) == thinks
    single = "16 steps, as many as the curriculum's 5 stages have together" in said  # 4 + 4 * 3
    assert single == (curriculum.TABLE_1[method].stages in ("first", "last")) and "losses: " not in said


@pytest.mark.parametrize("feedback", ["vector", "last+vector", "layer:-2", "gate", "projection:0.1", "fusion"])
def test_each_feedback_is_trained_resumed_evaluated_and_sampled(feedback, tmp_path, monkeypatch, capsys):
    run, said = live("coconut", tmp_path, monkeypatch, capsys, f"--feedback={feedback}")
    assert "thought 3" in said and torch.load(run.best)["config"]["feedback"] == feedback
