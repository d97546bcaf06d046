"""Finds the words that make a rule reject or flag a caption. The report page marks these words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from capsfusion_tasks.validation import claim_rules as claims
from capsfusion_tasks.validation import leak_rules as leaks
from capsfusion_tasks.validation import narrator
from capsfusion_tasks.validation import voice_rules as voice
from capsfusion_tasks.validation import web_rules as web
from capsfusion_tasks.validation.facts import base_form
from capsfusion_tasks.validation.language import words_not_latin
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.source_rules import SIDE_BY_SIDE
from capsfusion_tasks.validation.text import loop, ngrams, words

Span = tuple[int, int]
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_END_LENGTH = 2  # number of words that are marked at the end of a truncated caption


def evidence(fused: Fused, code: str) -> list[Span]:
    """Character spans of the words that make the rule ``code`` apply, in order, without overlaps.

    Empty for rules about the whole caption, or about words that the caption lacks.
    """
    find = _EVIDENCE.get(code)
    return list(_joined(sorted(find(fused)))) if find else []


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    start = end = 0
    for one, other in spans:
        if one > end:
            if end > start:
                yield start, end
            start = one
        end = max(end, other)
    if end > start:
        yield start, end


def _found(*patterns: re.Pattern[str]) -> Callable[[Fused], Iterator[Span]]:
    """Finds the matches of ``patterns`` in the caption, except matches that a source also has."""

    def find(fused: Fused) -> Iterator[Span]:
        for pattern in patterns:
            for text in dict.fromkeys((fused.caption_lower, fused.caption)):
                if len(text) == len(fused.caption):  # "İ" is longer in lower case, which would shift the spans
                    yield from (m.span() for m in pattern.finditer(text) if m[0].lower() not in fused.sources_lower)

    return find


def _anywhere(*patterns: re.Pattern[str]) -> Callable[[Fused], Iterator[Span]]:
    """Finds all matches of ``patterns`` in the caption, including matches that a source also has."""
    return lambda fused: (m.span() for pattern in patterns for m in pattern.finditer(fused.caption_lower))


def _leak(fused: Fused) -> Iterator[Span]:
    for phrase in leaks.INSTRUCTION_PHRASES:
        if phrase not in fused.sources_lower:
            yield from (m.span() for m in re.finditer(re.escape(phrase), fused.caption_lower))
    yield from _found(leaks.PARAPHRASE)(fused)


def _words(wanted: Callable[[Fused], Iterable[str]]) -> Callable[[Fused], Iterator[Span]]:
    """Finds the caption's words whose base form is one of the forms that ``wanted`` returns."""

    def find(fused: Fused) -> Iterator[Span]:
        forms = set(wanted(fused))
        for match in _WORD.finditer(fused.caption):
            if any(base_form(word) in forms for word in words(match[0])):
                yield match.span()

    return find


def _texts(wanted: Callable[[Fused], Iterable[str]]) -> Callable[[Fused], Iterator[Span]]:
    """Finds the texts that ``wanted`` returns, if they are whole words of the caption."""

    def find(fused: Fused) -> Iterator[Span]:
        for text in set(wanted(fused)):
            yield from (m.span() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", fused.caption, re.IGNORECASE))

    return find


def _end(fused: Fused) -> Iterator[Span]:
    if last := list(_WORD.finditer(fused.caption))[-_END_LENGTH:]:
        yield last[0].start(), last[-1].end()


def _repeated(fused: Fused) -> Iterator[Span]:
    matches = [match for match in _WORD.finditer(fused.caption) if words(match[0])]
    tokens = [" ".join(words(match[0])) for match in matches]
    seen = set()
    for place, gram in enumerate(ngrams(tokens, 3)):
        if gram in seen:
            yield matches[place].start(), matches[place + 2].end()
        seen.add(gram)
    if said := loop(fused.caption, fused.caption_words):
        yield from _texts(lambda _: [said])(fused)


def _new_colours(fused: Fused) -> Iterable[str]:
    return claims.words_of_other_colours(fused.caption_words, fused.source_words)


def _names(fused: Fused) -> Iterable[str]:
    return (fact for fact in fused.invented_facts if not fact.isdigit())


_EVIDENCE: dict[str, Callable[[Fused], Iterable[Span]]] = {
    "truncated": _end,
    "prompt_leakage": _leak,
    "source_marker": _found(leaks.SOURCE_MARKER),
    "refusal": _found(leaks.REFUSAL),
    "assistant_talk": _found(leaks.LABEL, leaks.ASSISTANT_OPENING, leaks.ASIDE),
    "special_token": _found(leaks.TOKEN),
    "repetition": _repeated,
    "invention": _words(lambda fused: fused.invented_facts),
    "invented_number": _texts(lambda fused: fused.invented_numbers),
    "invented_name": _words(_names),
    "changed_name": _words(_names),
    "changed_colour": _texts(_new_colours),
    "unsupported": _words(lambda fused: fused.unsupported),
    "little_support": _words(lambda fused: fused.unsupported),
    "denial": _anywhere(claims.DENIAL),
    "first_person": lambda fused: narrator.first_persons(fused.caption, fused.sources),
    "addresses_reader": lambda fused: [
        *(m.span() for m in (voice.opening(fused.caption),) if m),
        *_anywhere(voice.READER)(fused),
    ],
    "personal_data": _anywhere(web.EMAIL, web.PHONE),
    "wrong_script": _texts(lambda fused: words_not_latin(fused.caption)),
    "broken_text": _anywhere(web.ENTITY, web.ESCAPE),
    "markup": _found(web.MARKUP, web.ADDRESS, web.FILE_NAME),
    "unrelated_sources": lambda fused: (m.span() for m in SIDE_BY_SIDE.finditer(fused.caption)),
    "general_talk": lambda fused: [
        *_texts(lambda _: claims.TALK_WORDS & fused.caption_set)(fused),
        *_found(claims.GENERAL_TALK)(fused),
    ],
    "loose_link": _found(claims.LOOSE_LINK),
    "shop_talk": _anywhere(web.SHOP_TALK, web.AMOUNT),
    "web_residue": _anywhere(web.WEB_RESIDUE, web.CREDIT, web.NUMBERED, web.PAGE_OF, web.SIGNED, web.ADDRESS, web.SLUG),
    "file_name": _anywhere(web.FILE_NAME),
    "product_code": _texts(web.product_codes),
}
