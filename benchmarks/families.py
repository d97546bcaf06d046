"""Writes tiny random checkpoints of the model families that the native engine supports.

The files have the layout of each family's released checkpoints. Sizes, biases and norms are chosen so that an error in
any part of the engine changes captions. For example, some models have a head size other than hidden size / number of
heads, some query heads share keys, and norm weights are not 1. Two tokens serve as EOS, as in LLaMA 3 and Qwen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from capsfusion_tasks.fusion.template import PROMPT_TEMPLATE
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

# The patterns with which LLaMA 3 and Qwen split a text into words before they tokenize the words.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
_VOCABULARY = 4000
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Family:
    """A checkpoint to write. ``changes``: values of its config, in addition to ``sizes`` in ``write_family``.

    ``words``: the pattern with which the checkpoint's tokenizer.json splits texts into words. None if the checkpoint
    has a tokenizer.model (sentencepiece) instead.
    """

    config: type[PreTrainedConfig]
    changes: dict[str, Any] = field(default_factory=dict)
    words: str | None = None
    bos: str | None = None  # the token that the post-processor of tokenizer.json puts in front of every text


FAMILIES: dict[str, Family] = {
    "LLaMA 2": Family(LlamaConfig),
    "LLaMA 3": Family(
        LlamaConfig,
        {"num_key_value_heads": 2, "rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True},
        LLAMA3_WORDS,
        "<|begin_of_text|>",
    ),
    "LLaMA with biases": Family(LlamaConfig, {"attention_bias": True, "num_key_value_heads": 1}),
    "Mistral": Family(MistralConfig, {"num_key_value_heads": 2, "head_dim": 24, "sliding_window": 400}),
    "Qwen2": Family(Qwen2Config, {"num_key_value_heads": 2, "tie_word_embeddings": True}, QWEN_WORDS),
    "Qwen3": Family(Qwen3Config, {"num_key_value_heads": 2, "head_dim": 32}, QWEN_WORDS),
}


def write_family(folder: Path, name: str, texts: Iterable[str], tokenizer_model: Path) -> Path:
    """Write a random checkpoint of the family ``name`` to ``folder``, with several files of weights and their index.

    For families with sentencepiece, copies the file ``tokenizer_model``. For other families, trains a tokenizer on
    ``texts``.
    """
    family = FAMILIES[name]
    folder.mkdir(parents=True)
    if family.words is None:
        (folder / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
        vocab_size = LlamaTokenizer(tokenizer_model).vocab_size + 1  # plus 1 for [PAD], as in CapsFus-LLaMA
    else:
        vocab_size = write_tokenizer(folder, texts, family.words, family.bos)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,  # so large that rounding does not change which token is the most likely
        "eos_token_id": [vocab_size - 1, vocab_size - 2],
    }
    model = AutoModelForCausalLM.from_config(family.config(**{**sizes, **family.changes}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            elif parameter_name.endswith("norm.weight"):
                parameter.normal_(1.0, 0.2)
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def write_tokenizer(folder: Path, texts: Iterable[str], words: str, bos: str | None) -> int:
    """Train a byte-level BPE tokenizer like those of LLaMA 3 and Qwen. Returns the number of its tokens."""
    # Train on many copies of the prompt template, so that its number of tokens is about as small as with LLaMA 2.
    texts = [*texts, *[PROMPT_TEMPLATE] * 100]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if bos is None else None
    cut = pre_tokenizers.Split(Regex(words), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    specials = [*([bos] if bos else []), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}
    if bos is None:
        named |= {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "add_bos_token": False}
    else:
        named |= {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return int(tokenizer.get_vocab_size())
