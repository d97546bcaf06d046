"""Whether a model's configuration and tokenizer fit each other: asked before weights are loaded. No torch here."""

from __future__ import annotations

from pathlib import Path

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import eos_token_ids, read_config
from capsfusion_tasks.fusion.native.config import check_positions, llama_config, llama_sizes
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, build_prompt
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer


def check_model(folder: Path, *, engine: str | None = None, max_new_tokens: int = 0) -> None:
    """Raise InputError if config.json, generation_config.json or tokenizer.model is damaged, or if they do not fit.

    With ``engine`` "native", also if that engine cannot run the model, or not for captions of ``max_new_tokens``. Reads
    no weights.
    """
    config = read_config(folder)
    vocab_size = config.get("vocab_size")
    if config.get("model_type") == "llama":
        vocab_size = llama_sizes(folder, config).vocab_size
    if engine == "native":
        check_positions(llama_config(folder).max_position_embeddings, MAX_PROMPT_TOKENS, max_new_tokens)
    tokenizer = LlamaTokenizer(folder / "tokenizer.model")
    if type(vocab_size) is int and tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"{folder}/tokenizer.model has {tokenizer.vocab_size} tokens and the model embeddings for {vocab_size}"
            " (vocab_size in config.json): take the tokenizer that the model was trained with"
        )
    if tokenizer.bos_id in eos_token_ids(folder):
        raise InputError(
            f"{folder} ends captions with token {tokenizer.bos_id}, which begins a text in its tokenizer.model: set"
            " eos_token_id in generation_config.json to the token that ends one"
        )
    template = len(tokenizer.encode(build_prompt("", "")))
    if template >= MAX_PROMPT_TOKENS:
        raise InputError(
            f"{folder}/tokenizer.model makes {template} tokens of the empty prompt, which may have {MAX_PROMPT_TOKENS}:"
            " take the tokenizer that the model was trained with"
        )
