"""Thoughts that are told what to hold, a set of tokens, and the true thoughts that can be given for a start."""

import itertools

import numpy as np
import pytest
import torch
from helpers import FORMATS, live, run_to_the_end, words

import curriculum
import data
import sample
import train
from checkpoint import new_base
from config import UserError
from curriculum import Row
from methods import sets
from tasks import prosqa
from tasks.graphs import without
from test_latent import assert_close, assert_same_gradients, embeddings, naive_gpt
from tokenizer import make_tokenizer

NONE, ANY = [sets.EMPTY], []
GRAPHS = [[8, 9, 10, 11], [8, 9, 10, 11], [12, 13], [12, 13]]  # what each row's question begins with
ROWS = [  # two questions about each of two graphs; thoughts for which some sets are empty, or anything will do
    Row([8, 9, 10, 11, 1, 2], 2, [3, 4], [-100, 4], extra={"targets": [[5, 6], [7], ANY]}),
    Row([8, 9, 10, 11, 2], 2, [3, 5], [-100, 5], extra={"targets": [[5], NONE, [6, 7, 8]]}),
    Row([12, 13, 1, 3, 2], 1, [4], [4], extra={"targets": [[9], ANY]}),
    Row([12, 13, 1, 3], 0, [4], [4], extra={"targets": [ANY]}),
]
LOSSES = "ce", "sets", "members"


def with_extra(rows, **extra):
    return [row._replace(extra=row.extra | extra) for row in rows]


def shared():
    """ROWS whose graphs are read once for both questions."""
    rows = [without(row, len(graph)) for row, graph in zip(ROWS, GRAPHS)]
    return [row._replace(extra=row.extra | {"shared": graph, "graph": len(graph)}) for row, graph in zip(rows, GRAPHS)]


def naive_losses(model, rows, true_thoughts, soft):
    """Sums over all states of: cross-entropy to the uniform distribution over the set; of memberships."""
    shares, memberships, E = 0, 0, embeddings(model)
    for row in rows:
        x = E[row.prefix]
        for i, tokens in enumerate(row.extra["targets"]):
            h = naive_gpt(model, x)[-1]
            members = torch.zeros(len(E), dtype=h.dtype)
            if tokens not in (NONE, ANY):
                members[tokens] = 1
                shares = shares - (h @ E.T).log_softmax(-1)[tokens].mean()
            if tokens != ANY:
                p = (h @ E.T - 4).sigmoid()
                memberships = memberships - (members * p.log() + (1 - members) * (1 - p).log()).sum()
            if i < row.n:
                mean = members / max(1, members.sum()) if soft else members
                thought = mean @ E if true_thoughts else model.feedback([h[None, None]], model, i)[0, 0]
                x = torch.cat((x, thought[None]))
    return {"sets": shares, "members": memberships}


@pytest.mark.parametrize(
    "feedback, given", [("last", -1), ("soft", -1), ("members", -1), ("last", 0), ("soft", 0), ("members", 0)]
)
def test_losses_equal_the_naive_recomputation(feedback, given, tiny):
    """Catches a target at the wrong state, an empty set that counts as none, a graph that is read for another row."""
    objective = tiny("coconut+sets", feedback=feedback, losses=("members:1",), task="graphs", names=r"\d")
    expected = naive_losses(objective.model, ROWS, given == 0, feedback == "soft")
    for rows in ROWS, shared():
        batch = data.collate(with_extra(rows, rounds=given))
        assert {name: int(n) for name, n in objective.counts(batch).items()} == {"ce": 4, "sets": 5, "members": 6}
        found = objective(batch)
        for name, total in expected.items():
            assert_close(found[name], total, 1e-10)
            assert_same_gradients(objective.model, found[name], total)


@pytest.mark.parametrize("feedback", ["last", "members", "layer:-2", "last+vector"])
def test_given_thoughts_become_the_models_own_round_by_round(feedback, tiny):
    """Catches a thought that is fed back from the wrong place, or not at all."""
    objective = tiny("coconut+sets", feedback=feedback, losses=("members:1",))
    own, none, one, two = (objective(data.collate(with_extra(ROWS, rounds=given))) for given in (-1, 0, 1, 2))
    for name in LOSSES:  # no row has more than two thoughts
        assert_close(two[name], own[name], 1e-10)
        assert_same_gradients(objective.model, two[name], own[name])
        assert len({none[name].item(), one[name].item(), two[name].item()}) == 3


def test_its_losses_in_bfloat16(tiny):
    """Catches a sum or a logarithm in bfloat16, whose last digit is a 128th."""
    objective, batch = tiny("coconut+sets", dtype=torch.float32, losses=("members:1",)), data.collate(ROWS)
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch)
    for name, total in found.items():
        assert total.dtype == torch.float32 and total.item() == pytest.approx(exact[name].item(), rel=0.02), name


def test_only_what_weighs_something_is_computed(tiny):
    assert tiny("coconut+sets")(data.collate(ROWS)).keys() == {"ce", "sets"}
    assert tiny("coconut+sets", losses=("sets:0",))(data.collate(ROWS)).keys() == {"ce"}


def spell(targets, tok):
    """ "-" for a state that may predict anything, "0" for an empty set."""
    named = ["".join("0" if t < 0 else tok.decode([t]).strip() for t in sorted(tokens)) for tokens in targets]
    return " ".join(name or "-" for name in named)


@pytest.mark.parametrize(
    "thought_targets, c, stage, expected",
    [
        ("steps", 2, 2, "c - d - f"),
        ("tokens", 2, 2, "- c - d e"),
        ("tokens", 3, 2, "- c - - d e -"),
        # the last state has nothing to say about steps that are gone
        ("steps", 1, 0, "c"),
        ("steps", 1, 1, "c d"),
        ("steps", 1, 2, "c d f"),
        ("steps", 1, 3, "c d -"),
    ],
)
def test_what_thoughts_should_say(thought_targets, c, stage, expected):
    """Catches a token at the state before its thought, a step that runs into the next one's thoughts."""
    cfg, tok, problem = words(method="coconut+sets", thought_targets=thought_targets, c_thought=c)
    row = curriculum.row_for(problem, stage, cfg, tok)
    assert spell(row.extra["targets"], tok) == expected and len(row.extra["targets"]) == row.n + 1


def test_walks_are_the_sets_of_a_search():
    """Catches a set that is one step ahead, and a walk that has come to its end but is asked for nothing."""
    question = "1 2 1 3 2 4 3 5 4 6 to 6 or 5 from 1"
    raw = [{"question": question, "steps": ["2", "4", "6"], "answer": "6"}]
    settings = {"method": "no_curriculum+sets", "tokenizer": "words", "thought_targets": "walks", "task": "graphs",
                "names": r" \d+", "max_latent_stage": 4, "pad_latent_to_max": True, **FORMATS}  # fmt: skip
    cfg = curriculum.config_class(settings)(**settings)
    tok = make_tokenizer("words", data.find_pieces(raw, cfg))
    row = curriculum.row_for(data.encode(raw, cfg, tok)[0], 5, cfg, tok)
    assert row.n == 4 and spell(row.extra["targets"], tok) == "23 45 6 0 -"


@pytest.mark.parametrize(
    "thought_targets, c, expected", [("tokens", 3, {1: "c", 4: "d", 5: "e"}), ("steps", 2, {1: "c", 3: "d", 5: "f"})]
)
def test_hits_have_the_numbers_of_their_thoughts(thought_targets, c, expected):
    """Catches thoughts that are counted without those that may be anything."""
    cfg, tok, problem = words(method="coconut+sets", thought_targets=thought_targets, c_thought=c)
    torch.manual_seed(0)
    model = curriculum.make_model(new_base(cfg, tok), cfg, tok)
    batch = data.collate([curriculum.row_for(problem, 2, cfg, tok)])
    with torch.no_grad():
        top = model.head(model.think(*batch[:4]).states)[0].argmax(-1).tolist()
    wanted = {k: tok.encode_ordinary(f" {text}")[0] for k, text in expected.items()}
    right = {f"thought_{k}": float(top[k - (thought_targets == "steps")] == t) for k, t in wanted.items()}
    assert sets.measure(model, [problem], 2, cfg, tok) == right


def test_what_is_drawn_holds_for_all_rows_of_a_step():
    """Catches rows of one step that are given other thoughts, rounds that never come, a phase that has another's."""
    settings = dict(method="coconut+sets", teacher_forcing=(1.0, 0.5), rounds=(0, 2))
    cfg, drawn = curriculum.config_class(settings)(**settings), [[], []]
    for index, step in itertools.product((0, 1), range(300)):
        drawn[index].append(sets.draw(cfg, index, np.random.default_rng((index, step)))["rounds"])
    assert {*drawn[0]} == {0} and {*drawn[1]} == {-1, 0, 1, 2}
    assert 120 < drawn[1].count(-1) < 180
    cfg, tok, problem = words(**settings)
    task = curriculum.make_task(cfg, tok)
    rows = data.training_rows([problem] * 4, [(i, 1) for i in range(4)], 1, cfg, task, np.random.default_rng(0))
    assert len({row.extra["rounds"] for row in rows}) == 1 and len(rows) == 4
    assert "rounds" not in curriculum.row_for(problem, 1, cfg, tok).extra, "nothing is given in an evaluation"


def test_without_thoughts_there_is_nothing_to_tell():
    cfg, tok, problem = words(method="coconut+sets", c_thought=0)
    with pytest.raises(UserError, match="the method sets is for thoughts, but c_thought=0"):
        curriculum.row_for(problem, 1, cfg, tok)


@pytest.mark.parametrize(
    "method, thought_targets",
    [
        ("coconut+sets", "steps"),
        ("coconut+sets", "tokens"),  # in stage 0 no state is asked for anything
        ("sets+seq_vcr", "steps"),
        ("simcot+sets", "tokens"),
        ("lotus+sets", "tokens"),
    ],
)
def test_it_is_trained_resumed_evaluated_and_sampled(method, thought_targets, tmp_path, monkeypatch, capsys):
    more = [f"--thought_targets={thought_targets}", "--losses=members:1", "--teacher_forcing=0.5", "--rounds=1"]
    live(method, tmp_path, monkeypatch, capsys, *more)


SEARCH = """--question_format= {} --step_format= {} --answer_format= = {} --task=graphs --names=[ ]\\d+ --questions=3
    --method=no_curriculum+sets --max_latent_stage=3 --pad_latent_to_max --markers=eot --thought_targets=walks
    --losses=ce:3,members:1 --init=induction --block_size=99 --n_layer=2 --n_head=2 --n_embd=16 --batch_size=2
    --eval_every=4 --teacher_forcing=1,1,0.5 --steps=9,5,8 --rounds=0,2 --device=cpu --log_every=3""".split("--")


@pytest.mark.parametrize("feedback", ["members", "last"])
def test_a_search_is_trained_evaluated_resumed_and_sampled(feedback, tmp_path, monkeypatch, capsys):
    """Catches a supervised thought, a graph shared by questions or a phase of teacher forcing that works only once."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--nodes=7,8", "--hops=2,3", "--valid=9", "--test=9", "--symbols"]
    prosqa.main(["--generate=40", *sizes, "--out_dir=data/small"])
    prosqa.main(["--generate=30", "--chains", "--hops=2,3", *sizes[2:], "--out_dir=data/chains"])
    flags = [f"--{flag.rstrip()}" for flag in SEARCH[1:]]
    flags += ["--data_dir=data/chains,data/small,data/small", f"--feedback={feedback}"]
    whole = run_to_the_end([*flags, "--out_dir=out/whole"])
    assert whole.lengths == [9, 5, 8] and len(whole.problems["train"]) == 40
    said = capsys.readouterr().out
    assert "thoughts " in said and said.count("3 thoughts in place of") == 3
    assert all(f"data/{name}: 3 thoughts in" in said for name in ("chains", "small"))
    parts = run_to_the_end([*flags, "--out_dir=out/parts"], stop_at=(4, 11, 20))
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), parts.model.parameters()))
    assert open("out/whole/log.txt").read() == open("out/parts/log.txt").read()
    train.main(["--eval_only=out/parts/best.pt"])
    sample.main(["--out_dir=out/parts", "--count=1"])
    assert "thought 3" in capsys.readouterr().out
    on = [*flags, "--out_dir=out/on", "--init_from=out/parts/best.pt", "--feedback=soft", "--micro_batch_size=4"]
    run_to_the_end(on)
    assert f"was trained to think with feedback={feedback}, and goes on with soft" in capsys.readouterr().out
