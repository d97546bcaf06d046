"""Makes a pair's prompt: cleans the captions, cuts them if they are too long, and fills them into the template."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping

from capsfusion_tasks.fusion.template import PAPER, Template
from capsfusion_tasks.fusion.tokenizer import Tokenizer

MAX_PROMPT_TOKENS = 256  # maximum number of tokens of a prompt; captions are cut to fit

# Before a caption is tokenized, it is cut to 64 characters for each token that fits in a prompt (64 * 256 characters),
# because tokenizing ten million characters would take 15 seconds. LLaMA's longest token has 16 characters, so a cut
# caption still has more tokens than fit in a prompt, and no text is lost that would fit. Qwen has longer tokens, but
# they consist only of spaces or of line-drawing characters.
_LONGEST_TOKEN = 64

# Characters of captions that must not get into a prompt: control characters (Cc), surrogates, and line and paragraph
# separators. A line break inside a caption could imitate the template's "Sentence 2:" line. CapsFusion's published
# pairs have no such characters. Joiners and marks (Cf) stay, because emoji and right-to-left text need them.
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")


# Unicode's categories of invisible characters: control and format characters, surrogates, separators, and marks.
# Unassigned code points count as visible: they may be emoji that this Python does not know yet.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn"}
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol without a visible shape


def clean_caption(text: str) -> str:
    """Clean a caption for the prompt: replace harmful characters with spaces, and remove spaces at both ends."""
    return _HARMFUL.sub(" ", text).strip()


def is_empty_caption(text: str | None) -> bool:
    """Whether a caption has no visible character: it is null, or has only spaces, control and zero-width characters."""
    return all(c in _FILLERS or unicodedata.category(c) in _INVISIBLE for c in text or "")


# A part of a template: the id of a control token, or a list of texts, each with the field that follows it (or None).
Piece = int | list[tuple[str, str | None]]


class Prompt:
    """Makes prompts from a template, and encodes them with a tokenizer.

    A control token in the *template*, such as <|im_start|>, becomes that token. In a caption, the same characters stay
    plain text.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template = PAPER) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._pieces = _pieces(template, tokenizer.control_tokens)

    def encode(self, raw: str, synthetic: str) -> list[int]:
        """Token ids of the whole prompt. BOS is first, if the tokenizer has one."""
        if len(self._pieces) == 1:
            return self._tokenizer.encode(self._template.fill(raw, synthetic))
        captions = {"raw": raw, "synthetic": synthetic, None: ""}
        ids: list[int] = []
        for piece in self._pieces:
            if isinstance(piece, int):
                ids.append(piece)
            elif text := "".join(literal + captions[field] for literal, field in piece):
                ids += self._tokenizer.encode(text, bos=False)
        bos = self._tokenizer.bos_id
        return ids if bos is None or ids[0] == bos else [bos, *ids]

    def tokens(self, raw: str, synthetic: str, limit: int = MAX_PROMPT_TOKENS) -> list[int]:
        """Token ids of the prompt for one pair, at most ``limit`` of them.

        If the prompt is too long, the end of the *raw* caption is cut, as in the paper's script. If that is not enough,
        the synthetic caption is cut as well. The prompt therefore always ends with the end of the template, which the
        paper's script would cut off. Captions are cut at a token boundary, and the prompt is tokenized again, because
        tokens may merge differently at a caption's new end.
        """
        most = limit * _LONGEST_TOKEN
        raw, synthetic = clean_caption(raw)[:most], clean_caption(synthetic)[:most]
        ids = self.encode(raw, synthetic)
        while len(ids) > limit and raw:
            raw = _drop_last_tokens(self._tokenizer, raw, len(ids) - limit)
            ids = self.encode(raw, synthetic)
        while len(ids) > limit and synthetic:
            synthetic = _drop_last_tokens(self._tokenizer, synthetic, len(ids) - limit)
            ids = self.encode(raw, synthetic)
        if len(ids) > limit:
            raise ValueError(
                f"the prompt's template alone has {len(ids)} tokens and the limit is {limit}: shorten the template"
            )
        return ids

    def shared_prefix(self) -> list[int]:
        """The token ids that every prompt begins with: the template up to its first caption.

        In the paper's template these are 112 LLaMA tokens, including BOS. The prefix ends before the last space in
        front of the caption. A caption could change the prefix only if one token had text from both sides of that
        space. sentencepiece has no such tokens. The tokenizers of LLaMA 3 and Qwen have none either, because they split
        texts into words first.
        """
        # Encode captions that begin with different kinds of characters, to leave out tokens that depend on the caption.
        prompts = [self.encode(start, start) for start in ("A", "b", "7", ":", '"', "é", "図", "😀")]
        prompts.append(Prompt(self._tokenizer, _before_captions(self._template)).encode("", ""))
        same = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
        return [ids[0] for ids in same]


def build_prompt(raw: str, synthetic: str, template: Template = PAPER) -> str:
    """The prompt for one pair as text, before long captions are cut."""
    return template.fill(clean_caption(raw), clean_caption(synthetic))


def prompt_tokens(tokenizer: Tokenizer, raw: str, synthetic: str, limit: int = MAX_PROMPT_TOKENS) -> list[int]:
    """``Prompt.tokens`` with the paper's template."""
    return Prompt(tokenizer).tokens(raw, synthetic, limit)


def shared_prefix(tokenizer: Tokenizer) -> list[int]:
    """``Prompt.shared_prefix`` with the paper's template."""
    return Prompt(tokenizer).shared_prefix()


def _pieces(template: Template, control: Mapping[str, int]) -> list[Piece]:
    """The template split at its control tokens: the ids of these tokens, and between them lists of texts and fields."""
    written = sorted((token for token in control if any(token in text for text, _ in template.parts)), key=len)
    if not written:
        return [list(template.parts)]
    # The longest token first, because its text may begin with the text of a shorter token.
    cut = re.compile("|".join(map(re.escape, reversed(written))))
    pieces: list[Piece] = [[]]
    for literal, field in template.parts:
        place = 0
        for match in cut.finditer(literal):
            pieces = [*_with(pieces, literal[place : match.start()], None), control[match[0]]]
            place = match.end()
        pieces = _with(pieces, literal[place:], field)
    return pieces


def _with(pieces: list[Piece], literal: str, field: str | None) -> list[Piece]:
    """``pieces`` with ``literal`` and then ``field`` added at the end."""
    if isinstance(pieces[-1], list):
        pieces[-1].append((literal, field))
        return pieces
    return [*pieces, [(literal, field)]]


def _before_captions(template: Template) -> Template:
    """The template's text before the first caption.

    If no space follows the last word, this word is left out, because its tokens can depend on the caption.
    """
    first = template.parts[0][0]
    text = first.rstrip()
    if text == first:
        text = "".join(re.split(r"(\s+)", first)[:-2])
    return Template(text, ((text, None),))


def _drop_last_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    ids = tokenizer.encode(text, bos=False)
    # The kept tokens may end in the middle of a multi-byte character. Such an end becomes a replacement character:
    # remove it.
    return tokenizer.decode(ids[: max(0, len(ids) - count)]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
