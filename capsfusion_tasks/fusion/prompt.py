"""The CapsFusion prompt: the paper's template, word for word, and its truncation rule."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import Protocol

# CapsFusion (Yu et al., 2023), the template its released inference script uses. The model was fine-tuned
# on exactly these tokens: change a character and captions get worse.
PROMPT_TEMPLATE = (
    "Please merge and refine the information from the two given sentences. Sentence 1 provides detailed "
    "real-world knowledge, yet it suffers from flaws in sentence structure and grammar. Sentence 2 exhibits "
    "nice sentence structure, but lacking in-depth real-world details and may contain false information. "
    "Please combine them into a new sentence, ensuring a well-structured sentence while retaining the detailed "
    "real-world information provided in Sentence 1. Avoid simply concatenating the sentences.\n\n"
    "Sentence 1: {laion_2b}\nSentence 2: {laion_coco}\nNew Sentence:"
)

MAX_PROMPT_TOKENS = 256

# Characters. LLaMA's longest token has 16, so what is left of a longer caption still has several times the tokens that
# a prompt has room for, and the same of them are kept; tokenizing all of ten million characters would take 15 seconds.
_LONGEST_TOKEN = 64

# Control characters (Cc), surrogates and the line and paragraph separators: none stands in a published pair. A line
# break inside a caption could pass for the template's own "Sentence 2:" line. Joiners and marks (Cf) stay: emoji and
# right-to-left text need them.
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")

_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # of Hangul: letters by their category, with nothing to see


class Tokenizer(Protocol):
    """What the prompt needs of a tokenizer: text to ids (with BOS) and back."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


def clean_caption(text: str) -> str:
    """A caption as it goes into the prompt: stripped, each run of harmful characters replaced by one space."""
    return _HARMFUL.sub(" ", text).strip()


def has_text(text: str | None) -> bool:
    """Whether a caption shows anything: more than spaces, control and zero-width characters, marks and fillers."""
    return text is not None and any(
        unicodedata.category(character)[0] not in "CZM" and character not in _FILLERS for character in text
    )


def build_prompt(laion_2b: str, laion_coco: str) -> str:
    """The prompt for one pair, before truncation."""
    return PROMPT_TEMPLATE.format(laion_2b=clean_caption(laion_2b), laion_coco=clean_caption(laion_coco))


def prompt_tokens(tokenizer: Tokenizer, laion_2b: str, laion_coco: str, limit: int = MAX_PROMPT_TOKENS) -> list[int]:
    """Token ids of the prompt, BOS first, at most ``limit`` of them.

    A prompt that is too long loses the end of its *raw* caption, as in the paper's script. Where the raw caption alone
    cannot make room, the synthetic caption is cut as well, so that "New Sentence:" always stands at the end (the
    paper's script drops it there). Text is cut at token boundaries and tokenized again, because pieces may merge
    differently at the new border.
    """
    most = limit * _LONGEST_TOKEN
    raw, synthetic = clean_caption(laion_2b)[:most], clean_caption(laion_coco)[:most]
    ids = tokenizer.encode(build_prompt(raw, synthetic))
    while len(ids) > limit and raw:
        raw = _drop_last_tokens(tokenizer, raw, len(ids) - limit)
        ids = tokenizer.encode(build_prompt(raw, synthetic))
    while len(ids) > limit and synthetic:
        synthetic = _drop_last_tokens(tokenizer, synthetic, len(ids) - limit)
        ids = tokenizer.encode(build_prompt(raw, synthetic))
    if len(ids) > limit:
        raise ValueError(f"the prompt's template alone has {len(ids)} tokens and the limit is {limit}: raise the limit")
    return ids


def shared_prefix(tokenizer: Tokenizer) -> list[int]:
    """The token ids that every prompt begins with: BOS and the template up to the raw caption (112 with LLaMA's).

    Where a tokenizer's pieces never reach across a space, as sentencepiece's, no caption can change them.
    """
    # Captions that begin with different kinds of characters: a token that depends on the caption is not shared.
    prompts = [tokenizer.encode(build_prompt(start, "a")) for start in ("A", "b", "7", ":", '"', "é", "図", "😀")]
    same = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
    return [ids[0] for ids in same]


def _drop_last_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    ids = tokenizer.encode(text, bos=False)
    # Never fewer characters by rounding: a cut inside a multi-byte character decodes to a replacement character.
    return tokenizer.decode(ids[: max(0, len(ids) - count)]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
