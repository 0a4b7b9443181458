"""
The settings of a training run, with their bounds and defaults. How they are read: config.py; why a value: configs/.
"""

import re
from dataclasses import dataclass

from config import UserError, option
from curriculum import METHODS, TAUGHT, losses_of
from feedback import make_feedback
from losses import parse_losses

# settings that only one of the base models has
ONLY = {"gpt2": ("init",), "llama": ("n_kv_head", "head_dim", "n_inner", "rope_theta")}
# what a method that does not think has no use for, and which of the losses
THINKING = {"stop": "", "passes": 0, "in_place": False, "feedback": "last", "thought_positions": "none"}
THINKING_LOSSES = {"thoughts", "members", "decoder", "stop", "ponder"}


@dataclass
class TrainConfig:
    """Where a setting may have several values, each belongs to one stage, and the last one to all further stages."""

    # data
    data_dir: tuple[str, ...] = option(("data/hops",), "folder of train.json, valid.json, test.json, for each stage")
    tokenizer: str = option(
        "words",
        "gpt2, that of the weights in init_from (source), or one made from the training data",
        ("gpt2", "source", "words", "chars"),
    )
    question_format: str = option("{}\n", "how a question is written; these three are the official code's")
    step_format: str = option("{}\n", "how a step is written")
    answer_format: str = option("### {}", "how the answer is written; what stands before {} marks it when grading")
    # method
    method: str = option(
        "coconut", "what to train: a row of table 1, or a later method (curriculum.py)", tuple(METHODS)
    )
    c_thought: int = option(1, "thoughts in place of one written step (the paper's c)", least=0, most=1000)
    max_latent_stage: int = option(
        4, "stages after stage 0; a final one follows if some steps remain", least=0, most=1000
    )
    pad_latent_to_max: bool = option(
        False, "problems with few steps get as many thoughts as the others; always with stop=ponder"
    )
    mixing: str = option(
        "uniform",
        "examples of other stages in a stage: any, with a chance of uniform_prob; earlier ones, i with weight i + 1",
        ("none", "uniform", "proportional"),
    )
    uniform_prob: tuple[float, ...] = option((0.0,), "chance of a random stage for an example", least=0, most=1)
    remove_from: str = option("front", "which steps are replaced first", ("front", "back"))
    markers: str = option("both", "which of <bot> and <eot> stand around the thoughts", ("both", "bot", "eot", "none"))
    peek: bool = option(False, "train the place before <eot>, too, to predict what follows <eot> (see README)")
    icot_tokens: int = option(8, "tokens of the steps that each further stage of icot removes", least=1)
    feedback: str = option("last", "what is fed back as the next thought (feedback.py)")
    thought_positions: str = option(
        "none",
        "what tells thoughts apart: their places only, or a learned vector for each, too",
        ("none", "learned"),
    )
    passes: int | None = option(
        None, "thoughts all at once, in so many passes; 0: one after the other; by default 0 (pccot: 3, lotus: 6)",
        least=0, most=1000,
    )  # fmt: skip
    in_place: bool | None = option(None, "a pass makes a thought from its own states; by default only with lotus")
    stop: str = option(
        "", "a head that says when to stop thinking, and how it is trained (losses.py)", ("", "classifier", "ponder")
    )
    thought_targets: str = option(
        "",
        "what thoughts should predict, for --losses=thoughts: a step, its tokens, a graph's nodes",
        ("", "steps", "tokens", "walks"),
    )
    teacher_forcing: tuple[float, ...] = option(
        (0.0,), "share of steps whose thoughts are not the model's, but what they should be", least=0, most=1
    )
    rounds: tuple[int, ...] = option(
        (0,),
        "given thoughts are fed back up to so many times, all at once: closer and closer to the model's own",
        least=0,
        most=1000,
    )
    decoder: str = option(
        "model", "simcot: what decodes thoughts: a second model, or the model's own head", ("model", "head")
    )
    teacher_writes: str = option(
        "without_last",
        "steps that the teacher of codi and pccot writes: without the last one (CODI)",
        ("without_last", "all"),
    )
    losses: tuple[str, ...] = option(("ce",), "what is trained on, each NAME or NAME:WEIGHT (losses.py)")
    names: str = option("", "nodes of a graph (edges first, root last), a regex: renamed, edges shuffled each epoch")
    questions: int = option(
        1, "with names: questions about each graph, whose edges are read once for all", least=1, most=1000
    )
    grading: str = option("text", "accuracy: equal texts; gsm8k: without commas (their code)", ("text", "gsm8k"))
    # model
    init_from: str = option(
        "scratch", "scratch, or weights to begin with: best.pt of a run, gpt2, ..., hf:owner/name, a file, a folder"
    )
    model: str = option(
        "gpt2", "the base model, model.py's or pretrained/llama.py's; weights bring theirs", ("gpt2", "llama")
    )
    n_layer: int = option(2, "transformer blocks", least=1, most=1000)
    n_head: int = option(4, "attention heads", least=1, most=1000)
    n_embd: int = option(128, "width", least=1, most=100_000)
    block_size: int = option(64, "positions that a sequence may have, thoughts included", least=1, most=10**6)
    init: str = option("gpt2", "how random weights are drawn (init.py)", ("gpt2", "induction"))
    dropout: float = option(0.0, "dropout", least=0, most=1)
    n_kv_head: int = option(0, "llama: heads of keys and values, which others share; 0: n_head", least=0, most=1000)
    head_dim: int = option(0, "llama: width of a head; 0: n_embd / n_head", least=0, most=100_000)
    n_inner: int = option(0, "llama: width of the MLP; 0: 8/3 n_embd", least=0, most=10**6)
    rope_theta: float = option(10000.0, "llama: the slowest rotation's period, in 2 pi positions", least=1)
    # optimisation
    epochs: tuple[int, ...] = option((1,), "length of each stage in passes over the training data", least=1)
    steps: tuple[int, ...] = option(
        (), "length of each stage in optimizer steps, instead of epochs; a single stage gets the sum of all", least=1
    )
    master_at: float = option(0.0, "leave a stage once validation accuracy reaches this; 0: never", least=0, most=1)
    batch_size: int = option(64, "examples in an optimizer step", least=1)
    micro_batch_size: int = option(0, "examples in a forward pass, gradients accumulate; 0: all of them", least=0)
    micro_batch_tokens: int = option(0, "positions in a forward pass, padding included; 0: no limit", least=0)
    sort_window: int = option(1, "batches whose examples are sorted by length, against padding; 1: no sorting", least=1)
    lr: tuple[float, ...] = option((1e-3,), "learning rate of each stage", least=0)
    warmup_steps: int = option(0, "steps of linear warm-up in each stage", least=0)
    min_lr_ratio: tuple[float, ...] = option((1.0,), "cosine decay to this fraction of lr in a stage; 1: none", least=0)
    weight_decay: float = option(0.01, "AdamW's weight decay, on all parameters", least=0)
    beta2: float = option(0.999, "AdamW's second beta", least=0, most=0.999999)
    grad_clip: float = option(0.0, "largest norm of the gradient; 0: no limit", least=0)
    dtype: str = option("auto", "auto: bfloat16 where the GPU has it, else float32", ("auto", "float32", "bfloat16"))
    gradient_checkpointing: bool = option(False, "compute activations again when needed: slower, with less memory")
    backprop_thoughts: int | None = option(None, "gradient only through a row's last so many thoughts", least=1)
    compile: bool = option(False, "torch.compile the blocks: minutes at the start, for a GPU (not measured yet)")
    fast: bool = option(False, "the same numbers sooner, for large models on a CPU (speed/fast.py)")
    shard: bool = option(False, "with torchrun: spread weights and moments over the processes (FSDP2)")
    reset_optimizer: str = option("stage", "a new AdamW each stage (paper) or epoch (their code)", ("stage", "epoch"))
    # evaluation, files, machine
    eval_every: int = option(0, "steps between evaluations; 0: at the end of each epoch", least=0)
    eval_batch_size: int = option(250, "questions answered at once in an evaluation", least=1)
    eval_only: str = option("", "no training: evaluate this checkpoint, or weights from elsewhere")
    eval_file: str = option("", "the data file for --eval_only; by default test.json in the last data_dir")
    max_new_tokens: int = option(0, "most tokens written in an evaluation; 0: as the longest solution", least=0)
    log_every: int = option(50, "steps between progress lines", least=1)
    save_every: int = option(0, "steps between checkpoints; 0: only after evaluations and by the clock", least=0)
    save_minutes: float = option(10.0, "longest time between checkpoints", least=0)
    out_dir: str = option("out/hops", "where checkpoints and log.txt go")
    resume: bool = option(False, "go on with the run in out_dir")
    overwrite: bool = option(False, "discard the run in out_dir and start again")
    seed: int = option(1, "decides the initial weights and the order of the data", least=0, most=2**63)
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto: cuda if there is one, else cpu")

    @staticmethod
    def suit(file, flags):
        """(a config file's settings, without those that the command line's method has no use for; the names of these).

        So a baseline is one --method=... away from any config. What the command line itself says must suit.
        teacher_forcing stays in any case, since its length says how many phases there are.
        """
        if flags.get("method") not in METHODS:
            return file, []
        method, losses, idle = METHODS[flags["method"]], file.get("losses", ()), {}  # idle: name: its idle value
        if method.instead != "thought":
            idle |= THINKING | {"rounds": (0,), "thought_targets": ""}
            losses = [loss for loss in losses if loss.partition(":")[0] not in THINKING_LOSSES]
        if flags["method"] != "simcot":
            idle["decoder"] = "model"
        if not TAUGHT & {loss.partition(":")[0] for loss in (*method.losses, *flags.get("losses", losses))}:
            idle["teacher_writes"] = "without_last"
        kept = {k: v for k, v in file.items() if k not in idle and k != "losses"}
        kept |= {"losses": tuple(losses)} if losses else {}
        given = {k: v for k, v in file.items() if k not in flags}
        left_out = [f"{k}={v}" for k, v in given.items() if k in idle and v not in (None, idle[k])]
        return kept, left_out + [f"the loss {loss}" for loss in given.get("losses", ()) if loss not in losses]

    def __post_init__(self):
        for name, value in ({"passes": 0, "in_place": False} | METHODS[self.method].settings).items():
            if getattr(self, name) in (None, ""):
                setattr(self, name, value)
        for name in ("question_format", "step_format", "answer_format"):
            if getattr(self, name).count("{}") != 1:
                raise UserError(f"{name} = {getattr(self, name)!r}, expected one {{}} in it, where the text goes")
        if not self.answer_format.partition("{}")[0].strip():
            raise UserError(
                f"answer_format = {self.answer_format!r}, expected a mark before {{}}, to find the answer by"
            )
        try:
            re.compile(self.names)
        except re.error as e:
            raise UserError(f"names = {self.names!r} is not a regular expression: {e}") from None
        make_feedback(self.feedback, 1)  # for its errors, and so is this
        try:
            parse_losses(self.losses)
        except ValueError as e:
            raise UserError(str(e)) from None
        if self.n_embd % self.n_head and not self.head_dim:
            raise UserError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        losses = losses_of(self).keys()
        if METHODS[self.method].instead != "thought":
            idle = [f"{k}={getattr(self, k)}" for k, nothing in THINKING.items() if getattr(self, k) != nothing]
            idle += [f"losses={name}" for name in losses if name in THINKING_LOSSES]
            if idle:
                raise UserError(f"{idle[0]}: method={self.method} does not think")
        if {"stop", "ponder"} & losses and not self.stop:
            raise UserError("losses: stop and ponder need --stop, which gives the model a head for it")
        if self.decoder == "head" and self.method != "simcot":
            raise UserError(f"decoder=head has no effect: method={self.method} has no decoder")
        if self.teacher_writes == "all" and not TAUGHT & losses:
            raise UserError(f"teacher_writes=all has no effect: method={self.method} has no teacher")
        if self.init == "induction" and self.n_embd % 2:
            raise UserError(f"n_embd={self.n_embd} is odd, but init=induction has its positions in pairs of numbers")
        if self.stop == "ponder":  # or a short problem would never learn to stop: it is at its end anyway
            self.pad_latent_to_max = True
        if self.method == "simcot" and self.decoder == "head":
            self.thought_targets = self.thought_targets or "steps"
        if {"thoughts", "members"} & losses and not self.thought_targets:
            raise UserError("losses: thoughts and members need --thought_targets, which say what to predict")
        if self.thought_targets and not self.c_thought:
            raise UserError(f"thought_targets={self.thought_targets} is for thoughts, but c_thought=0")
        if self.in_place and not self.passes:
            raise UserError("in_place needs passes of at least 1")
        for name in ("stop", "backprop_thoughts", "teacher_forcing") if self.passes else ():
            if getattr(self, name) not in ("", None, (0.0,)):
                one = f"{name}={getattr(self, name)}"
                raise UserError(f"{one} needs thoughts one after the other, not passes={self.passes}")
        forced = any(self.teacher_forcing) and METHODS[self.method].instead == "thought"
        if forced and not self.thought_targets:
            raise UserError("teacher_forcing needs --thought_targets, which say what thoughts should be")
        if any(self.rounds) and not forced:
            raise UserError("rounds have no effect without --teacher_forcing")
        if self.peek and self.markers in ("none", "bot"):
            raise UserError(
                f"peek has no effect: with markers={self.markers} there is no <eot>, and it is always trained"
            )
        if self.backprop_thoughts is not None and (forced or self.stop == "ponder"):
            whom = "teacher_forcing" if forced else "stop=ponder"
            raise UserError(f"backprop_thoughts cuts thoughts one after the other, {whom} reads them all at once")
        for name in {"decoder", "seq_vcr"} & losses if self.shard else ():
            raise UserError(f"losses={name} trains something of its own, which --shard does not spread over processes")
        if self.stop == "ponder" and self.questions > 1:
            raise UserError("stop=ponder reads each row again, which it cannot with questions > 1")
        for model, names in ONLY.items():
            for name in names if model != self.model else ():
                if getattr(self, name) != getattr(TrainConfig, name):
                    raise UserError(f"{name}={getattr(self, name)} is for model={model}, but this is {self.model}")
        if not self.out_dir:
            raise UserError("out_dir is empty, expected a folder")
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite: expected one of them")
