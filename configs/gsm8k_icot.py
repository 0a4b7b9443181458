"""GSM8K with GPT-2, steps removed token by token (iCoT, 2405.14838): a row of the paper's table 1. See gsm8k.py."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_icot"
init_from = "gpt2"
tokenizer = "gpt2"
method = "icot"

icot_tokens = 8  # more of them go in each epoch, from the left
max_latent_stage = 5  # after 0, 8, ..., 32 tokens; from stage 5 on, past 39, no step is written
epochs = (1, 1, 1, 1, 1, 45)  # 50 in all, as the other methods
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4
weight_decay = 0.01
dropout = 0.1

max_new_tokens = 128
