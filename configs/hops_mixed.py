"""
Stop thinking when it is enough: two to six arrows to follow, and as many thoughts.

    python prepare_hops.py --hops=2,6 --out_dir=data/hops_mixed
    python train.py configs/hops_mixed.py
    python sample.py out/hops_mixed --latent=auto
"""

data_dir = "data/hops_mixed"
out_dir = "out/hops_mixed"

tokenizer = "words"  # for what is not explained here see hops.py
question_format = " {}"
step_format = " {}"
answer_format = " = {}"

max_latent_stage = 6  # six steps at most; problems with fewer get fewer thoughts, and the model has to know how many
method = "coconut+stop"
uniform_prob = (0.0, 0.3)
peek = True
init = "induction"

master_at = 0.995
steps = (3000, 1500)
eval_every = 50

batch_size = 64
lr = (1e-3, 5e-4)
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99
