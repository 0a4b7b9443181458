"""GSM8K with GPT-2 by CODI (2502.21074): a teacher in words, no curriculum. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_codi"
init_from = "gpt2"
tokenizer = "gpt2"
method = "codi"  # losses: ce, teacher, distance, with a weight of 1 each (for Llama-1B the paper has distance:20)

answer_format = "The answer is: {}"  # student and teacher are compared at the colon
feedback = "projection"  # two layers between the hidden state and the next thought
c_thought = 2  # six thoughts for every problem
max_latent_stage = 3
pad_latent_to_max = True

epochs = (8, 8, 8, 8, 8)  # the one stage gets all 40
batch_size = 128
micro_batch_size = 32
sort_window = 100
lr = 1e-4  # for all weights, as in gsm8k.py; the paper trains a LoRA of rank 128 with 3e-3
warmup_steps = 3600  # 3 %
min_lr_ratio = 0.0  # cosine
weight_decay = 0.1
grad_clip = 2.0
dropout = 0.1

max_new_tokens = 128
