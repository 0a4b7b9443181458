"""GSM8K with GPT-2, the paper's recipe (section 4) on one GPU. Run `python prepare_gsm8k.py` first."""

data_dir = "data/gsm8k"
out_dir = "out/gsm8k"
init_from = "gpt2"  # 124M parameters, pretrained: reading and arithmetic are not learned from 385,620 problems
tokenizer = "gpt2"

c_thought = 2  # two thoughts for a step of some ten tokens
max_latent_stage = 3  # six thoughts; then a final stage, in which no step is written, however many there are
pad_latent_to_max = True  # short problems think as long as the others, as in the official configuration
markers = "both"  # also in stage 0, where the official code has none (it starts from a separately trained model)

epochs = (6, 3, 3, 3, 35)  # 50 in all
batch_size = 128
micro_batch_size = 32  # what fits into 24 GB; but for dropout's random numbers the result does not depend on it
sort_window = 100  # rows of similar length share a batch: 13 % of the positions are padding, not 50 %
dtype = "auto"  # bfloat16 where the GPU has it; the paper's runs are in float32
lr = 1e-4  # constant, no warm-up, no clipping
weight_decay = 0.01
dropout = 0.1  # as GPT-2 was pretrained

max_new_tokens = 128
