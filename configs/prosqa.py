"""ProsQA with GPT-2, the paper's recipe (section 4) on one GPU. Run `python prepare_prosqa.py` first."""

data_dir = "data/prosqa"
out_dir = "out/prosqa"
init_from = "gpt2"  # 124M parameters, pretrained, and with it 1,024 positions: questions have up to some 520 tokens
tokenizer = "gpt2"

c_thought = 1  # one thought for a step ("Every shumpus is a rempus.")
max_latent_stage = 6  # no problem has more steps, so stage 6 writes none
pad_latent_to_max = True  # the paper's 14.2 tokens are 8.2 written ones and 6 thoughts, though most have 3 or 4 steps

epochs = (5, 5, 5, 5, 5, 5, 20)  # stages 0 to 6: five each, the last one gets what remains of 50
batch_size = 128
micro_batch_size = 8  # as many tokens as 32 of GSM8K's problems (gsm8k.py): questions are four times as long
sort_window = 100  # rows of similar length share a batch
dtype = "auto"  # bfloat16 where the GPU has it; the paper's runs are in float32
lr = 1e-4  # constant, no warm-up, no clipping
weight_decay = 0.01
dropout = 0.1  # as GPT-2 was pretrained

eval_batch_size = 100  # the keys and values of so many long questions are up to 4.5 GB in float32
