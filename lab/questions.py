"""
A trained model, and questions about which it is looked at: what analyze, explore, compare and superpose share.

It is made to answer after so many thoughts, or from other ones than its own. Of a model that reads <pause> tokens, all
inputs are the same; what differs from question to question are the keys and values that it computes there: these are
what is replaced.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

import data
from checkpoint import find_checkpoint, latest_run, load_checkpoint, pick_device, questions_for
from coconut import Coconut
from config import UserError, counted, option
from curriculum import Prompt, Row, kind_of, make_prompt, make_task, row_for
from evaluate import most_tokens, right_answer, solve
from tasks.graphs import grade, node_of, read_graphs, read_steps
from tokenizer import PAUSE

TOLD = {"targets", "tokens"}  # one of these is in Row.extra if states are told what to predict (methods/)


@dataclass
class AskConfig:
    """What says which questions are put to which model."""

    ckpt: str = option("", "a run's folder, or a checkpoint; by default the latest run under out/")
    data: str = option("", "a data file; by default NAME.json beside NAME.pt, or test.json of its task")
    count: int = option(1000, "how many of the file's problems, at most", least=4)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")


@dataclass
class LookConfig(AskConfig):
    """And what is varied, and written down, where thoughts are looked into."""

    max_thoughts: int | None = option(None, "the most thoughts; by default as many as in training", least=0)
    out: str = option("", "where to write; by default beside the checkpoint")
    seed: int = option(1, "decides what is random", least=0)


class Pausing(Coconut):
    """A model that reads <pause> tokens, as if it thought: a thought is what it holds there, the keys and values.

    That is, fed and given are (B, N, 2 L, nh, hs). All pauses are read before the suffix.
    """

    def __init__(self, base, pause):
        super().__init__(base)
        self.pause = pause

    def think(self, prefix, prefix_len, n, suffix, suffix_real=None, given=None, past=None):
        n = torch.as_tensor(n).expand(len(prefix))
        pauses = self.embed(torch.full((len(prefix), int(n.max())), self.pause, device=prefix.device))  # (B, N, C)
        if not pauses.size(1):
            return super().think(prefix, prefix_len, n, suffix)
        thinking = super().think(prefix, prefix_len, n, suffix[:, :0], given=pauses)
        questions, passes = zip(*thinking.past.layers)  # (k, v) of each layer, before the pauses and at them
        held = torch.stack([kv.transpose(1, 2) for pair in passes for kv in pair], 2)
        if given is not None:
            held = given[:, : held.size(1)]
        k_and_v = [kv.transpose(1, 2) for kv in held.unbind(2)]  # (B, nh, N, hs) each
        layers = tuple(zip(questions, zip(k_and_v[::2], k_and_v[1::2])))
        states, past = self.read(self.embed(suffix), past=thinking.past._replace(layers=layers))
        return thinking._replace(fed=held, predicting=torch.cat((thinking.predicting, states[-1]), 1), past=past)


class Answer(NamedTuple):
    """What a model has answered to a question."""

    text: str  # all that it has written
    n_tokens: int
    held: torch.Tensor  # (n, C), on the CPU: its thoughts, or as Pausing has them
    right: bool
    category: str | None  # of graphs: graphs.grade


class Questions:
    """Questions about which a model is looked at, and what is known of each."""

    def __init__(self, model, task, raw, file, stage):
        cfg, tok = task.cfg, task.tok
        self.model, self.task, self.raw = model, task, raw
        self.problems, self.graphs = data.encode(raw, cfg, tok), read_graphs(raw, file)
        self.paths = [[node_of(step) if self.graphs else step for step in p["steps"]] for p in raw]
        rows, pause = [row_for(p, stage, cfg, tok) for p in self.problems], tok.encode_single_token(PAUSE)
        self.trained = [row.n or row.prefix.count(pause) for row in rows]  # how many thoughts, or pauses, in training
        self.in_evaluation = [max(n, row.prompt.n) for n, row in zip(self.trained, rows)]
        self.most = max(self.in_evaluation)
        self.told = any(TOLD & row.extra.keys() for row in rows)  # what thoughts should hold
        self.pauses = kind_of(cfg.method).instead == "pause"
        if self.pauses:
            self.model = Pausing(model.base, pause).eval()

    def prompt(self, problem, n):
        """What the model is given to answer a question after n thoughts."""
        prompt = make_prompt(problem.question, n, self.task.cfg, self.task.tok)
        if self.pauses and n:  # without <eot> the answer begins at the last pause, which is read as it is
            prefix, eot = prompt.prefix[:-n], prompt.eot
            return Prompt(prefix, n if eot else n - 1, eot or prompt.prefix[-1:])
        return prompt

    def answer(self, ns, given=None):
        """An Answer to each question after n of ns thoughts; given (M, N, ...): these, instead of its own."""
        task, answers = self.task, []
        most = most_tokens(self.problems, task.cfg)
        prompts = map(self.prompt, self.problems, ns)
        solved = solve(self.model, [*prompts], task.cfg, task.tok, most, given=given)
        for i, (text, n_tokens, held) in enumerate(solved):
            found, category = task.read_answer(text), None
            if self.graphs:
                steps = read_steps(text, self.graphs[i], task.cfg)
                category = grade(self.graphs[i], steps, node_of(found), ns[i])
            right = task.is_right(found, right_answer(self.problems[i], task))
            answers.append(Answer(text, n_tokens, held.cpu(), right, category))
        return answers


def load(args):
    """(Questions, what they are) that args, an AskConfig or a LookConfig, stands for."""
    path = find_checkpoint(args.ckpt or latest_run())
    model, cfg, tok, saved = load_checkpoint(path)
    file = args.data or questions_for(path, cfg)
    raw = data.load_json(file)[: args.count]
    n_unknown, unknown = data.unknown_pieces(raw, cfg, saved["pieces"])
    most = getattr(args, "max_thoughts", None)
    hint = "lower --max_thoughts" if isinstance(args, LookConfig) else "questions are longer than in training"
    if unknown:
        words = f"words that the model does not know, such as {data.name_some(unknown)}"
        hint = f"{words}, are spelt in bytes"
        print(f"WARNING: {counted(n_unknown, 'problem')} of {file} have {words}")
    asked = Questions(model.to(pick_device(args.device)), make_task(cfg, tok), raw, file, saved["stage"])
    longest = asked.problems[int(asked.problems.n_steps.argmax())]
    for stage in range(1, saved["stage"] + 1):
        replaced = row_for(longest, stage, cfg, tok).replaced
        if replaced != longest.steps[: len(replaced)]:
            raise UserError(f"{path}: it is not the first steps that are replaced: what follows is no rest of a path")
    if most is not None and kind_of(cfg.method).instead:
        asked.most = most
    asked.trained = [min(asked.most, n) for n in asked.trained]
    texts = [text for graph in asked.graphs or () for text, _ in candidate_steps(graph, asked.task)]
    length = max(len(p.question) for p in asked.problems) + asked.most + 2 + max(map(len, texts), default=1)
    if length > cfg.block_size:
        raise UserError(f"{file}: {asked.most} thoughts take {length} positions, where {cfg.block_size} fit: {hint}")
    print(f"{path}: {cfg.method}, stage {saved['stage']}; {len(raw):,} problems of {file}", flush=True)
    about = {"checkpoint": path, "data": file, "method": cfg.method, "stage": saved["stage"], "problems": len(raw)}
    return asked, about


# ---------------------------------------------------------------- other thoughts


def stacked(answers):
    """What all of them hold, if they have had equally many thoughts, (M, N, ...)."""
    return torch.stack([answer.held for answer in answers])


def replacements(held, ns, seed):
    """{what it is: (M, N, ..., C) in place of what is held}: what would be found if that did not matter.

    Of a problem's N thoughts its first n of ns count; another's are those of the nearest before it that has as many.
    """
    if not held.numel():
        return {}
    M, N = held.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(held.shape, generator=generator)
    has = torch.arange(N) < torch.tensor(ns)[:, None]  # (M, N)
    counts = has.view(M, N, *[1] * (held.dim() - 2))
    other = [max(range(M), key=lambda j: (ns[j] >= ns[i], (j - i) % M)) for i in range(M)]
    places = (torch.rand(M, N, generator=generator) + ~has).argsort(1)  # of each problem's own, in another order
    return {
        "their own": held,
        "another question's": held[other],
        "the mean of all questions'": ((held * counts).sum(0) / counts.sum(0).clamp(min=1)).expand_as(held),
        "noise of the same norm": F.normalize(noise, dim=-1) * held.norm(dim=-1, keepdim=True),
        "zeros": torch.zeros_like(held),
        "in another order": held[torch.arange(M)[:, None], places],
    }


def one_at_a_time(held, other):
    """{what it is: (M, N, ...)} with a single thought of another question's."""
    found = {}
    for i in range(held.size(1)):
        found[f"another's thought {i + 1}"] = held.clone()
        found[f"another's thought {i + 1}"][:, i] = other[:, i]
    return found


# ---------------------------------------------------------------- values


def candidate_steps(graph, task):
    """[(tokens of a step that could be written, the node it goes to), ...]."""
    form, encode = task.cfg.step_format, task.tok.encode_ordinary
    if graph.sentences:
        edges = [(a, b) for a in graph.successors for b in graph.successors[a]]
        steps = [(f"{a if a[0].isupper() else f'Every {a}'} is a {b}.", b) for a, b in edges]  # people have capitals
    else:
        steps = [(node, node) for node in graph.successors]
    return [(encode(form.replace("{}", text)), node) for text, node in steps]


def text_probabilities(model, prompts, texts):
    """For each Prompt, the probability of each of its texts (lists of tokens) as what comes next.

    Every prompt is read once; then its past is read on from with each text.
    """
    device = next(model.parameters()).device
    batch = data.collate([Row(*prompt, labels=[]) for prompt in prompts], device)
    said = data.collate([Row(text, 0, [], []) for of in texts for text in of], device)  # prefix (M, S)
    thinking = model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix)
    row = torch.tensor([i for i, of in enumerate(texts) for _ in of], device=device)  # (M,) whose text it is
    real = torch.arange(said.prefix.size(1), device=device) < said.prefix_len[:, None]  # (M, S)
    h = [thinking.predicting[row, -1:]]  # (M, 1, C)
    if said.prefix.size(1) > 1:
        states, _ = model.read(model.embed(said.prefix[:, :-1]), real[:, 1:], thinking.past.select(row))
        h.append(states[-1])
    log_p = model.head(torch.cat(h, 1)).float().log_softmax(-1).gather(2, said.prefix[..., None])[..., 0]
    return [p.tolist() for p in log_p.masked_fill(~real, 0).sum(1).exp().cpu().split([*map(len, texts)])]


def node_values(model, prompts, graphs, task):
    """For each problem {node: its value}."""
    found, steps = [], [candidate_steps(graph, task) for graph in graphs]
    size = max(1, task.cfg.eval_batch_size // max(map(len, steps), default=1))
    for start in range(0, len(prompts), size):
        some = slice(start, start + size)
        chances = text_probabilities(model, prompts[some], [[text for text, _ in of] for of in steps[some]])
        for graph, of, ps in zip(graphs[some], steps[some], chances):
            values = dict.fromkeys(graph.successors, 0.0)
            for (_, node), p in zip(of, ps):
                values[node] += p
            found.append(values)
    return found


def values_after(asked, n):
    """{number of a problem: its node_values after n thoughts}, for those that have a step left."""
    if not asked.graphs:
        return {}
    left = [i for i, path in enumerate(asked.paths) if len(path) > n // max(1, asked.task.cfg.c_thought)]
    prompts = [asked.prompt(asked.problems[i], n) for i in left]
    if asked.told:  # such a thought says itself what comes next, without <eot>
        prompts = [prompt._replace(eot=[]) for prompt in prompts]
    return dict(zip(left, node_values(asked.model, prompts, [asked.graphs[i] for i in left], asked.task)))
