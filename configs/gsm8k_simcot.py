"""GSM8K with GPT-2 by SIM-CoT (2509.20317) on Coconut: ten thoughts, decoded. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_simcot"
init_from = "gpt2"
tokenizer = "gpt2"
method = "simcot"  # losses: ce, and with a weight of 1 the decoder's, a second GPT-2

c_thought = 2
max_latent_stage = 5  # five groups of two thoughts; the last one stands for all steps that are left
pad_latent_to_max = True

epochs = (25, 3, 3, 3, 3, 3, 3)  # CoT, five stages, and the final one; theirs adds the decoder to a finished Coconut
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4
weight_decay = 0.01
dropout = 0.1

max_new_tokens = 128
