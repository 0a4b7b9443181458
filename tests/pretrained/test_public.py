"""
Public models of the Llama, Qwen and GPT-2 families, each as a folder with tiny random weights.   python -m pytest

config.json and the tokenizer's small files are as they stand in public, but for sizes; a tokenizer is a small one of
the same construction. Each loads with transformers' logits and tokens, or is refused in a line that names the cause.
docs/weights.md has the table, and where the values are from.
"""

import os

import pytest
import torch
from helpers import HERE
from test_llama import CORPUS, many_strings, relative, train_tokenizer, write

from config import UserError
from pretrained.gpt2 import read_gpt2
from pretrained.hub import find
from pretrained.llama import Llama
from pretrained.weights import load_tokenizer
from tokenizer import EOS

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALL = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
         "num_key_value_heads": 2, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "n_ctx": 64}  # fmt: skip

GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "embd_pdrop": 0.1, "resid_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "n_ctx": 1024,
    "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "vocab_size": 50257,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "initializer_range": 0.02,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "use_cache": True, "rope_scaling": None, "tie_word_embeddings": False,
    "max_position_embeddings": 4096, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "torch_dtype": "bfloat16", "vocab_size": 32000,
}  # fmt: skip
SCALING = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
           "rope_type": "llama3"}  # fmt: skip
LLAMA_3_2 = LLAMA | {
    "attention_bias": False, "attention_dropout": 0.0, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": False, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "rope_scaling": SCALING, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu",
    "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
    "max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MISTRAL = LLAMA | {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "intermediate_size": 14336,
    "num_key_value_heads": 8, "max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 4096,
}  # fmt: skip
SMOLLM2 = LLAMA | {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "num_attention_heads": 9,
    "num_hidden_layers": 30, "num_key_value_heads": 3, "rope_interleaved": False, "rope_theta": 100000,
    "tie_word_embeddings": True, "vocab_size": 49152,
}  # fmt: skip
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
ADDED = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

# name: config.json, bos and eos there, how text is cut, tokenizer_config.json, generation_config's eos, what is refused
PUBLIC = {
    "openai-community/gpt2": (GPT2, EOS, EOS, "gpt2", {"model_max_length": 1024}, EOS, ""),
    "distilbert/distilgpt2": (
        GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6},
        EOS, EOS, "gpt2", {"model_max_length": 1024}, EOS, ""),
    "microsoft/DialoGPT-small": (
        GPT2 | {"task_specific_params": {"conversational": {"max_length": 1000}}},
        EOS, EOS, "vocab.json", {"model_max_length": 1024}, None, ""),
    "meta-llama/Llama-3.2-1B": (
        LLAMA_3_2, "<|begin_of_text|>", "<|end_of_text|>", "llama3",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast",
         "clean_up_tokenization_spaces": True, "model_max_length": 131072}, "<|end_of_text|>", ""),
    "meta-llama/Llama-3.2-1B-Instruct": (
        LLAMA_3_2, "<|begin_of_text|>", ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "llama3",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast",
         "clean_up_tokenization_spaces": True, "model_max_length": 131072},
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], ""),
    "HuggingFaceTB/SmolLM2-135M": (
        SMOLLM2, EOS, EOS, "digits",
        {"add_prefix_space": False, "bos_token": EOS, "eos_token": EOS, "tokenizer_class": "GPT2Tokenizer",
         "clean_up_tokenization_spaces": False, "model_max_length": 8192, "unk_token": EOS}, EOS, ""),
    "Qwen/Qwen2.5-0.5B": (
        QWEN2, EOS, EOS, "qwen",
        {"add_prefix_space": False, "add_bos_token": False, "bos_token": None, "eos_token": EOS, "pad_token": EOS,
         "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "split_special_tokens": False}, EOS, ""),
    "Qwen/Qwen3-0.6B": (
        QWEN3, EOS, "<|im_end|>", "qwen",
        {"add_prefix_space": False, "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>",
         "pad_token": EOS, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "split_special_tokens": False},
        ["<|im_end|>", EOS], ""),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        QWEN2 | {"hidden_size": 1536, "intermediate_size": 8960, "max_position_embeddings": 131072, "rope_theta": 10000,
                 "max_window_layers": 21, "sliding_window": 4096, "tie_word_embeddings": False},
        BEGIN, END, "deepseek",
        {"add_bos_token": True, "add_eos_token": False, "bos_token": ADDED | {"content": BEGIN},
         "eos_token": ADDED | {"content": END}, "legacy": True, "tokenizer_class": "LlamaTokenizerFast",
         "unk_token": None}, END, ""),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        LLAMA | {"attention_bias": False, "hidden_size": 2048, "intermediate_size": 5632, "num_key_value_heads": 4,
                 "max_position_embeddings": 2048, "num_hidden_layers": 22, "rope_theta": 10000.0},
        "<s>", "</s>", "sentencepiece",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "tokenizer_class": "LlamaTokenizer",
         "unk_token": "<unk>", "legacy": False}, "</s>", "tokens: SentencePiece"),
    "lmsys/vicuna-7b-v1.5": (
        LLAMA | {"torch_dtype": "float16"}, "<s>", "</s>", "tokenizer.model",
        {"add_bos_token": True, "add_eos_token": False, "legacy": False, "tokenizer_class": "LlamaTokenizer"}, "</s>",
        "tokens: SentencePiece"),
    "codellama/CodeLlama-7b-hf": (
        LLAMA | {"max_position_embeddings": 16384, "rope_theta": 1000000, "vocab_size": 32016},
        "<s>", "</s>", "sentencepiece", {"tokenizer_class": "CodeLlamaTokenizer", "eos_token": "</s>"}, "</s>",
        "tokens: SentencePiece"),
    "01-ai/Yi-6B": (
        LLAMA | {"num_key_value_heads": 4, "rope_theta": 5000000.0, "vocab_size": 64000},
        "<s>", "</s>", "sentencepiece", {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}, "</s>",
        "tokens: SentencePiece"),
    "mistralai/Mistral-7B-v0.1": (
        MISTRAL, "<s>", "</s>", "sentencepiece", {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}, "</s>",
        "weights: sliding_window"),
    "mistralai/Mistral-7B-v0.3": (
        MISTRAL | {"sliding_window": None, "rope_theta": 1000000.0, "vocab_size": 32768},
        "<s>", "</s>", "sentencepiece", {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}, "</s>",
        "tokens: SentencePiece"),
}  # fmt: skip
SAYS = {  # the line by which it is refused
    "tokens: SentencePiece": "SentencePiece's, but .*only byte-level BPE is known here, such as GPT-2's, Llama 3's,",
    "weights: sliding_window": "config.json: sliding_window is 4096, expected None",
}


def sentencepiece():
    """A tokenizer.json as made of a SentencePiece model: spaces are letters, unknown characters are bytes."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = tokenizers.decoders.Replace("▁", " ")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:20], trainer)
    return tokenizer


def small_tokenizer(cut):
    """A tokenizer of a public one's construction, in the form of its tokenizer.json."""
    if cut in ("sentencepiece", "tokenizer.model"):
        return sentencepiece()
    tokenizer = train_tokenizer({"digits": "digits", "gpt2": "gpt2", "vocab.json": "gpt2"}.get(cut, "qwen"))
    first = {"llama3": "<|begin_of_text|>", "deepseek": BEGIN}.get(cut)
    if cut == "llama3":
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
        tokenizer.normalizer = None
        tokenizer.add_special_tokens([first, "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
        tokenizer.model.ignore_merges = True
    if cut == "deepseek":
        tokenizer.add_special_tokens([BEGIN, END])
    byte_level = tokenizers.processors.ByteLevel(trim_offsets=False)
    if first:
        number = (first, tokenizer.token_to_id(first))
        template = tokenizers.processors.TemplateProcessing(single=f"{first} $A", special_tokens=[number])
        tokenizer.post_processor = tokenizers.processors.Sequence([byte_level, template])
    elif cut != "digits":
        tokenizer.post_processor = byte_level
    return tokenizer


def folder_of(name, folder):
    """A folder as in public, with tiny random weights; returns the cut of the tokenizer."""
    config, bos, eos, cut, tokenizer_config, stop, _ = PUBLIC[name]
    tokenizer = small_tokenizer(cut)

    def numbers(names):
        return [*map(tokenizer.token_to_id, names)] if isinstance(names, list) else tokenizer.token_to_id(names)

    small = {key: value for key, value in SMALL.items() if key in config}
    if config.get("num_key_value_heads") == config.get("num_attention_heads"):
        small["num_key_value_heads"] = 4
    config = config | small | {"vocab_size": tokenizer.get_vocab_size() + 7}
    config |= {"bos_token_id": numbers(bos), "eos_token_id": numbers(eos)}
    write(folder, config=config, tokenizer_config=tokenizer_config)
    torch.manual_seed(1)
    hf = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).float()
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    if cut == "vocab.json":
        torch.save(hf.state_dict(), folder / "pytorch_model.bin")
    else:
        hf.save_pretrained(folder, max_shard_size="30KB" if cut == "llama3" else "1GB")
    write(folder, config=config)
    if stop:
        write(folder, generation_config={"eos_token_id": numbers(stop), "do_sample": False})
    if cut == "tokenizer.model":
        (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    elif cut == "vocab.json":
        tokenizer.model.save(str(folder))
    else:
        tokenizer.save(str(folder / "tokenizer.json"))
    return cut


@pytest.mark.parametrize("name", PUBLIC)
def test_as_it_stands_in_public(name, tmp_path):
    """Catches a model that loads and computes something else, or reads other tokens, than in transformers."""
    cut = folder_of(name, tmp_path)
    refused = PUBLIC[name][-1]
    if refused.startswith("weights"):
        with pytest.raises(UserError, match=SAYS[refused]) as e:
            Llama.from_pretrained(str(tmp_path))
        assert "\n" not in str(e.value)
        return
    gpt2 = find(str(tmp_path))[1]["model_type"] == "gpt2"
    ours = (read_gpt2 if gpt2 else Llama.from_pretrained)(str(tmp_path)).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32", attn_implementation="eager")
    text = torch.arange(2 * 60).view(2, 60) * 7 % ours.config.vocab_size
    with torch.no_grad():
        states, _ = ours.read(ours.embed(text))
        assert relative(ours.head(states[-1]), theirs.eval()(text).logits) < 2e-5
    if refused:
        with pytest.raises(UserError, match=SAYS[refused]) as e:
            load_tokenizer(str(tmp_path))
        assert "\n" not in str(e.value)
        return
    tok = load_tokenizer(str(tmp_path))
    there = transformers.AutoTokenizer.from_pretrained(tmp_path)
    whole = there if cut == "vocab.json" else tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for said in many_strings():
        encoded = whole(said)["input_ids"] if cut == "vocab.json" else whole.encode(said).ids
        assert tok.bos + tok.encode_ordinary(said) == encoded, ascii(said)
    there_too = there("Tom has 12,345 apples; he's happy.\n\n")["input_ids"]
    assert tok.bos + tok.encode_ordinary("Tom has 12,345 apples; he's happy.\n\n") == there_too
    assert tok.encode_single_token(EOS) == there.eos_token_id


def test_the_table_in_the_docs():
    """docs/weights.md names each of them, and what became of it."""
    with open(os.path.join(HERE, "docs", "weights.md"), encoding="utf-8") as f:
        rows = [line for line in f if line.startswith("| ")]
    for name, (*_, refused) in PUBLIC.items():
        (row,) = [line for line in rows if line.startswith(f"| {name} |")]
        what, _, cause = refused.partition(": ")
        assert (f"{what} refused" in row and cause in row) if refused else "refused" not in row
