"""
ProsQA from scratch, in symbols: a node is a token, an edge two. The full task alone does not teach a small model to
look up an edge, so this is the top of a ladder, whose first rungs are in README.md.

    python prepare_prosqa.py --generate=20000 --symbols
    python train.py configs/prosqa_scratch.py --init_from=out/dag11/best.pt

On a GPU, with the sizes of "Reasoning by Superposition" (2505.12514): --n_embd=768 --n_head=8 --lr=1e-4
--batch_size=256 on all rungs, and several times as many steps. Nobody has run that yet.
"""

data_dir = "data/prosqa_symbols"
out_dir = "out/prosqa_scratch"

# a node is one token, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
# nodes get new names and edges a new order each time: 20,000 graphs are few, so they must not be learned
names = r" \d+"

# After k thoughts any node k + 1 steps from the root is right ("Reasoning by Superposition"): that can be learned by
# looking up edges, while the first step of the right path needs the whole search. Stage 0 writes a path nevertheless,
# and often a wrong one: it is there to learn to go on from any node, not only from the root (LOG.md).
target = ("rest", "frontier")
max_latent_stage = 6  # no problem has more steps, so stage 6 writes only the answer
pad_latent_to_max = True  # the number of thoughts must not give away how far the target is
c_thought = 1
peek = True  # from scratch nothing else tells the first thought what to be about (LOG.md)
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages

steps = (200, 1000, 800, 600, 600, 500, 600)  # half an hour of a core
eval_every = 100

fixed_positions = True  # where an edge stands says nothing; learned positions must be learned one by one (LOG.md)
block_size = 200  # up to 68 edges and 6 thoughts
batch_size = 64
lr = (1e-3,)
min_lr_ratio = 0.1  # 8 nodes, stage 1: 83 % without, 90 % after 3,000 more steps with it (LOG.md)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
