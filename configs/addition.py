data_dir = "data/addition"
out_dir = "out/addition"
tokenizer = "chars"
question_format = "{}="
step_format = "{}"
answer_format = "#{}"
c_thought = 2
max_latent_stage = 4
peek = True
uniform_prob = 0.3
steps = (3000, 2000, 2000, 2000, 4000)
master_at = 0.99
batch_size = 64
lr = (1e-3,)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99
eval_every = 100
