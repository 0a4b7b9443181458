"""Addition in the head: carries and all, without writing a column. Run `python -m tasks.prepare_addition` first."""

data_dir = "data/addition"
out_dir = "out/addition"

# no spaces: each character is a token, so that a step ("15": the column's sum) is two
tokenizer = "chars"
question_format = "{}="
step_format = "{}"
answer_format = "#{}"

max_latent_stage = 4  # four columns
c_thought = 2  # as many thoughts as a step has tokens: what follows stays at the positions it has been learned at
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages
peek = True  # from scratch nothing else tells the first thought what to be about

master_at = 0.997  # see configs/hops.py; at 0.99 one seed of five ended with 98.5 % on the test file
steps = (2000, 1500)
eval_every = 100

batch_size = 64
lr = (1e-3, 5e-4)  # halved for the later stages, as in hops.py
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
