"""Checks that a model's configuration and tokenizer fit each other, before weights are loaded.

Does not import torch.
"""

from __future__ import annotations

from pathlib import Path

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import eos_token_ids, read_config
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer, tokenizer_file
from capsfusion_tasks.fusion.native.config import check_positions, model_sizes, sizes_of
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, Prompt
from capsfusion_tasks.fusion.template import PAPER, Template


def check_model(
    folder: Path, *, engine: str | None = None, max_new_tokens: int = 0, template: Template = PAPER
) -> None:
    """Raise InputError if config.json, generation_config.json or the tokenizer is damaged, or if they do not match.

    With ``engine`` "native", also raises InputError if that engine cannot run the model with captions of
    ``max_new_tokens`` tokens. Reads no weights.
    """
    config = read_config(folder)
    sizes = sizes_of(folder, config)
    vocab_size = config.get("vocab_size") if sizes is None else sizes.vocab_size
    if engine == "native":
        check_positions(model_sizes(folder), MAX_PROMPT_TOKENS, max_new_tokens)
    tokenizer, file = load_tokenizer(folder), tokenizer_file(folder)
    if type(vocab_size) is int and tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"{file} has {tokenizer.vocab_size} tokens, but the model has embeddings for {vocab_size}"
            " (vocab_size in config.json): use the tokenizer that the model was trained with"
        )
    if tokenizer.bos_id in eos_token_ids(folder):
        raise InputError(
            f"{folder} ends captions with token {tokenizer.bos_id}, which is the token that begins a text (BOS) in its"
            f" {file.name}: set eos_token_id in generation_config.json to the token that ends a caption"
        )
    ids = Prompt(tokenizer, template).encode("", "")
    if type(vocab_size) is int and max(ids) >= vocab_size:
        raise InputError(
            f"the prompt has a control token with id {max(ids)} (from a file beside {file}), but the model has"
            f" embeddings only for ids below {vocab_size} (vocab_size in config.json): use the model"
            " that was trained with this token"
        )
    if (empty := len(ids)) >= MAX_PROMPT_TOKENS:
        todo = "use the tokenizer that the model was trained with" if template == PAPER else "write a shorter prompt"
        raise InputError(
            f"the prompt alone, before captions are inserted, has {empty} tokens with the tokenizer {file}."
            f" A prompt with captions may have at most {MAX_PROMPT_TOKENS}: {todo}"
        )
