"""
What a problem becomes for each method and stage: rows, prompts, stages, tokens, order, batches.

The model has no part in this: it is tested in test_latent.py.
"""

import dataclasses
import inspect
import json
import math
import os
import re

import numpy as np
import pytest
import torch
from helpers import FORMATS, HERE, PROBLEM, spell, words

import batches
import curriculum
import data
import evaluate
import feedback
import losses
import prepare_gsm8k
import prepare_hops
from checkpoint import new_model
from config import UserError, parse
from curriculum import Row
from run import Run
from settings import TrainConfig
from tasks import graphs
from tokenizer import SPECIALS, make_tokenizer


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
        ({"remove_from": "back"}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({"remove_from": "back"}, 1, " a b c d e <bot> | 1 | [<eot>] = g <eos>"),
        ({"remove_from": "back"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        # every other row of the paper's table 1, at each stage that it has
        ({"method": "cot"}, 0, " a b | 0 | c d e f = g <eos>"),
        ({"method": "no_cot"}, 3, " a b | 0 | = g <eos>"),
        ({"method": "pause"}, 3, " a b <pause> <pause> | 0 | = g <eos>"),
        ({"method": "pccot"}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        ({"method": "lotus", "c_thought": 3}, 3, " a b <bot> | 6 | [<eot>] = g <eos>"),
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
    assert spell(curriculum.make_row(problem, stage, cfg, tok), tok) == expected


def test_icot_removes_some_more_tokens_now_and_then():
    """Catches an offset that is not drawn by P(o) = (1 - e^-4) e^-4o, in evaluation too, or at the last stage."""
    cfg, tok, problem = words(method="icot", icot_tokens=1)
    rng, size = np.random.default_rng(0), 20_000
    lengths = [len(curriculum.make_row(problem, 0, cfg, tok, rng)[2]) for _ in range(size)]
    assert set(lengths) >= {7, 6, 5}  # c d e f = g <eos>, and what is left after one or two more
    assert abs(lengths.count(6) / size - (1 - math.exp(-4)) * math.exp(-4)) < 0.003
    assert spell(curriculum.make_row(problem, 2, cfg, tok, rng), tok) == " a b | 0 | = g <eos>"


GRAPH = {"question": "1 2 1 3 2 4 3 5 4 6 to 6 or 5 from 1", "steps": ["2", "4", "6"], "answer": "6"}


def graph_words(**settings):
    cfg = TrainConfig(tokenizer="words", max_latent_stage=3, names=r" \d+", **FORMATS, **settings)
    tok = make_tokenizer("words", data.find_pieces([GRAPH], cfg))
    return cfg, tok, data.encode([GRAPH], cfg, tok)[0]


def test_augmenting_keeps_the_graph():
    """Catches a renaming that is not one-to-one, edges torn apart, and an order or names that never change."""
    cfg, tok, problem = graph_words()
    texts, rng = set(), np.random.default_rng(0)
    for _ in range(50):
        question, steps, answer = graphs.augment(problem, cfg, tok, rng)
        edges, _, asked = graphs.read_graph(question, cfg, tok)
        end, other, start = (tok.decode([t]) for t in asked[[1, 3, 5]])
        (two,), (four,), (six,) = steps
        one = int(asked[5])
        (three,) = {b for a, b in edges.tolist() if a == one} - {two}
        five = int(asked[3])
        assert {(one, two), (one, three), (two, four), (three, five), (four, six)} == set(map(tuple, edges.tolist()))
        assert len({one, two, three, four, five, six}) == 6
        assert tok.decode(asked.tolist()) == f" to{end} or{other} from{start}"
        assert tok.decode(answer[:-1]) == " =" + end and answer[-1] == problem.answer[-1]
        texts.add(tok.decode(question))
    assert len(texts) == 50


def test_peek_scores_the_place_before_eot_with_what_comes_after_it():
    cfg, tok, problem = words(peek=True)
    _, _, suffix, labels, *_ = curriculum.make_row(problem, 1, cfg, tok)
    assert labels[0] == suffix[1] and labels[1:] == suffix[1:]
    assert curriculum.split(problem, 1, cfg, tok)[0][2] == suffix[:1]  # and <eot> is still what the model is given


def test_what_thoughts_should_say():
    """Catches a token at the state before its thought, a step that runs into the next one's thoughts."""
    for settings, expected in (
        ({"thought_targets": "steps"}, ["c", None, "d", None, "f"]),
        ({"thought_targets": "tokens"}, [None, "c", None, "d", "e"]),
        ({"method": "lotus"}, [None, "c", None, "d", "e"]),
        ({"method": "lotus", "c_thought": 1}, [None, "c", "d"]),
    ):
        cfg, tok, problem = words(**{"c_thought": 2, **settings})
        targets = curriculum.make_row(problem, 2, cfg, tok).targets
        assert [found and "".join(map(tok.decode, [found])).strip() for found in targets] == expected


def test_pondering_may_end_wherever_an_evaluation_lets_it_end():
    """Catches a short problem that is cut off at its own steps in training, and so never learns to stop there."""
    cfg, tok, problem = words(stop="ponder", max_latent_stage=5)
    short = problem._replace(steps=problem.steps[:1])
    for stage in range(6):
        assert curriculum.make_row(short, stage, cfg, tok).n == evaluate.most_thoughts(stage, cfg) == stage


@pytest.mark.parametrize("remove_from", ["front", "back"])
@pytest.mark.parametrize("stage", range(4))
def test_the_last_state_has_nothing_to_say_about_steps_that_are_gone(stage, remove_from):
    """Catches a step that no thought stands for, asked of a state that has the answer to say: c and f for one place."""
    cfg, tok, problem = words(thought_targets="steps", max_latent_stage=2, markers="none", remove_from=remove_from)
    _, n, suffix, labels, *_, targets, _, _, _, _ = curriculum.make_row(problem, stage, cfg, tok)
    said = [found and tok.decode(found).strip() for found in targets]
    stands_for = {"front": ["c", "d"], "back": [["f"], ["d", "f"], ["c", "d"]][max(0, stage - 1)]}[remove_from]
    assert said[:n] == stands_for[:n] and len(said) == n + 1
    assert said[n] == (tok.decode(labels[:1]).strip() if remove_from == "front" and stage < 3 else None)


@pytest.mark.parametrize(
    "targets, c, expected", [("tokens", 3, {1: "c", 4: "d", 5: "e"}), ("steps", 2, {1: "c", 3: "d", 5: "f"})]
)
def test_hits_have_the_numbers_of_their_thoughts(targets, c, expected):
    """Catches thoughts that are counted without those that may be anything."""
    cfg, tok, problem = words(thought_targets=targets, c_thought=c)
    model = new_model(cfg, tok)
    hits = evaluate.thought_hits(model, [problem], 2, cfg, tok)
    row = curriculum.make_row(problem, 2, cfg, tok)
    batch = batches.collate([row])
    with torch.no_grad():
        top = model.head(model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix).states)[0].argmax(-1)
    at = {k: k - (targets == "steps") for k in expected}
    assert {k: row.targets[i] for k, i in at.items()} == {k: tok.encode_ordinary(f" {t}") for k, t in expected.items()}
    assert hits == {k: float(top[at[k]] == row.targets[at[k]][0]) for k in expected}


def test_a_method_brings_its_losses_and_settings_along():
    """Catches a weight that is given in vain, a default that wins over what was given, a loss that is there twice."""

    def found(**settings):
        cfg = TrainConfig(**settings)
        return cfg.passes, cfg.in_place, cfg.thought_targets, losses.parse_losses(losses.trained_on(cfg))

    lotus = {"ce": 1, "thoughts": 0.05}
    assert found(method="lotus") == (6, True, "tokens", lotus)
    assert found(method="lotus", passes=2, losses=("thoughts:0.2", "ce")) == (
        2,
        True,
        "tokens",
        lotus | {"thoughts": 0.2},
    )
    assert found(method="simcot") == (0, False, "", {"ce": 1, "decoder": 1})
    assert found(method="simcot", decoder="head") == (0, False, "steps", {"ce": 1, "thoughts": 1})
    codi = {"ce": 1, "teacher": 1, "distance": 20}
    assert found(method="codi", losses=("ce", "distance:20")) == (0, False, "", codi)
    assert found(method="codi", losses=("distance:20",)) == (0, False, "", codi)
    assert found(method="simcot", decoder="head", losses=("decoder:0.5",)) == (
        0,
        False,
        "steps",
        {"ce": 1, "thoughts": 0.5},
    )
    assert found(method="lotus", in_place=False, passes=0)[:2] == (0, False), "what was given, wins"
    assert found(method="coconut", losses=("ce:2",)) == (0, False, "", {"ce": 2})
    assert found(stop="classifier", losses=("ce", "stop:0.5"))[3] == {"ce": 1, "stop": 0.5}
    assert found(stop="classifier")[3] == {"ce": 1, "stop": 1}
    assert found(stop="ponder", losses=("ce:2",))[3] == {"ponder": 2}
    assert found(stop="ponder", losses=("seq_vcr",))[3] == {"ponder": 1, "seq_vcr": 1}


def test_a_model_that_may_stop_needs_room_for_all_thoughts(tmp_path):
    """Catches a check of lengths that counts the thoughts of training, where an evaluation gives more."""
    cfg, tok, _ = words(max_latent_stage=6)
    with open(tmp_path / "train.json", "w") as f:
        json.dump([{"question": "a b", "steps": ["c"], "answer": "f"}], f)
    for stop, fits in ("", 8), ("classifier", 13):  # a b bot, thoughts, eot = f eos
        for block_size in (fits - 1, fits):
            cfg = dataclasses.replace(cfg, stop=stop, block_size=block_size)
            try:
                data.load(str(tmp_path / "train.json"), cfg, tok, [" a", " b", " c", " d", " e", " f", " g", " ="])
                assert block_size == fits
            except UserError as e:
                assert block_size == fits - 1 and "too long" in str(e)


def test_what_groups_of_thoughts_stand_for():
    """Catches steps that nobody decodes, thoughts of a short problem that stand for another's steps."""
    for settings, stage, expected in (
        ({}, 0, []),
        ({}, 1, ["c"]),
        ({}, 2, ["c", "d e"]),
        ({}, 3, ["c", "d e f"]),
        ({"max_latent_stage": 5}, 5, ["c", "d e", "f"]),
        ({"max_latent_stage": 5, "pad_latent_to_max": True}, 5, ["c", "d e", "f", "", ""]),
        ({"remove_from": "back"}, 2, ["d e", "f"]),
        ({"c_thought": 0}, 2, []),
        ({"decoder": "head"}, 2, []),
    ):
        cfg, tok, problem = words(**{"method": "simcot", "c_thought": 2, **settings})
        row = curriculum.make_row(problem, stage, cfg, tok)
        assert [tok.decode(text).strip() for text in row.steps] == expected
        assert cfg.decoder == "head" or row.n == 2 * len(expected)


@pytest.mark.parametrize("kind", ["words", "chars"])
def test_the_teacher_writes_all_but_the_last_step(kind):
    """Catches a last step that says the answer, a teacher without question, states that are not at the same token."""
    for format, mark, settings, teacher in (
        (" = {}", "=", {}, "a b c d e = g"),
        (" the answer is: {}", ":", {}, "a b c d e the answer is: g"),
        (" = {}", "=", {"teacher_writes": "all", "method": "pccot"}, "a b c d e f = g"),
        (" = {}", "=", {"method": "coconut", "losses": ("ce", "teacher")}, "a b c d e = g"),
    ):
        cfg = TrainConfig(
            tokenizer=kind, **{**FORMATS, "max_latent_stage": 2, "method": "codi", "answer_format": format, **settings}
        )
        tok = make_tokenizer(kind, data.find_pieces([PROBLEM], cfg))
        problem = data.encode([PROBLEM], cfg, tok)[0]
        row = curriculum.make_row(problem, 3, cfg, tok)
        for of, text in (row, None), (row.teacher, teacher):
            assert text is None or tok.decode(of.prefix + of.suffix[:-1]).strip() == text
            assert tok.decode(of.suffix[: of.answer]).rstrip().endswith(mark) and of.answer > 0
            assert tok.decode(of.suffix[of.answer : -1]).strip() == "g"
        assert row.teacher.n == 0 and row.teacher.labels == row.teacher.suffix and row.suffix[-1] == problem.answer[-1]
    assert curriculum.make_row(problem, 3, dataclasses.replace(cfg, losses=("ce",)), tok).teacher is None


def test_the_page_of_methods_names_all_of_them():
    """Catches a method, a feedback or a loss that docs/methods.md does not know, or whose lines it counts wrongly."""
    with open(os.path.join(HERE, "docs", "methods.md"), encoding="utf-8") as f:
        parts = {part.partition("\n")[0]: part for part in f.read().split("\n## ")}
    for title, names in (("Methods", curriculum.METHODS), ("Losses", losses.LOSSES),
                         ("Feedbacks", {**feedback.FEEDBACKS, **feedback.MODULES})):  # fmt: skip
        rows = [[cell.strip() for cell in line.split("|")] for line in parts[title].splitlines() if line[:3] == "| `"]
        found = {row[1].strip("`").partition(":")[0]: row for row in rows}
        found = {name: row for name, row in found.items() if name not in ("--method=", "steps", "tokens", "walks")}
        assert found.keys() == names.keys()
        for name, row in found.items() if title != "Methods" else ():
            made_by = losses.LOSSES[name].total if title == "Losses" else names[name]
            if row[-3]:
                assert int(row[-3]) == len(inspect.getsource(made_by).splitlines()), name


def test_stages_of_each_method():
    """Catches a final stage that is forgotten (steps remain) or superfluous (none do)."""
    for method, longest, expected in (
        ("coconut", 2, [0, 1, 2]), ("coconut", 3, [0, 1, 2, 3]), ("pause_as_thought", 3, [0, 1, 2, 3]),
        ("cot", 3, [0]), ("no_cot", 3, [3]),
    ):  # fmt: skip
        assert curriculum.stages(TrainConfig(method=method, max_latent_stage=2), longest)[0] == expected


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
            return batches.epoch_order(problems, 2, batches.random_stream(batches.ORDER, cfg, index, epoch), cfg)

        first = order(2, 5)
        torch.manual_seed(5)
        assert first == order(2, 5)
        assert sorted(i for i, _ in first) == list(range(2000))
        others = order(3, 5), order(2, 6), order(2, 5, dataclasses.replace(cfg, seed=2))
        assert all([i for i, _ in first] != [i for i, _ in other] for other in others)
        share = [sum(stage == s for _, stage in first) / 2000 for s in range(4)]
        assert all(abs(x - y) < 0.04 for x, y in zip(share, (0.1, 0.1, 0.7, 0.1)))


@pytest.mark.parametrize("window", [1, 7])
def test_mixing_draws_stages_as_it_says(window):
    """Catches stages that are later than the present one, weights off by one, and a mixing where there is none."""
    problems = some_problems([[3] * 6] * 6000)

    def shares(stage, **settings):
        cfg = TrainConfig(sort_window=window, batch_size=32, **settings)
        order = batches.epoch_order(problems, stage, np.random.default_rng(3), cfg)
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
        lengths = np.array(
            [(len(prefix), n, len(suffix)) for prefix, n, suffix, *_ in rows[start : start + batch_size]]
        )
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
    tok = make_tokenizer("gpt2")
    problems = data.encode(prepare_gsm8k.read_lines(path, prepare_gsm8k.parse_openai), cfg, tok)

    def rows(cfg):
        order = batches.epoch_order(problems, stage, np.random.default_rng(1), cfg)
        return [curriculum.make_row(problems[i], k, cfg, tok) for i, k in order]

    assert padding(rows(cfg), 32) <= 0.15 < 0.45 < padding(rows(dataclasses.replace(cfg, sort_window=1)), 32)


def test_micro_batches_keep_to_their_limits():
    """Catches rows that are lost, and micro-batches that are larger than what was asked for."""
    g = np.random.default_rng(0)
    rows = [Row([0] * g.integers(1, 50), int(g.integers(0, 6)), [i] * g.integers(1, 20), []) for i in range(200)]
    taught = [row._replace(teacher=row._replace(n=0, suffix=[0] * g.integers(20, 40))) for row in rows]
    for some, size, tokens in (rows, 0, 0), (rows, 16, 0), (rows, 0, 300), (rows, 3, 300), (taught, 0, 500):
        cfg = TrainConfig(micro_batch_size=size, micro_batch_tokens=tokens)
        parts = list(batches.micro_batches(some, cfg))
        assert sorted(row.suffix[0] for part in parts for row in part) == list(range(200))
        for part in parts:
            assert len(part) <= (cfg.micro_batch_size or 200)
            batch = batches.collate(part)
            read = [x for x in (batch, batch.teacher) if x]
            width = sum(x.prefix.size(1) + int(x.n.max()) + x.suffix.size(1) for x in read)
            assert not cfg.micro_batch_tokens or width * len(part) <= cfg.micro_batch_tokens
        assert len(parts) < 80 or cfg.micro_batch_size == 3


@pytest.mark.parametrize("sizes", [(8, 4), (8, 8, 4), (4, 8), (8, 8), (1, 3)])
def test_each_question_reads_its_own_graph(sizes):
    """Catches a micro-batch that ends among the questions about a graph: others would be asked about it."""
    shared = [[10 + i] * (i + 2) for i in range(len(sizes))]
    rows = [Row([i], 0, [1], [1], shared=shared[i]) for i, size in enumerate(sizes) for _ in range(size)]
    batch = batches.collate(rows)
    read = batch.shared.repeat_interleave(len(rows) // len(batch.shared), 0)  # as losses.py repeats the past
    assert len(read) == len(rows)
    assert read[:, 0].tolist() == [10 + row.prefix[0] for row in rows]


def test_single_stage_methods_train_as_long_as_the_curriculum():
    """Catches baselines that get more or fewer steps than the method that they are compared with."""
    here = HERE
    papers, single = [6, 3, 3, 3, 35], [50]
    for name, lengths in {"gsm8k": papers, "gsm8k_smollm2": papers, "gsm8k_qwen3": papers, "gsm8k_cot": single,
                          "gsm8k_no_cot": single}.items():  # fmt: skip
        run = Run.__new__(Run)  # the plan alone: the problems' numbers are all that it needs
        run.cfg = parse(
            TrainConfig, [os.path.join(here, "configs", f"{name}.py"), "--batch_size=1"], "", takes_file=True
        )
        run.all_problems = [
            {"train": data.Problems(np.zeros(8), np.arange(9), np.array([0, 8]))}
        ]  # one problem of six steps
        run.make_plan()
        assert run.lengths == lengths


def test_read_answer():
    cfg = TrainConfig()
    for text, answer in (
        ("<<1+1=2>>\n### 2", "2"),
        ("### 1\n### Tom is a cat. ", "Tom is a cat."),
        ("2", None),
        ("###", ""),
    ):
        assert evaluate.find_answer(text, cfg) == answer


def test_icot_removes_eight_tokens_an_epoch_up_to_39():
    """Catches stages that iCoT does not have, drawn by stage mixing, and a config that removes everything too soon."""
    cfg = parse(TrainConfig, [os.path.join(HERE, "configs", "gsm8k_icot.py")], "", takes_file=True)
    numbers, n = curriculum.stages(cfg, longest=8)
    assert numbers == [0, 1, 2, 3, 4, 5] and n == 6 and sum(cfg.epochs) == 50
    tok = make_tokenizer("words")
    problem = curriculum.Problem([1], [[7] * 10] * 8, [9])
    left = [curriculum.split(problem, stage, cfg, tok)[1].count(7) for stage in numbers]
    assert left == [80, 72, 64, 56, 48, 0]
    mixed = dataclasses.replace(cfg, uniform_prob=(1.0,), batch_size=32, sort_window=1)
    order = batches.epoch_order(some_problems([[3] * 10] * 500), 5, np.random.default_rng(1), mixed)
    drawn = {stage for _, stage in order}
    assert drawn == {0, 1, 2, 3, 4, 5}


def test_random_streams_are_different_ones():
    """Catches rows that are renamed by the very numbers that have ordered the epoch, where step equals epoch."""
    cfg = TrainConfig()
    streams = [
        batches.random_stream(purpose, cfg, 1, number).random()
        for purpose in (batches.ORDER, batches.ROWS)
        for number in range(9)
    ]
    assert len(set(streams)) == 18


SEPARATED = {
    "question": "1 2 | 1 3 | 2 4 | 3 5 | 4 6 | 7 8 | to 6 or 8 from 1",
    "steps": ["2", "4", "6"],
    "answer": "6",
}


def test_questions_about_the_same_graph_are_true():
    """Catches an end that is not below its root, another that is, and a way that is not one."""
    cfg = TrainConfig(tokenizer="words", max_latent_stage=3, names=r" \d+", questions=50, **FORMATS)
    tok = make_tokenizer("words", data.find_pieces([SEPARATED], cfg))
    (problem,) = data.encode([SEPARATED], cfg, tok)
    edges, separator, asked = graphs.read_graph(problem.question, cfg, tok)
    assert len(edges) == 6 and tok.decode(separator) == " |" and tok.decode(asked.tolist()) == " to 6 or 8 from 1"
    below, seen = {1: {2, 3, 4, 5, 6}, 2: {4, 6}, 3: {5}, 4: {6}, 7: {8}}, set()
    for question, steps, answer in graphs.more_questions(problem, 50, cfg, tok, np.random.default_rng(0)):
        text = tok.decode(question)
        assert text.startswith(tok.decode(problem.question[:18]))
        *_, first, _, second, _, root = text.split()
        end = tok.decode(answer[:-1]).removeprefix(" = ")
        (other,) = {first, second} - {end}
        assert int(end) in below[int(root)] and int(other) not in below[int(root)] and answer[-1] == problem.answer[-1]
        path = [int(root), *(int(tok.decode(step)) for step in steps)]
        assert path[-1] == int(end) and all(b in below[a] for a, b in zip(path, path[1:]))
        seen.add(root)
    assert seen == {"1", "2", "3", "4", "7"}
    assert graphs.walks(problem.question, 4, cfg, tok) == [
        [tok.encode_ordinary(f" {node}")[0] for node in level] for level in ((2, 3), (4, 5), (6,), ())
    ]


def encoded(raw, **settings):
    cfg = TrainConfig(tokenizer="words", max_latent_stage=3, **{**FORMATS, "names": r" \d+", **settings})
    tok = make_tokenizer("words", data.find_pieces([raw], cfg))
    return data.encode([raw], cfg, tok), cfg, tok


@pytest.mark.parametrize(
    "raw, settings, words",
    [
        ({}, {"step_format": "{}\n"}, "' 2' and '2' are two tokens for one node"),
        ({}, {"names": r" ?\d+", "question_format": "{}\n"}, "are two tokens for one node"),
        ({}, {"answer_format": "### ({})"}, "' 6' and '6' are two tokens for one node"),
        ({"question": "1 2 , 1 3 , 2 4 to 4 or 3 from 1"}, {}, "same after each edge, found ' ,' and ' to'"),
        ({"question": "1 2 a 1 3 b 2 4 a to 4 or 3 from 1"}, {}, "same after each edge, found ' a' and ' b'"),
        ({"question": "1 2 | 1 3 | 2 4 | from 1 to 3 or 4"}, {}, "root as the last name, but no edge leaves ' 4'"),
        ({"question": "1 2 | 1 3 | 2 4 | which ?"}, {}, "expected the root at the end"),
    ],
)
def test_graphs_that_could_not_be_renamed_are_refused(raw, settings, words):
    """Catches steps that keep their old names, words that are taken for separators, and roots that are none."""
    problems, cfg, tok = encoded({**SEPARATED, **raw}, **settings)
    with pytest.raises(UserError, match=re.escape(words)) as e:
        data.check_graphs(problems, cfg, tok, "train.json")
    assert str(e.value).startswith("train.json: example 0: ") and "\n" not in str(e.value)


def test_questions_about_the_same_graph_write_steps_as_the_file_does():
    """Catches drawn questions in another format than those that are evaluated, and ones with two right answers."""
    problems, cfg, tok = encoded(SEPARATED, step_format=" {} ;")
    data.check_graphs(problems, cfg, tok, "train.json")
    for made in graphs.more_questions(problems[0], 20, cfg, tok, np.random.default_rng(0)):
        assert made.steps and all(re.fullmatch(r" \d ;", tok.decode(step)) for step in made.steps)
    problems, cfg, tok = encoded({**SEPARATED, "steps": ["1 2", "2 4", "4 6"]})
    with pytest.raises(UserError, match="expected steps with one name each, found ' 1 2'"):
        graphs.more_questions(problems[0], 1, cfg, tok, np.random.default_rng(0))
    one_source = {**SEPARATED, "question": "1 2 | 1 3 | 2 4 | 3 5 | 4 6 | to 6 or 5 from 2"}
    problems, cfg, tok = encoded(one_source)
    for question, *_ in graphs.more_questions(problems[0], 50, cfg, tok, np.random.default_rng(0)):
        assert tok.decode(question[-1:]) != " 1"  # below which there is everything
    problems, cfg, tok = encoded({**SEPARATED, "question": "1 2 | 1 6 | to 6 or 2 from 1"})
    with pytest.raises(UserError, match="all nodes are below each root"):
        graphs.more_questions(problems[0], 1, cfg, tok, np.random.default_rng(0))


def test_a_drawn_question_that_does_not_fit_is_one_line():
    """Catches a traceback in the middle of training: the file's own questions are shorter."""
    short = {
        **SEPARATED,
        "question": "1 2 | 2 3 | 3 4 | 4 5 | 5 6 | 7 8 | to 2 or 8 from 1",
        "steps": ["2"],
        "answer": "2",
    }
    for settings in {"method": "cot"}, {"method": "codi", "c_thought": 0, "teacher_writes": "all"}:
        problems, cfg, tok = encoded(short, questions=9, block_size=31, **settings)
        with pytest.raises(UserError, match="drawn about example 0 takes 3[2-9] positions: raise block_size"):
            for _ in range(20):
                batches.training_rows(problems, [(0, 0)], cfg, tok, np.random.default_rng(0))


def test_rows_about_one_graph_share_its_edges():
    """Catches edges that are read twice, or a question that is cut in the wrong place."""
    cfg = TrainConfig(tokenizer="words", max_latent_stage=2, names=r" \d+", questions=4, method="codi",
                      markers="eot", thought_targets="walks", pad_latent_to_max=True, **FORMATS)  # fmt: skip
    tok = make_tokenizer("words", data.find_pieces([SEPARATED], cfg))
    rows = batches.training_rows(
        data.encode([SEPARATED], cfg, tok), [(0, 3), (0, 3)], cfg, tok, np.random.default_rng(0)
    )
    assert len(rows) == 8 and all(row.shared is rows[0].shared for row in rows[:4])
    assert all(len(row.shared) == 18 and len(row.prefix) == 6 and len(row.targets) == row.n + 1 for row in rows)
    assert all(row.teacher.prefix == row.prefix for row in rows)
    batch = batches.collate(rows)
    assert batch.shared.shape == (2, 18) and batch.prefix.shape == (8, 6) == batch.teacher.prefix.shape


def test_hops_of_mixed_length_say_how_many(tmp_path):
    """Catches a question that does not tell, a graph with an arrow from "go", and lengths that never come."""
    prepare_hops.main(["--hops=2,5", "--train=200", "--valid=20", "--test=20", f"--out_dir={tmp_path}"])
    problems = data.load_json(tmp_path / "train.json")
    for problem, graph in zip(problems, graphs.read_graphs(problems, "")):
        words = problem["question"].split()
        assert words[-4:-2] == ["go", str(len(problem["steps"]))] and "go" not in graph.successors
        assert len(graph.successors) == 10
    assert {len(problem["steps"]) for problem in problems} == {2, 3, 4, 5}
    for hops in ("5,2", "1,2,3"):
        with pytest.raises(UserError):
            prepare_hops.main([f"--hops={hops}"])
