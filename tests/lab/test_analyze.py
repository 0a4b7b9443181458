"""
Whether what is shown of thoughts is true: sample.py, analyze.py, plot.py.   python -m pytest tests/lab/test_analyze.py

The models are random or hardly trained: what is tested is the looking, not the thinking.
"""

import io
import json
import math
import os
import sys

import pytest
import torch
from helpers import HERE, hops_flags, run_to_the_end, words
from torch.nn import functional as F

import data
import prepare_hops
import sample
import train
from checkpoint import load_checkpoint, new_base
from coconut import Coconut
from config import TrainConfig, UserError
from curriculum import Task, make_model, make_prompt, row_for
from evaluate import solve
from lab import analyze, explore, plot, questions
from model import GPT, GPTConfig
from tasks import graphs
from tokenizer import make_tokenizer

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
OFFICIAL = os.path.join(HERE, "../shared/data/prosqa/prosqa_valid.json")

#   Tom -> lempus -> rompus (the target)      Sam -> zumpus -> sterpus (the wrong one)
#             `----> wumpus
#   Tom -> rempus -> yumpus -> rompus
NAMES = ["Tom", "Sam", "lempus", "rempus", "rompus", "yumpus", "wumpus", "zumpus", "sterpus"]
EDGES = [[0, 2], [0, 3], [2, 4], [2, 6], [3, 5], [5, 4], [1, 7], [7, 8]]
GRAPH = {"idx_to_symbol": NAMES, "edges": EDGES, "root": 0, "target": 4, "neg_target": 8}
SENTENCES = [f"{'' if a < 2 else 'Every '}{NAMES[a]} is a {NAMES[b]}." for a, b in EDGES]
PROSQA = {"question": " ".join(SENTENCES) + " Is Tom a rompus or sterpus?", "answer": "Tom is a rompus.",
          "steps": ["Tom is a lempus.", "Every lempus is a rompus."], **GRAPH}  # fmt: skip
SYMBOLS = {"question": "0 2 0 3 2 4 2 6 3 5 5 4 1 7 7 8 to 4 or 8 from 0", "steps": ["2", "4"], "answer": "4",
           **GRAPH, "idx_to_symbol": [*map(str, range(9))]}  # fmt: skip
HOPS = {"question": "e c b i c g g h a j i f d b h a j d f e start c", "steps": [*"ghaj"], "answer": "j"}
WORDS = TrainConfig(question_format=" {}", step_format=" {}", answer_format=" = {}", block_size=128)
LINES = TrainConfig(block_size=128)  # the official code's formats


def graded(problem, cfg, thoughts, text):
    graph = graphs.graph_of(problem)
    answer = graphs.node_of(Task(cfg, None).read_answer(text))
    return graphs.grade(graph, graphs.read_steps(text, graph, cfg), answer, thoughts)


# ---------------------------------------------------------------- grading


@pytest.mark.parametrize(
    "thoughts, text, expected",
    [
        (0, "Tom is a lempus.\nEvery lempus is a rompus.\n### Tom is a rompus.", "correct path"),
        (0, "Tom is a rempus.\nEvery rempus is a yumpus.\nEvery yumpus is a rompus.\n### Tom is a rompus.",
         "longer path"),
        (0, "Tom is a zumpus.\nEvery zumpus is a sterpus.\n### Tom is a sterpus.", "hallucination"),  # no such edge
        (0, "Tom is a lempus.\nEvery yumpus is a rompus.\n### Tom is a rompus.", "hallucination"),  # they do not join
        (0, "Every lempus is a rompus.\n### Tom is a rompus.", "hallucination"),  # nothing has replaced the first step
        (0, "Tom is a lempus.\nEvery lempus of rompus.\n### Tom is a rompus.", "hallucination"),  # not even a sentence
        (0, "Tom is a lempus.\nEvery lempus is a wumpus.\n### Tom is a wumpus.", "wrong target"),
        (0, "Tom is a lempus.\nEvery lempus is a rompus.\n### Tom is a sterpus.", "wrong target"),
        (0, "Tom is a lempus.\nEvery lempus is a wumpus.\n### Tom is a rompus.", "wrong target"),
        (0, "Tom is a lempus.\nEvery lempus is a rompus.\n", "wrong target"),  # no answer
        (0, "### Tom is a rompus.", "correct label"),
        (0, "### Tom is a sterpus.", "incorrect label"),
        (0, "", "incorrect label"),
        (1, "Every lempus is a rompus.\n### Tom is a rompus.", "correct path"),
        (1, "Tom is a lempus.\nEvery lempus is a rompus.\n### Tom is a rompus.", "correct path"),  # from the beginning
        (1, "Every yumpus is a rompus.\n### Tom is a rompus.", "longer path"),  # by way of rempus
        (1, "Every zumpus is a sterpus.\n### Tom is a sterpus.", "hallucination"),  # Tom does not lead to zumpus
        (2, "### Tom is a rompus.", "correct label"),
    ],
)  # fmt: skip
def test_grading_prosqa(thoughts, text, expected):
    """Catches paths that are taken for correct because their end is, and steps that nobody has checked."""
    assert graded(PROSQA, LINES, thoughts, text) == expected


@pytest.mark.parametrize(
    "thoughts, text, expected",
    [
        (0, " 2 4 = 4", "correct path"),
        (1, " 4 = 4", "correct path"),
        (0, " 4 = 4", "hallucination"),
        (0, " 3 5 4 = 4", "longer path"),
        (2, " 6 = 6", "wrong target"),
        (1, " 8 = 8", "hallucination"),  # 0 does not lead to 7
        (2, " = 8", "incorrect label"),
    ],
)
def test_grading_prosqa_in_symbols(thoughts, text, expected):
    assert graded(SYMBOLS, WORDS, thoughts, text) == expected


@pytest.mark.parametrize(
    "thoughts, text, expected",
    [
        (0, " g h a j = j", "correct path"),
        (0, " g h a j d b i f e c g h a j = j", "longer path"),  # once round
        (0, " g h j = j", "hallucination"),
        (0, " g h a = a", "wrong target"),
        (2, " a j = j", "correct path"),
        (2, " g h a j = j", "correct path"),
        (2, " j d b i f e c g h a j = j", "longer path"),
        (2, " a b = b", "hallucination"),
        (2, " a j d = d", "wrong target"),
        (2, " a j = j = j", "hallucination"),  # "=" is no node
        (4, " = j", "correct label"),
        (4, " = d", "incorrect label"),
        (4, " =", "incorrect label"),
    ],
)
def test_grading_hops(thoughts, text, expected):
    assert graded(HOPS, WORDS, thoughts, text) == expected


def test_official_problems_are_read():
    """Catches another reading of the published files than theirs: their solutions are correct paths, whole or not."""
    if not os.path.exists(OFFICIAL):
        pytest.skip("ProsQA's validation file is not beside the repository")
    problems = data.load_json(OFFICIAL)
    graphs.read_graphs(problems, OFFICIAL)  # raises, should a path not be a shortest one
    for p in problems:
        for k in range(len(p["steps"]) + 1):
            text = "\n".join([*p["steps"][k:], f"### {p['answer']}"])
            assert graded(p, LINES, k, text) == ("correct path" if k < len(p["steps"]) else "correct label")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"edges": [[0, 99]]}, "'edges'"), ({"edges": "x"}, "'edges'"), ({"edges": None}, "'edges'"),
        ({"root": "e"}, "'root'"), ({"neg_target": 9}, "'neg_target'"), ({"idx_to_symbol": [1, 2]}, "'idx_to_symbol'"),
        ({"root": 1, "target": 0}, "'target' cannot be reached"),
    ],
)  # fmt: skip
def test_broken_graphs_are_one_line(change, words):
    """Catches fields that training does not look at, and an analysis cannot do without."""
    problem = {"question": "q", "steps": ["b"], "answer": "b", "idx_to_symbol": ["a", "b", "c"], "edges": [[0, 1]]}
    problem |= {"root": 0, "target": 1, "neg_target": 2}
    assert graphs.read_graphs([problem], "test.json")[0].successors == {"a": ["b"], "b": [], "c": []}
    del problem["neg_target"]  # not every graph has one
    assert graphs.read_graphs([problem], "test.json")[0].other is None
    with pytest.raises(UserError, match=f"test.json: example 0: .*{words}"):
        graphs.read_graphs([problem | change], "test.json")


@pytest.mark.parametrize(
    "question, steps", [("+ 3 * 2 - 1 start 5", ["8", "16", "15"]), ("start c", []), ("a b start c", ["b"])]
)
def test_not_all_that_ends_in_start_is_a_graph(question, steps):
    """Catches sums, refused for not being shortest paths."""
    assert graphs.read_graphs([{"question": question, "steps": steps, "answer": (steps or ["c"])[-1]}], "") is None


def test_problems_whose_path_is_not_the_shortest_are_refused():
    """Catches hops that go round the circle more than once: no category would mean what its name says."""
    with pytest.raises(UserError, match="example 1: .* not a shortest path"):
        graphs.read_graphs([HOPS, {**HOPS, "steps": [*"ghajdbifecg"], "answer": "g"}], "f.json")
    assert graphs.read_graphs([HOPS, {**HOPS, "question": "what is 2 + 2 ?"}], "f.json") is None


# ---------------------------------------------------------------- values and probes


def random_model(problem, cfg):
    tok = make_tokenizer("words", data.find_pieces([problem], cfg))
    torch.manual_seed(1)
    model = Coconut(GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=cfg.block_size, vocab_size=tok.n_vocab)))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model.double().eval(), tok


@torch.no_grad()
def by_hand(model, prompt, text):
    """The probability of a text: one row, no copied cache, the product over its tokens."""
    prefix, n, forced = prompt
    logits, _ = model(torch.tensor([prefix]), torch.tensor([len(prefix)]), n, torch.tensor([forced + text]))
    return logits[0].softmax(-1)[range(len(forced), len(forced + text)), text].prod().item()


@pytest.mark.parametrize("problem, cfg", [(PROSQA, LINES), (HOPS, WORDS)], ids=["prosqa", "hops"])
@torch.no_grad()
def test_values_equal_the_product_over_the_tokens(problem, cfg):
    """Catches a cache copied to the wrong row, a text's first or last token lost, padding that is counted."""
    model, tok = random_model(problem, cfg)
    graph, encoded = graphs.graph_of(problem), data.encode([problem], cfg, tok)[0]
    prompts = [make_prompt(encoded.question[i:], n, cfg, tok) for i, n in ((0, 0), (3, 1), (1, 4))]
    values = questions.node_values(model, prompts, [graph] * 3, Task(cfg, tok))
    for prompt, value in zip(prompts, values):
        expected = dict.fromkeys(graph.successors, 0.0)
        for a in graph.successors:
            if problem is HOPS:
                expected[a] = by_hand(model, prompt, tok.encode_ordinary(f" {a}"))
                continue
            for b in graph.successors[a]:
                step = f"{'' if a in ('Tom', 'Sam') else 'Every '}{a} is a {b}.\n"
                expected[b] += by_hand(model, prompt, tok.encode_ordinary(step))
        assert value == pytest.approx(expected, rel=1e-4, abs=0) and 0 < sum(value.values()) <= 1


@torch.no_grad()
def test_probabilities_of_texts_of_different_lengths():
    """Catches a text that is cut at the shortest one, and probability that is lost: all tokens together have 1."""
    model, tok = random_model(HOPS, WORDS)
    prompt, other = (make_prompt(tok.encode_ordinary(text), 2, WORDS, tok) for text in (" a b", " c d e"))
    texts = [[t] for t in range(tok.n_vocab)] + [[3, 1, 4], [1, 5]]
    found = questions.text_probabilities(model, [prompt, other], [texts, texts[-1:]])
    assert sum(found[0][:-2]) == pytest.approx(1)
    assert found[0][-2:] == pytest.approx([by_hand(model, prompt, text) for text in texts[-2:]], rel=1e-4, abs=0)
    assert found[1] == pytest.approx([by_hand(model, other, texts[-1])], rel=1e-4, abs=0)


def test_summary_of_values():
    """Catches a wrong frontier, a wrong height, means over the wrong nodes: with values that one can add up by hand."""
    value = dict.fromkeys(NAMES, 0.0) | {"rompus": 0.5, "wumpus": 0.2, "yumpus": 0.1, "sterpus": 0.05}
    found = analyze.summarise([graphs.graph_of(PROSQA)] * 2, [value, value], 1)  # a step is gone: who can be second?
    assert found["frontier_size"] == 3 and found["right"] == pytest.approx(0.5)
    assert found["frontier"] == pytest.approx(0.8) and found["elsewhere"] == pytest.approx(0.05)
    places = {(p["place"], p["to_target"]): (p["nodes"], p["value"]) for p in found["by_place"]}
    assert places == {(0, True): (2, 0.5), (0, False): (2, 0.2), (1, True): (2, 0.1)}
    assert [top[10] for top in found["top"]] == pytest.approx([0.5, 0.7, 0.8])


def test_probe_finds_what_was_planted_and_nothing_else():
    """Catches a probe that is tested on what it was fitted to, and a control that is none."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (600,), generator=g)
    planted = torch.randn(5, 32, generator=g)[labels] + 0.3 * torch.randn(600, 32, generator=g)
    found = analyze.probe(planted, labels)
    assert found["accuracy"] > 0.97 and abs(found["control"] - 0.2) < 0.06
    noise = torch.randn(600, 400, generator=g)  # more numbers than examples: any labels can be learned by heart
    assert analyze.probe(noise, labels)["accuracy"] < 0.3
    assert analyze.probe(noise, torch.arange(600)) is None  # no two labels are the same


# ---------------------------------------------------------------- as a user would


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A folder with data/ and out/run, a run of a few steps."""
    folder, here = tmp_path_factory.mktemp("run"), os.getcwd()
    os.chdir(folder)
    prepare_hops.main(["--train=60", "--valid=8", "--test=40", "--hops=2", "--nodes=5", "--out_dir=data"])
    flags = (
        "--n_layer=1 --n_head=2 --n_embd=16 --device=cpu --max_latent_stage=2 --batch_size=8 --steps=10 --eval_every=5"
    )
    formats = [f"--{name}={getattr(WORDS, name)}" for name in ("question_format", "step_format", "answer_format")]
    train.main(["--data_dir=data", "--out_dir=out/run", *flags.split(), *formats])
    os.chdir(here)
    return folder


@pytest.fixture
def in_run(run_dir, monkeypatch, capsys):
    monkeypatch.chdir(run_dir)
    capsys.readouterr()


def asked(capsys, *flags):
    """(what `sample.py --json` prints, read back; what it says beside that)."""
    sample.main(["--out_dir=out/run", "--device=cpu", "--json", *flags])
    printed = capsys.readouterr()
    return json.loads(printed.out)["questions"], printed.err


def test_json_is_all_that_is_printed_and_true(in_run, capsys):
    """Catches words between the JSON, and a table that shows another thought, norm or token than the model had."""
    seen, said = asked(capsys, "--count=2", "--top=3")
    assert "best.pt" in said and len(seen) == 2
    model, cfg, tok, _ = load_checkpoint("out/run/best.pt")
    problems = data.encode(data.load_json("data/test.json")[:2], cfg, tok)
    task, prompts = Task(cfg, tok), [row_for(p, 2, cfg, tok).prompt for p in problems]
    for s, p, (text, n_tokens, thoughts) in zip(seen, problems, solve(model, prompts, cfg, tok, 256)):
        assert s["writes"] == text.strip() and s["tokens_written"] == n_tokens
        assert s["right"] == (task.read_answer(text) == s["expected"] == tok.decode(p.steps[-1]).strip())
        assert [t["norm"] for t in s["thoughts"]] == pytest.approx(thoughts.norm(dim=-1).tolist())
        cosine = (F.normalize(thoughts[0], dim=0) @ F.normalize(thoughts[1], dim=0)).item()
        assert [t["cosine"] for t in s["thoughts"]] == [None, pytest.approx(cosine, abs=1e-5)]
        for shown, thought in zip(s["thoughts"], thoughts):
            p, token = model.head(thought).softmax(-1).sort(descending=True)
            assert [x for _, x in shown["tokens"]] == pytest.approx(p[:3].tolist())
            assert shown["tokens"][0][0] == sample.show_token(tok, token[0].item())


def test_a_token_is_shown_on_one_line():
    """Catches a token that breaks the table, rings the bell, or cannot be seen."""
    tok = make_tokenizer("words", [" Zoé", " a"])
    shown = [sample.show_token(tok, tok.encode_single_token(text)) for text in (" Zoé", "\n", "\a", " ", b"\xff")]
    assert shown == ["Zoé", "\\n", "\\x07", "' '", "\\xff"]


def test_any_number_of_thoughts(in_run, capsys):
    """Catches --latent that gives another number of thoughts, or says nothing where training had other numbers."""
    question = "--question=a b b c c d d e e a start b"
    (seen,), said = asked(capsys, question, "--latent=3")
    model, cfg, tok, _ = load_checkpoint("out/run/best.pt")
    prompt = make_prompt(tok.encode_ordinary(" " + question[11:]), 3, cfg, tok)
    assert prompt[1:] == (3, [tok.encode_single_token("<|end-latent|>")])
    text, _, thoughts = solve(model, [prompt], cfg, tok, 256)[0]
    assert seen["writes"] == text.strip() and len(seen["thoughts"]) == len(thoughts) == 3 and "WARNING" in said
    assert seen["right"] is None, "nobody knows the answer"
    (none,), said = asked(capsys, question, "--latent=0")
    assert none["thoughts"] == [] and "WARNING" in said


def test_questions_from_the_terminal(in_run, capsys, monkeypatch):
    """Catches a session that one bad question ends, or that does not end with an empty line, or with the input."""
    long = "a b " * 50
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"a b b a start a\n{long}\na x start a\n\na a start a\n"))
    seen, said = asked(capsys, "--interactive")
    assert [s["question"] for s in seen] == ["a b b a start a", "a x start a"]
    assert "cannot be answered" in said and "not in the training data: 'x'" in said
    monkeypatch.setattr(sys, "stdin", io.StringIO("a b b a start a"))
    assert len(asked(capsys, "--interactive")[0]) == 1


def test_analysis_and_pictures(in_run, capsys, monkeypatch):
    """Catches a script that does not run, shares that do not add up, a picture without the command that made it."""
    analyze.main(["out/run/best.pt", "data/test.json", "--count=30", "--examples=2", "--device=cpu"])
    assert "incorrect label" in capsys.readouterr().out
    with open("out/run/analysis.json", encoding="utf-8") as f:
        found = json.load(f)
    assert found["command"].startswith("python -m lab.analyze out/run/best.pt data/test.json --count=30")
    assert [row["thoughts"] for row in found["sweep"]] == [0, 1, 2] and found["problems"] == 30
    for row in found["sweep"]:
        right = sum(row["categories"][name] for name in ("correct path", "longer path", "correct label"))
        assert sum(row["categories"].values()) == pytest.approx(1) and right <= row["accuracy"] + 1e-9
    assert [v["thoughts"] for v in found["values"]] == [0, 1], "after two thoughts no step is left"
    assert {(p["thought"], p["step"]) for p in found["probes"]} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert len(found["examples"]) == 2 and len(found["thoughts"]) == 2

    with monkeypatch.context() as m:
        m.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(UserError, match="pip install matplotlib"):
            plot.main(["out/run"])
    pytest.importorskip("matplotlib")
    from PIL import Image  # comes with matplotlib

    plot.main(["out/run", "--baselines=out/run"])
    found = {file.removesuffix(".png") for file in os.listdir("out/run") if file.endswith(".png")}
    assert found - {"categories"} == {"training", "tree", "probes"}, "in a circle one node can be next"
    for name in found:
        command = "python -m lab.plot out/run --baselines=out/run"
        assert command in Image.open(f"out/run/{name}.png").info["Description"]
        with open(f"out/run/{name}.svg", encoding="utf-8") as f:
            assert command in f.read()


def test_problems_of_different_lengths_are_answered_as_in_training(tmp_path, monkeypatch, capsys):
    """Catches controls that think on after a problem's own thoughts, and so find a good model as bad as noise."""
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=1,3 --train=50 --valid=9 --test=30 --out_dir=data".split())
    flags = [*hops_flags(), "--steps=1", "--max_latent_stage=3", "--out_dir=out"]
    run_to_the_end(flags)
    analyze.main(["out/best.pt", "--device=cpu"])
    assert "with as many thoughts as each has had in training" in capsys.readouterr().out
    with open("out/analysis.json") as f:
        found = json.load(f)
    lengths = [len(problem["steps"]) for problem in data.load_json("data/test.json")]
    assert found["trained"]["thoughts"] == pytest.approx(sum(lengths) / 30) and {*lengths} == {1, 2, 3}
    assert found["controls"][0]["accuracy"] == found["trained"]["accuracy"]


@pytest.mark.parametrize("method", "no_cot pause coconut+stop coconut+ponder lotus coconut+cut coconut+back".split())
def test_all_kinds_of_models_are_analysed(method, tmp_path, monkeypatch, capsys):
    """Catches a model that stops where it is made to think, or is made to think where it may stop; and a method whose
    thoughts stand for other steps than the first."""
    later = method.rpartition("+")[2]
    if later not in ("no_cot", "pause"):
        pytest.importorskip(f"methods.{later}")
    monkeypatch.chdir(tmp_path)
    prepare_hops.main("--nodes=6 --hops=1,3 --train=50 --valid=9 --test=30 --out_dir=data".split())
    run_to_the_end([*hops_flags(), "--steps=3", "--max_latent_stage=3", f"--method={method}", "--out_dir=out"])
    if later == "back":
        with pytest.raises(UserError, match="not the first steps that are replaced"):
            analyze.main(["out/best.pt", "--device=cpu"])
        return
    analyze.main(["out/best.pt", "--device=cpu"])
    with open("out/analysis.json") as f:
        found = json.load(f)
    model, cfg, tok, _ = load_checkpoint("out/best.pt")
    assert [row["thoughts"] for row in found["sweep"]] == ([0] if method == "no_cot" else [0, 1, 2, 3])
    assert ("auto" in found) == (later in ("stop", "ponder"))
    lengths = [len(problem["steps"]) for problem in data.load_json("data/test.json")]
    if "auto" in found:
        problems = data.encode(data.load_json("data/test.json"), cfg, tok)
        solved = solve(model, [row_for(p, 3, cfg, tok).prompt for p in problems], cfg, tok, 9)
        assert found["auto"]["thoughts"] == pytest.approx(sum(len(thoughts) for *_, thoughts in solved) / 30)
    if later not in ("no_cot", "ponder"):  # ponder has trained all with as many as there may be
        assert found["trained"]["thoughts"] == pytest.approx(sum(lengths) / 30)
    names = ["their own", "another question's", "the mean of all questions'", "noise of the same norm", "zeros"]
    names += ["in another order", *(f"another's thought {i}" for i in (1, 2, 3))]
    if method == "pause":  # at the last pause the answer begins, and it is read as it is
        names.pop()
    assert [row["thoughts"] for row in found["controls"]] == (names if method != "no_cot" else [])
    assert len(found["thoughts"]) == (0 if method in ("no_cot", "pause") else 3)
    if "trained" in found and "auto" not in found and method != "no_cot":
        assert found["controls"][0]["accuracy"] == found["trained"]["accuracy"], "given its own, it is itself"


@torch.no_grad()
def test_the_head_reads_thoughts_without_what_lotus_adds():
    """Catches an entropy of thoughts with the vectors that only say which thought it is: without them, these are 0."""
    pytest.importorskip("methods.lotus")
    cfg, tok, _ = words(method="lotus", n_embd=24, n_head=3)
    model = make_model(new_base(cfg, tok), cfg, tok)
    found = analyze.describe_thoughts(model, model.start(3).expand(2, -1, -1), tok)
    assert [row["entropy"] for row in found] == pytest.approx([math.log(tok.n_vocab)] * 3)


def test_what_stands_in_place_of_thoughts():
    """Catches thoughts of a problem that has fewer, and means of what was thought too long."""
    thoughts = torch.arange(1.0, 7).view(3, 2, 1).clone()  # (1, 2), (3, 4), (5, 6)
    found = questions.replacements(thoughts, [2, 1, 2], seed=0)
    assert found["another question's"].flatten().tolist() == [5, 6, 1, 2, 1, 2]
    assert found["the mean of all questions'"][0].flatten().tolist() == [3, 4]
    assert torch.equal(found["noise of the same norm"].abs().round(decimals=4), thoughts)
    assert sorted(found["in another order"][0].flatten().tolist()) == [1, 2]
    assert found["in another order"][1].flatten().tolist() == [3, 4], "it has one thought of its own"
    orders = questions.replacements(torch.arange(60.0).view(10, 6, 1), [6] * 10, seed=0)["in another order"]
    assert torch.equal(orders.sort(1).values, torch.arange(60.0).view(10, 6, 1)) and len(orders.unique()) == 60
    assert not torch.equal(orders, orders.sort(1).values)
    single = questions.one_at_a_time(thoughts, found["another question's"])
    assert single["another's thought 2"].flatten().tolist() == [1, 6, 3, 2, 5, 2]


def test_pictures_that_would_say_nothing_are_left_out():
    """Catches a picture of one colour, and one that is left out although it shows something."""
    same = [
        {"accuracy": 1.0, "categories": {"correct path": 1.0}},
        {"accuracy": 0.99, "categories": {"correct label": 1}},
    ]
    assert not plot.says_something(same) and not plot.says_something(same[:1])
    assert plot.says_something([*same, {"accuracy": 1.0, "categories": {"hallucination": 0.1}}])
    assert plot.says_something([{"accuracy": 0.5}, {"accuracy": 0.9}])


LOG = {"stage": [(0, 0), (4, 1)], "valid/accuracy": [(4, 0.9), (8, 0.7)], "valid/thoughts": [(4, 0.0), (8, 1.0)]}


def test_titles_say_what_was_measured():
    """Catches "2 stages, each with one written step less" of two phases of one stage, and "100% right, or more"."""
    pytest.importorskip("matplotlib")

    def title(fig):
        return fig.get_suptitle()

    assert title(plot.draw_training(LOG, {})) == "from 0 to 1 thoughts: 70.0% right in the last stage"
    phases = LOG | {"stage": [(0, 7), (4, 7)], "valid/thoughts": [(4, 6.0), (8, 6.0)]}
    assert title(plot.draw_training(phases, {})) == "6 thoughts: 70.0% right in the last stage"
    pauses = LOG | {"valid/thoughts": [(4, 0.0), (8, 0.0)]}
    assert title(plot.draw_training(pauses, {})) == "70.0% right in the last stage"
    old = {k: v for k, v in LOG.items() if k != "valid/thoughts"}
    assert title(plot.draw_training(old, {"x": 0.5})) == "70.0% right in the last stage"
    probes = [
        {"thought": i, "step": k, "accuracy": 1.0 - 0.1 * (i != k), "control": 0.1} for i in (1, 2) for k in (1, 2)
    ]
    assert title(plot.draw_probes({"probes": probes})) == "a linear map reads step k best from thought k: 100% right"
    probes[0]["accuracy"] = 0.95
    assert title(plot.draw_probes({"probes": probes})).endswith("from thought k: 95% to 100% right")


def test_root_and_target_differ_in_print():
    """Catches two frames that look alike, and a shade in colour."""
    pytest.importorskip("matplotlib")
    _, ((ax,),) = plot.new_figure("tree")
    example = {"root": "a", "target": "b", "other": "c"}
    boxes = {name: plot.draw_node(ax, name, (0, 0), 0.5, 1.0, example) for name in "abcd"}
    looks = {(type(box.get_boxstyle()).__name__, box.get_linewidth(), box.get_linestyle()) for box in boxes.values()}
    assert len(looks) == 4
    assert all(len({*box.get_facecolor()[:3]}) == 1 for box in boxes.values()), "grey"


def test_analysis_of_what_is_no_graph(in_run):
    """Catches an analysis that only works for graphs: sweep and thoughts remain, and probes of a step's text."""
    problems = data.load_json("data/test.json")
    for p in problems:
        p["question"] = p["question"].replace("start", "begin")
    with open("plain.json", "w") as f:
        json.dump(problems, f)
    analyze.main(["out/run/best.pt", "plain.json", "--max_thoughts=1", "--out=plain_analysis.json", "--device=cpu"])
    with open("plain_analysis.json") as f:
        found = json.load(f)
    assert found["values"] == found["examples"] == [] and "categories" not in found["sweep"][0]
    assert len(found["sweep"]) == 2 and len(found["thoughts"]) == 1 and found["probes"]


@pytest.mark.parametrize(
    "main, argv, part",
    [
        (analyze.main, ["out/run/best.pt", "--max_thoughts=500"], "lower --max_thoughts"),
        (analyze.main, ["nowhere.pt"], "no such checkpoint"),
        (analyze.main, ["out/run/best.pt", "nowhere.json"], "no such file"),
        (analyze.main, ["a", "b", "c"], "unexpected argument"),
        (plot.main, ["nowhere"], "nowhere: no such run"),
        (plot.main, [], "no folder given"),
    ],
)
def test_bad_input_is_one_line(main, argv, part, in_run):
    with pytest.raises(UserError, match=part) as e:
        main(argv)
    assert "\n" not in str(e.value)


def test_without_a_path_it_is_the_latest_run(in_run, tmp_path, monkeypatch):
    """Catches a tool that looks at another run than sample.py does."""
    analyze.main(["--count=4", "--max_thoughts=0", f"--out={tmp_path}/found.json"])
    assert json.load(open(tmp_path / "found.json"))["checkpoint"] == "out/run/best.pt"
    monkeypatch.chdir(tmp_path)
    for main in analyze.main, explore.main, sample.main:
        with pytest.raises(UserError, match=r"out.*makes one"):
            main([])
