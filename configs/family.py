"""Families in sentences, the example of docs/own_data.md. Run `python -m tasks.prepare_family` first."""

data_dir = "data/family"
out_dir = "out/family"

# one token for a name, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
block_size = 96  # nine sentences of seven tokens, the question, steps and answer

max_latent_stage = 3  # no problem has more steps
markers = "none"  # what follows a thought is then at the place where it follows a step, and peek is not needed
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages

init = "induction"  # looks for a parent five tokens before the child; GPT-2's weights are at chance after 700 steps

master_at = 0.99  # see configs/hops.py
steps = (2000, 1000)  # limits: 150 to 200 and 50 to 100 were needed (docs/own_data.md)
eval_every = 50

batch_size = 64
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
