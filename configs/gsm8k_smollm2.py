"""As gsm8k.py, with SmolLM2-135M, which is as large as GPT-2. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k_smollm2"
init_from = "smollm2-135m"  # or hf:HuggingFaceTB/SmolLM2-360M: its sizes and its tokenizer come with it
tokenizer = "source"  # digits one by one

c_thought = 2
max_latent_stage = 3
pad_latent_to_max = True
markers = "both"

epochs = (6, 3, 3, 3, 35)
batch_size = 128
micro_batch_size = 32
sort_window = 100
dtype = "auto"
lr = 1e-4
weight_decay = 0.01
dropout = 0.0  # Llamas are not pretrained with it

max_new_tokens = 128
