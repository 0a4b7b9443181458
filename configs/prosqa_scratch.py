"""
ProsQA from scratch, in symbols, at the paper's size: a node is a token.

    python prepare_prosqa.py --generate=30000 --symbols
    python train.py configs/prosqa_scratch.py
"""

data_dir = "data/prosqa_symbols"
out_dir = "out/prosqa_scratch"

# a node is one token, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
names = r" \d+"  # nodes get new names and edges a new order each time: graphs must not be learned by heart
questions = 8  # about each graph, from other roots: its edges are read once for all

method = "no_curriculum"  # all thoughts at once
max_latent_stage = 6  # no problem has more steps
pad_latent_to_max = True  # the number of thoughts must not give away how far the target is
markers = "eot"
thought_targets = "walks"
teacher_forcing = 1.0
feedback = "members"
losses = ("ce:3", "thoughts", "members")

steps = 1000
eval_every = 100
block_size = 260
n_head = 2
batch_size = 16  # graphs: 128 questions
lr = 2e-3
init = "induction"
warmup_steps = 100
grad_clip = 1.0
beta2 = 0.99
