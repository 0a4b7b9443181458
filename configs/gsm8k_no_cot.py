"""GSM8K with GPT-2, the answer at once: a row of the paper's table 1. For the values see gsm8k.py."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_no_cot"
init_from = "gpt2"
tokenizer = "gpt2"
method = "no_cot"
max_latent_stage = 0  # no curriculum: one stage

epochs = 25  # the best of them on the validation file is tested, so more do no harm
batch_size = 128
micro_batch_size = 32
lr = 1e-4
weight_decay = 0.01
dropout = 0.1

max_new_tokens = 128
