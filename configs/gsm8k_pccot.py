"""GSM8K with GPT-2 by PCCoT (2506.18582): 24 thoughts in three passes. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_pccot"
init_from = "gpt2"
tokenizer = "gpt2"
method = "pccot"  # losses: ce, teacher, distance, with a weight of 1 each
passes = 3

answer_format = "The answer is: {}"
c_thought = 8  # 24 thoughts for every problem
max_latent_stage = 3
pad_latent_to_max = True

# how it is trained: as gsm8k_codi.py, whose losses it has
epochs = (8, 8, 8, 8, 8)
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4
warmup_steps = 3600
min_lr_ratio = 0.0
weight_decay = 0.1
grad_clip = 2.0
dropout = 0.1

max_new_tokens = 128
