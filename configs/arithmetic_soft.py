"""
Arithmetic with names, thought in soft tokens: from random weights to answers, no step written. 3 minutes of a core.

    python -m tasks.prepare_arithmetic
    python train.py configs/arithmetic_soft.py

What is fed back is what the model would have said, sum_w p(w) E(w), and after each thought it is told which token of
the written steps comes next. So a thought is a word that nobody had to choose. (What else was tried: docs/methods.md.)
"""

data_dir = ("data/arithmetic", "data/arithmetic")  # its one stage comes twice: see teacher_forcing
out_dir = "out/arithmetic_soft"

# one token for a name, a number, and what is done: "a b+6" is three of them, " a", " b", "+6"
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " # {}"

method = "no_curriculum+sets"
max_latent_stage = 5  # the given number and four operations
c_thought = 4  # a step is four tokens, " b", "+6", " =", " 3"; only the first, " a", " =", " 4", is three
markers = "eot"  # the last thought predicts the last number, <eot> the answer
feedback = "soft"
thought_targets = "tokens"
teacher_forcing = (1.0, 0.5)  # at first all thoughts are given, and learned at once; then, in half of the training
# steps, it thinks for itself
init = "induction"  # definitions have to be looked up

steps = (900, 300)
eval_every = 100
block_size = 80

batch_size = 32
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000
