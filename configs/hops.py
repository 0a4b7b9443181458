"""Quick start: follow four arrows without writing a word. Run `python prepare_hops.py` first; minutes on a laptop."""

data_dir = "data/hops"
out_dir = "out/hops"

# one token for a node, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"

max_latent_stage = 4  # four steps, so stage 4 writes none
c_thought = 1  # a step is one token: with as many thoughts, what follows stays at the positions it has been learned at
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages: without it some seeds get lost in stage 3 or 4
peek = True  # from scratch nothing else tells the first thought what to be about (LOG.md)

init = "induction"  # an arrow is looked up after 100 steps; with GPT-2's weights after 400 to 500, or never (LOG.md)

# How long a stage takes depends on the seed: a fixed length would be too short for one, or too long for the next. So a
# stage ends when the model has mastered it, and these are only the limits.
master_at = 0.999
steps = (3000, 1000)
eval_every = 50

batch_size = 64
lr = (1e-3, 5e-4)  # 2e-3 never leaves chance; halved for the later stages, whose first steps are rough
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
