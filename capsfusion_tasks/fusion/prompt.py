"""The CapsFusion prompt: the paper's template, word for word, and its truncation rule."""

from __future__ import annotations

import itertools
import re
import unicodedata

from capsfusion_tasks.fusion.tokenizer import Tokenizer

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

# Characters per token. Longer captions are cut before they are tokenized: ten million characters would take 15 seconds.
# LLaMA's longest token has 16 characters, so the cut caption still has more tokens than a prompt has room for.
_LONGEST_TOKEN = 64

# Control characters (Cc), surrogates, and line and paragraph separators. No published pair has any of them. A line
# break inside a caption could imitate the template's "Sentence 2:" line. Joiners and marks (Cf) stay: emoji and
# right-to-left text need them.
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")


# Unicode's categories of control and format characters, surrogates, separators, and marks on other characters. What is
# not assigned may be an emoji that this Python does not know yet.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn"}
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that show nothing


def clean_caption(text: str) -> str:
    """The caption as it goes into the prompt: stripped, and each run of harmful characters replaced by one space."""
    return _HARMFUL.sub(" ", text).strip()


def is_empty_caption(text: str | None) -> bool:
    """Whether a caption shows nothing: it is null, or of spaces, control and zero-width characters only."""
    return all(c in _FILLERS or unicodedata.category(c) in _INVISIBLE for c in text or "")


def build_prompt(laion_2b: str, laion_coco: str) -> str:
    """The prompt for one pair, before truncation."""
    return PROMPT_TEMPLATE.format(laion_2b=clean_caption(laion_2b), laion_coco=clean_caption(laion_coco))


def prompt_tokens(tokenizer: Tokenizer, laion_2b: str, laion_coco: str, limit: int = MAX_PROMPT_TOKENS) -> list[int]:
    """Token ids of the prompt, BOS first, at most ``limit`` of them.

    If the prompt is too long, the end of the *raw* caption is cut, as in the paper's script. If that is not enough, the
    synthetic caption is cut as well, so that the prompt always ends with "New Sentence:" (the paper's script cuts that
    off). Text is cut at a token boundary and tokenized again, because tokens may merge differently at the new end.
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

    No caption can change them if tokens never reach across a space, which holds for sentencepiece.
    """
    # Captions that begin with different kinds of characters. A token that depends on the caption is not shared.
    prompts = [tokenizer.encode(build_prompt(start, "a")) for start in ("A", "b", "7", ":", '"', "é", "図", "😀")]
    same = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
    return [ids[0] for ids in same]


def _drop_last_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    ids = tokenizer.encode(text, bos=False)
    # A cut inside a multi-byte character decodes to a replacement character: remove it.
    return tokenizer.decode(ids[: max(0, len(ids) - count)]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
