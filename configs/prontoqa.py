"""ProntoQA with GPT-2, the paper's recipe (section 4) on one GPU. Run `python -m tasks.prepare_prontoqa` first."""

data_dir = "data/prontoqa"
out_dir = "out/prontoqa"
init_from = "gpt2"  # 124M parameters, pretrained, and with it 1,024 positions: a problem has some 330 tokens
tokenizer = "gpt2"

c_thought = 1  # one thought for a step of two sentences
max_latent_stage = 6  # five hops are six steps, so stage 6 writes none

epochs = (5, 5, 5, 5, 5, 5, 20)  # stages 0 to 6: five each, the last one gets what remains of 50
batch_size = 128
micro_batch_size = 8  # as many tokens as 32 of GSM8K's problems (gsm8k.py): problems are three to four times as long
sort_window = 100  # rows of similar length share a batch
dtype = "auto"  # bfloat16 where the GPU has it; the paper's runs are in float32
lr = 1e-4  # constant, no warm-up, no clipping
weight_decay = 0.01
dropout = 0.1  # as GPT-2 was pretrained
