"""GSM8K with GPT-2 by LOTUS (2606.31779): blocks of pads, six passes. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_lotus"
init_from = "gpt2"
tokenizer = "gpt2"
method = "lotus"  # losses: ce, and with a weight of 0.05 step_tokens, each at its thought
passes = 6

c_thought = 10  # a block for each step, a pad for each token: 95 % of GSM8k-Aug's steps have no more (speed/bench.py)
max_latent_stage = 6  # 98 % of the problems have no more steps
pad_latent_to_max = True

epochs = (6, 6, 6, 6, 6, 6, 7, 7)  # the one stage gets all 50, as many as in gsm8k.py
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4
weight_decay = 0.01
dropout = 0.1

max_new_tokens = 128
