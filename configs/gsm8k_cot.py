"""GSM8K with GPT-2, all steps written: a row of the paper's table 1. For the values see gsm8k.py."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_cot"
init_from = "gpt2"
tokenizer = "gpt2"
method = "cot"

max_latent_stage = 3
epochs = (6, 3, 3, 3, 35)  # gsm8k.py's stages; this method has only one, which gets the 50 epochs of all of them
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4
weight_decay = 0.01
dropout = 0.1

max_new_tokens = 128
