data_dir = "data/hops"
out_dir = "out/hops"
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
max_latent_stage = 4
peek = True
uniform_prob = 0.3
steps = (4000, 1500, 1500, 1500, 3000)
master_at = 0.99
batch_size = 32
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99
eval_every = 50
