"""ProsQA from scratch, second part: the thoughts are the last hidden state itself, as in the paper. See the first."""

data_dir = ("data/prosqa_symbols", "data/prosqa_symbols")  # its one stage comes twice
out_dir = "out/prosqa_scratch_last"
init_from = "out/prosqa_scratch/best.pt"

tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
task = "graphs"
names = r" \d+"
questions = 8

method = "no_curriculum+sets"
max_latent_stage = 6
pad_latent_to_max = True
markers = "eot"
thought_targets = "walks"
feedback = "last"
losses = ("ce:3", "members:1")
teacher_forcing = 0.6  # the other steps think for themselves, one thought after the other
rounds = 2  # given thoughts are sets, or hidden states that followed from sets, or from such hidden states

steps = (800, 1700)
min_lr_ratio = (1.0, 0.03)
eval_every = 250
block_size = 260
batch_size = 16
lr = 2e-3
warmup_steps = 100
grad_clip = 1.0
beta2 = 0.99
