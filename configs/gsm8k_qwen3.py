"""As gsm8k.py, with Qwen3-0.6B: five times as large as GPT-2. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_qwen3"
init_from = "qwen3-0.6b"  # or qwen2.5-0.5b: sizes and tokenizer come with it
tokenizer = "source"  # digits one by one; the special tokens take rows that were never trained

c_thought = 2
max_latent_stage = 3
pad_latent_to_max = True
markers = "both"

epochs = (6, 3, 3, 3, 35)
batch_size = 128
micro_batch_size = 16  # weights, gradients and moments take 10 GB already
sort_window = 100
dtype = "auto"
lr = 1e-4  # the paper's, for GPT-2; not tried here
weight_decay = 0.01
dropout = 0.0  # Llamas are not pretrained with it

max_new_tokens = 128
eval_batch_size = 64  # the validation loss computes 151,936 logits for each token of so many solutions
