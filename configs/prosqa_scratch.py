"""
ProsQA at the paper's size, from random weights on a CPU, in symbols: a search in thoughts.

    python prepare_prosqa.py --generate=30000 --symbols --test=1000
    python train.py configs/prosqa_scratch.py                # thoughts are sets of nodes
    python train.py configs/prosqa_scratch_last.py           # thoughts are hidden states, from there
"""

data_dir = ("data/prosqa_symbols", "data/prosqa_symbols")  # the one stage comes twice, then with a decaying rate
out_dir = "out/prosqa_scratch"

# a node is one token, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
task = "graphs"
names = r" \d+"  # nodes get new names and edges a new order each time: graphs must not be learned by heart
questions = 8  # about each graph, from other roots: its edges are read once for all of them

# The ideal thought k is the set of nodes that k steps can have reached. It is known, so it is given, and all six are
# learned at once, as words are: each from the true one before. No curriculum is needed, nor any written step.
method = "no_curriculum+sets"
max_latent_stage = 6  # no problem has more steps
pad_latent_to_max = True  # the number of thoughts must not give away how far the target is
markers = "eot"  # the first thought follows the root itself, as every other follows the thought before
thought_targets = "walks"
feedback = "members"
losses = ("ce:3", "members:1")  # 3: of the suffix's three scored tokens, only the answer has to be found out
teacher_forcing = 1.0
init = "induction"  # an edge is looked up from the first step on; GPT-2's weights need hundreds (LOG.md)

steps = (2500, 2500)
min_lr_ratio = (1.0, 0.03)
eval_every = 250
block_size = 260  # up to 68 edges of three tokens, and six thoughts
n_head = 2  # of 64 dimensions: with 32, of two children one gets most
batch_size = 16  # graphs: 128 questions
lr = 2e-3
warmup_steps = 100
grad_clip = 1.0
beta2 = 0.99
