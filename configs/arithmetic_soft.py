"""
Arithmetic with names, thought in soft tokens: from random weights to answers, no step written. 3 minutes of a core.

    python prepare_arithmetic.py
    python train.py configs/arithmetic_soft.py

Where arithmetic.py stays at chance, this gets through: each thought is told which token it stands for, and what is fed
back is what the model would have said, sum_w p(w) E(w). So a thought is a word that nobody had to choose.
"""

data_dir = "data/arithmetic"
out_dir = "out/arithmetic_soft"

# one token for a name, a number, and what is done: "a b+6" is three of them, " a", " b", "+6"
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " # {}"

method = "no_curriculum"
max_latent_stage = 5  # the given number and four operations
c_thought = 4  # a step is four tokens, such as " b", "+6", " =", " 3"
markers = "none"  # the answer follows the last thought as it would follow the last step
feedback = "soft"
losses = ("ce", "thoughts")
thought_targets = "tokens"
teacher_forcing = (1.0, 0.5)  # at first all thoughts are given, and learned at once; then half of the steps are its own
init = "induction"  # definitions have to be looked up

steps = (900, 300)
eval_every = 100
block_size = 80

batch_size = 32
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000
