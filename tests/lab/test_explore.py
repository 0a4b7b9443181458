"""
Whether the page of explore.py is true, and works in a real browser.   python -m pytest tests/lab/test_explore.py

The browser is Chromium without a window, if there is one here, spoken to in its DevTools protocol through two pipes.
"""

import fcntl
import importlib.util
import json
import os
import re
import select
import shutil
import subprocess

import pytest
import torch
from helpers import HERE, command
from test_analyze import PROSQA, SYMBOLS

import data
import prepare_hops
import train
from checkpoint import load_checkpoint
from config import UserError
from curriculum import make_prompt, make_task
from evaluate import solve
from lab import explore, questions
from model import GPT, GPTConfig
from pretrained.llama import Llama, LlamaConfig
from tasks import graphs, prepare_addition

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome here")
TINY = "--n_layer=2 --n_head=2 --n_embd=16 --device=cpu --batch_size=8 --steps=6 --eval_every=3".split()
HOPS = ["--question_format= {}", "--step_format= {}", "--answer_format= = {}", "--max_latent_stage=2"]
ADDITION = ["--tokenizer=chars", "--question_format={}=", "--step_format={}", "--answer_format=#{}", "--c_thought=2",
            "--max_latent_stage=2"]  # fmt: skip
DIRECTED = [*HOPS, "--method=no_curriculum+sets", "--pad_latent_to_max", "--task=graphs", "--names= \\d+",
            "--thought_targets=walks", "--feedback=members", "--losses=members:1"]  # fmt: skip
KINDS = {  # of runs: about what, and how; "sets" only if methods/sets.py has not been deleted
    "hops": ("hops", HOPS),
    "sums": ("sums", ADDITION),
    "sets": ("sets", DIRECTED),
    "pause": ("hops", [*HOPS, "--method=pause"]),
    "cot": ("hops", [*HOPS, "--method=cot"]),
}
if not importlib.util.find_spec("methods.sets"):
    del KINDS["sets"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with hardly trained runs: hops, sums (of numbers), sets (ProsQA in symbols), pause and cot (hops)."""
    folder, here = tmp_path_factory.mktemp("runs"), os.getcwd()
    os.chdir(folder)
    prepare_hops.main("--train=60 --valid=8 --test=40 --hops=2 --nodes=5 --out_dir=data/hops".split())
    prepare_addition.main("--train=60 --valid=8 --test=40 --max_digits=2 --out_dir=data/sums".split())
    os.makedirs("data/sets")
    for name in ("train", "valid", "test"):
        with open(f"data/sets/{name}.json", "w") as f:
            json.dump([SYMBOLS] * 8, f)
    for run, (about, flags) in KINDS.items():
        train.main([f"--data_dir=data/{about}", f"--out_dir=out/{run}", *TINY, *flags])
        explore.main([f"out/{run}", "--count=6", "--device=cpu"])
    os.chdir(here)
    return folder


@pytest.fixture
def in_runs(runs, monkeypatch):
    monkeypatch.chdir(runs)


def page_of(run, name="explore.html"):
    """(the numbers of a page, the whole file)."""
    with open(f"out/{run}/{name}", encoding="utf-8") as f:
        html = f.read()
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1)), html


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("n_kv_head", [None, 2])
def test_attention_is_the_models_own(n_kv_head):
    """Catches a wrong scale, a position that looks ahead, Llama's shared heads in a wrong order: in float64."""
    torch.manual_seed(1)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 24, "block_size": 32, "vocab_size": 11}
    llama = {"n_kv_head": n_kv_head, "head_dim": 6, "n_inner": 30, "qk_norm": True}
    model = Llama(LlamaConfig(**sizes, **llama)) if n_kv_head else GPT(GPTConfig(**sizes))
    layer = (model.layers[0].self_attn if n_kv_head else model.h[0].attn).double()
    q = torch.randn(1, 4, 3, 6).double()
    past = [[torch.randn(1, n_kv_head or 4, T, 6).double() for _ in "kv"] for T in (5, 3)]
    weights = explore.attention(q, past)
    v = torch.cat([v for _, v in past], 2).repeat_interleave(4 // (n_kv_head or 4), 1)
    mask = torch.ones(3, 8, dtype=torch.bool).tril(5)[None, None]
    torch.testing.assert_close(weights @ v, layer.attend(q, past, mask), atol=1e-10, rtol=0)


@torch.no_grad()
def test_where_a_thought_looks(in_runs):
    """Catches the attention of another position, layer or pass, and a model that stays changed: against one pass."""
    for run in ("hops", "pause"):
        model, cfg, tok, saved = load_checkpoint(f"out/{run}/best.pt")
        raw = data.load_json("data/hops/test.json")[:1]
        asked = questions.Questions(model, make_task(cfg, tok), raw, "test.json", saved["stage"])
        (problem,) = asked.problems
        found = explore.looks(asked, problem)
        assert not any("attend" in vars(module) for module in model.modules()) and asked.most == 2
        prefix, n, eot = make_prompt(problem.question, 2, cfg, tok)
        fed, *_ = model.think(torch.tensor([prefix]), torch.tensor([len(prefix)]), n, torch.tensor([eot]).long())
        x = torch.cat((model.embed(torch.tensor([prefix])), fed), 1)  # all that is read, at once
        states, _ = model.read(x, torch.ones(1, x.size(1)).bool())
        K = len(found[-1][0, 0])
        assert K == x.size(1) and [w.shape for w in found] == [(2, 2, K - 2), (2, 2, K - 1), (2, 2, K)]
        for i, block in enumerate(model.base.h):
            q, k, _ = block.attn.c_attn(block.ln_1(states[i])).view(K, 3, 2, 8).permute(1, 2, 0, 3)  # (nh, K, hs)
            scores = (q @ k.mT / 8**0.5).masked_fill(~torch.ones(K, K).bool().tril(), -torch.inf).softmax(-1)
            for w, row in zip(found, range(K - 3, K)):
                torch.testing.assert_close(w[i], scores[:, row, : row + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("run", [run for run in KINDS if run != "pause"])
@torch.no_grad()
def test_the_page_says_what_the_model_does(run, in_runs):
    """Catches an answer, a verdict or a value that belongs to another question, or to another number of thoughts."""
    (model, cfg, tok, _), about = load_checkpoint(f"out/{run}/best.pt"), KINDS[run][0]
    raw = data.load_json(f"data/{about}/test.json")[:6]
    problems, (page, _), task = data.encode(raw, cfg, tok), page_of(run), make_task(cfg, tok)
    assert page["most"] == {"cot": 0, "sums": 4}.get(run, 2) and len(page["questions"]) == 6
    for p, problem, question in zip(raw, problems, page["questions"]):
        assert len(question["after"]) == page["most"] + 1
        assert "".join(question["tokens"]).removesuffix("<bot>").strip(" =") == p["question"]
        for n, seen in enumerate(question["after"]):
            (text, _, thoughts), *_ = solve(model, [make_prompt(problem.question, n, cfg, tok)], cfg, tok, 9)
            assert seen["writes"].startswith(text.strip()[:3])
            assert seen["right"] == (task.read_answer(seen["writes"]) == p["answer"])
            if n:
                assert seen["thought"]["norm"] == pytest.approx(thoughts[-1].norm().item(), abs=0.006)
                assert seen["thought"]["tokens"][0][1] == pytest.approx(
                    model.head(thoughts[-1]).softmax(-1).max().item(), abs=1e-4
                )
            assert ("value" in seen) == (about != "sums" and n < 2)
            if "value" in seen:
                prompt = make_prompt(problem.question, n, cfg, tok)
                prompt = prompt._replace(eot=[]) if run == "sets" else prompt
                (value,) = questions.node_values(model, [prompt], [graphs.graph_of(p)], task)
                assert seen["value"] == pytest.approx(value, abs=6e-4)
        own = question["instead"][0] if question["instead"] else {"writes": seen["writes"]}
        assert own["writes"] == seen["writes"], "its own thoughts, given, change nothing"


def test_attention_gives_way_and_the_page_stays_small(in_runs, monkeypatch):
    """Catches a page that nobody can send, and one that leaves attention out without saying so."""
    for run in KINDS:
        assert len(page_of(run)[1].encode()) < 1_000_000
    page, html = page_of("hops")
    assert len(page["views"]) == 5 and len(page["questions"][0]["after"][0]["looks"]) == 5  # 2 layers of 2 heads
    for n_views in (3, 1, 0):  # of each layer, of all, none
        monkeypatch.setattr(explore, "LARGEST", len(html.encode()) - 1)
        explore.main(["out/hops", "--count=6", "--device=cpu", "--out=out/hops/explore_small.html"])
        page, html = page_of("hops", "explore_small.html")
        assert len(page["views"]) == n_views and ("looks" in page["questions"][0]["after"][0]) == (n_views > 0)
    monkeypatch.setattr(explore, "LARGEST", 20_000)
    with pytest.raises(UserError, match="lower --count"):
        explore.main(["out/hops", "--count=6", "--device=cpu", "--out=small.html"])


def test_nothing_is_loaded_from_elsewhere(in_runs):
    """Catches a script, font or picture from the internet (it works on a train), and text that ends a script."""
    _, html = page_of("hops")
    code = html.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|src=|<link|@import|url\((?!#)|import\(|fetch\(|XMLHttp", code)
    assert html.count("</script>") == 2
    assert explore.write({"x": "</script>"}).count("</script>") == 2


def test_graphs_are_drawn_whole():
    """Catches nodes on top of each other, an arrow to nowhere, and a circle that is drawn as a line."""
    for problem, hidden in ((PROSQA, 3), (SYMBOLS, 3)):
        graph = graphs.graph_of(problem)
        drawn = explore.picture(graph, [graphs.node_of(step) for step in problem["steps"]])
        places = {tuple(place) for place in drawn["place"].values()}
        assert len(places) == len(drawn["place"]) == 6 and drawn["hidden"] == hidden
        assert all(a in drawn["place"] and b in drawn["place"] for a, b in drawn["edges"])
        assert all([a, b] in drawn["edges"] for a, b in zip(drawn["path"], drawn["path"][1:]))
        heights = [drawn["place"][node][1] for node in drawn["path"]]
        assert heights == sorted(set(heights)), "the way leads down"
    circle = {"question": "a b b c c d d a start a", "steps": ["b"], "answer": "b"}
    drawn = explore.picture(graphs.graph_of(circle), ["b"])
    assert {round(x * x + y * y, 1) for x, y in drawn["place"].values()} == {0.5}


def test_mistakes_are_one_line(in_runs):
    for argv, part in ((["nowhere"], "no such checkpoint"), (["out/hops", "--max_thoughts=5000"], "lower --max")):
        with pytest.raises(UserError, match=part):
            explore.main(argv)
    done = command(os.getcwd(), "lab.explore", "out/hops", "--count=2", "--out=two.html", "--device=cpu")
    assert done.returncode == 0 and re.search(r"two.html: \d+ kB", done.stdout)


# ---------------------------------------------------------------- in a browser


class Browser:
    """A page in Chromium. call() speaks the DevTools protocol; errors: complaints of scripts, and what is loaded."""

    def __init__(self, profile):
        (self.to, their_in), (their_out, self.out) = os.pipe()[::-1], os.pipe()[::-1]

        def at_3_and_4():
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (their_in, their_out)]
            os.dup2(high[0], 3), os.dup2(high[1], 4)

        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={profile}"], pass_fds=(3, 4), preexec_fn=at_3_and_4,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in), os.close(their_out)
        self.number, self.session, self.rest, self.errors, self.happened = 0, None, b"", [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (got := self.read()).get("id") != self.number:
            pass
        assert "error" not in got, got
        return got["result"]

    def read(self):
        while b"\0" not in self.rest:
            assert select.select([self.out], [], [], 60)[0], "the browser says nothing any more"
            more = os.read(self.out, 1 << 16)
            assert more, "the browser has ended"
            self.rest += more
        text, _, self.rest = self.rest.partition(b"\0")
        got = json.loads(text)
        self.happened.append(got.get("method"))
        if got.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.errors.append(got["params"])
        if got.get("method") == "Network.requestWillBeSent":
            url = got["params"]["request"]["url"]
            self.errors += [url] if not url.startswith("file:") else []
        return got

    def open(self, path, width=1280, dark=False, fragment=""):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=theme)
        for url in ("about:blank", f"file://{os.path.abspath(path)}{fragment}"):  # or only the fragment would change
            self.happened.clear()
            self.call("Page.navigate", url=url)
            while "Page.loadEventFired" not in self.happened:
                self.read()

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=key if len(key) == 1 else "")

    def text(self, selector):
        return self.js(f"document.querySelector({selector!r}).innerText")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.call("Browser.close")
    browser.process.wait(20)


NODES = "[...document.querySelectorAll('#svg [data-node]')].map(node => node.textContent).join()"


@needs_browser
@pytest.mark.parametrize("run", KINDS)
def test_the_slider_shows_each_thought(run, in_runs, browser):
    """Catches a script that fails, a page without a graph that breaks, and a key that leaves a part as it was."""
    browser.open(f"out/{run}/explore.html")
    page, _ = page_of(run)
    question, most = page["questions"][0], {"sums": 4, "cot": 0}.get(run, 2)
    browser.js("document.getElementById('slider').focus()")  # which has keys of its own
    for n in range(most + 1):
        seen = question["after"][n]
        assert browser.js("document.getElementById('slider').value") == str(n)
        assert browser.text("#writes").split() == (seen["writes"] or "(nothing)").split()
        assert browser.text("#verdict") == ("right" if seen["right"] else "wrong")
        tokens = browser.js("[...document.querySelectorAll('#tokens .token')].map(token => token.textContent)")
        assert tokens == [text for text, _ in seen.get("thought", {"tokens": []})["tokens"]]
        assert bool(tokens) == (n > 0 and run != "pause")
        assert browser.js("document.getElementById('graph').hidden") == (run == "sums")
        if "value" in seen:
            shown = browser.js(NODES).split(",")
            assert len(shown) == len(question["graph"]["place"]) and all(re.search(r"0|%", text) for text in shown)
        browser.press("ArrowRight")
    assert browser.js("document.getElementById('slider').value") == str(most), "there are no more"
    browser.press("ArrowLeft")
    assert browser.text("#writes").split() == (question["after"][max(0, most - 1)]["writes"] or "(nothing)").split()
    assert not browser.errors


@needs_browser
@pytest.mark.parametrize("run", KINDS)
def test_the_page_says_how_the_model_was_trained(run, in_runs, browser):
    """Catches "Nobody has said what a thought should look like" of thoughts that were told, and thoughts of a model
    that has none."""
    browser.open(f"out/{run}/explore.html")
    text = browser.js("document.body.textContent")
    thinks = browser.js("document.getElementById('about-thoughts').hidden") is False
    assert thinks == (run in ("hops", "sums", "sets")) != ("a model that does not think" in browser.text("#title"))
    said = browser.js("document.getElementById('told').textContent")
    assert said.startswith("In training" if run == "sets" else "Nobody has said") or not thinks
    assert ("keys and values" in text.split("data.thing")[0]) == (run == "pause")
    assert browser.js("document.getElementById('about-others').hidden") == (run == "cot")


@needs_browser
def test_further_losses_are_named(in_runs, browser):
    """Catches a page that knows of the losses of one method only."""
    page, html = page_of("hops")
    with open("out/hops/losses.html", "w") as f:
        f.write(explore.write(page | {"losses": ["decoder", "teacher"]}))
    browser.open("out/hops/losses.html")
    told = browser.js("document.getElementById('told').textContent")
    assert told == "Besides what is written, training had a say in thoughts by: decoder, teacher."


@needs_browser
def test_questions_attention_and_links(in_runs, browser):
    """Catches keys that do nothing, shading that is not the attention, and a link that opens another question."""
    browser.open("out/hops/explore.html", fragment="#question=3&thoughts=1&view=2")
    page, _ = page_of("hops")
    assert browser.text("#which") == "Question 3 of 6" and browser.text("#after").startswith("after 1 thought")
    shares = page["questions"][2]["after"][1]["looks"][2]
    opacity = browser.js("[...document.querySelectorAll('#question span')].map(word => word.style.background)")
    assert len(opacity) == len(shares) == len(page["questions"][2]["tokens"]) + 1
    found = [float(re.search(r"/ ([\d.]+)\)", text).group(1)) for text in opacity]
    assert found == pytest.approx([share / max(50, *shares) for share in shares], abs=0.006)
    for key, question, view in (("ArrowDown", 4, 2), ("j", 5, 2), ("ArrowUp", 4, 2), ("k", 3, 2), ("a", 3, 3)):
        browser.press(key)
        assert browser.text("#which") == f"Question {question} of 6"
        assert browser.js("document.getElementById('view').value") == str(view)
    assert browser.js("location.hash") == "#question=3&thoughts=1&view=3"
    browser.press("a"), browser.press("a")
    assert browser.text("#looks") == "" and "rgb" not in browser.js("document.getElementById('question').innerHTML")
    browser.js("document.getElementById('next').click()")
    assert browser.text("#which") == "Question 4 of 6"
    rows = browser.js("[...document.querySelectorAll('#instead tr')].map(row => row.cells[0].textContent)")
    assert rows == [other["thoughts"] for other in page["questions"][0]["instead"]] and len(rows) == 6
    assert not browser.errors


@needs_browser
@pytest.mark.parametrize("run", [run for run in KINDS if run not in ("pause", "cot")])
def test_it_fits_a_phone_and_the_dark(run, in_runs, browser):
    """Catches a page that has to be pushed sideways, one column where there is room for two, dark text on dark."""

    def brightness(what):
        rgb = browser.js(f"getComputedStyle(document.body).{what}")
        return sum(map(int, re.findall(r"\d+", rgb)[:3])) / 3

    places = "['stop', 'controls'].map(id => document.getElementById(id).getBoundingClientRect().left)"
    for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
        browser.open(f"out/{run}/explore.html", width, dark, "#thoughts=1&view=0")
        assert browser.js("document.documentElement.scrollWidth") <= width
        left, right = browser.js(places)
        assert (left == right) == (width == 390)
        assert (brightness("backgroundColor") < 60 < 180 < brightness("color")) == dark
        assert (brightness("color") < 60 < 180 < brightness("backgroundColor")) != dark
    assert not browser.errors


@needs_browser
def test_the_empty_page_says_what_it_is(browser):
    browser.open(os.path.join(HERE, "lab", "explore.html"))
    assert "lab.explore" in browser.text("#about") and not browser.errors
