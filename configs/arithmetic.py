"""Arithmetic with names: a chain of sums, differences and products. Run `python -m tasks.prepare_arithmetic` first."""

data_dir = "data/arithmetic"
out_dir = "out/arithmetic"

# one token for a name, a number, and what is done: "a b+6" is three of them, " a", " b", "+6"
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " # {}"

max_latent_stage = 5  # the given number and four operations
c_thought = 1
block_size = 80
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages
peek = True  # from scratch nothing else tells the first thought what to be about
init = "induction"  # definitions have to be looked up

master_at = 0.99  # see configs/hops.py
steps = (3000, 1000)
eval_every = 100

batch_size = 32
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
