r"""
Small ProsQA in symbols: 8 to 11 nodes, two or three steps. Begun with a CoT, thoughts are better than the CoT:

    python prepare_prosqa.py --generate=10000 --symbols --nodes=8,11 --hops=2,3 --test=500 --out_dir=data/prosqa_small
    python train.py configs/prosqa_small.py --method=cot --steps=1000 --lr=2e-3 --eval_every=50 \
        --out_dir=out/prosqa_small_cot                                                  # 12 minutes of a core: 86 %
    python train.py configs/prosqa_small.py --init_from=out/prosqa_small_cot/best.pt    # 1 more: 92 %

(--steps is the length of each of four stages; a method with one stage gets the sum.) All methods: docs/methods.md.
"""

data_dir = "data/prosqa_small"
out_dir = "out/prosqa_small"

# a node is one token, wherever it stands: every word brings the space before it along
tokenizer = "words"
question_format = " {}"
step_format = " {}"
answer_format = " = {}"
task = "graphs"
names = r" \d+"  # nodes get new names and edges a new order each time: graphs must not be learned by heart
questions = 8  # about each graph, from other roots: its edges are read once for all of them

max_latent_stage = 3  # no problem has more steps
uniform_prob = (0.0, 0.3)  # later stages rehearse all stages
markers = "none"  # a thought stands where its step stood, so that all that CoT has learned is of use
init = "induction"  # an edge is looked up from the first step on

master_at = 0.0  # all methods get the same number of steps
steps = 100
eval_every = 100

block_size = 90  # up to 23 edges of three tokens, the question, three steps and the answer
n_head = 2  # of 64 dimensions, as in prosqa_scratch.py
batch_size = 16  # graphs: 128 questions
lr = 1e-3  # half of CoT's, whose weights are to be changed, not lost
warmup_steps = 50
grad_clip = 1.0
beta2 = 0.99  # a memory of 100 steps rather than 1000: stages are short
