"""Synthetic captions as a captioning model writes them, and the parts that a fused caption reuses."""

from __future__ import annotations

import random
from dataclasses import dataclass

from capsfusion_tasks.demo.pairs import lexicon, names


@dataclass(frozen=True)
class Scene:
    """Parts of one synthetic caption: `subject` has its article ("a red car"); what the caption does not say is ""."""

    subject: str
    props: str
    pose: str
    text: str
    be: str

    @property
    def new_subject(self) -> str:
        """The subject where the fused caption names it first: with "a" for the synthetic caption's "the"."""
        return with_article(self.subject[4:]) if self.subject.startswith("the ") else self.subject


_PLURAL_STARTS = ("two", "three", "four", "five", "several", "some", "many")


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an"; plural phrases ("two women") stay as they are."""
    if phrase.split(" ", 1)[0] in _PLURAL_STARTS:
        return phrase
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def _noun_phrase(rng: random.Random, domain: lexicon.Domain, split: str, noun: str = "") -> str:
    kind = rng.random()
    if not noun:
        noun = rng.choice(domain.nouns)
    else:
        kind = 1.0
    if kind < (0.03 if domain.kind == "person" else 0.12):
        noun = rng.choice(lexicon.TITLE_NOUNS).lower()
    elif kind < 0.17:
        noun = f"{names.word(rng, split)} {rng.choice(domain.nouns).split()[-1]}"
    if (
        noun.split(" ", 1)[0] in _PLURAL_STARTS
        or " of " in noun
        or " in " in noun
        or " with " in noun
        or " and " in noun
    ):
        return noun
    for words, share in ((lexicon.MATERIALS, 0.06), (lexicon.COLOURS, 0.25), (lexicon.ADJECTIVES, 0.3)):
        if rng.random() < share:
            noun = f"{rng.choice(words)} {noun}"
    return noun


def make_scene(rng: random.Random, domain: lexicon.Domain, split: str, quoted: str = "", noun: str = "") -> Scene:
    """A scene of the domain; `quoted` is text that the captioning model may read off the image, `noun` its subject."""
    noun = _noun_phrase(rng, domain, split, noun)
    plural = noun.split(" ", 1)[0] in _PLURAL_STARTS
    kind = rng.random()
    if plural:
        subject = noun
    elif kind < 0.05:
        subject = (
            f"{rng.choice(('two', 'three', 'several'))} {noun}s"
            if noun[-1] not in "sxy" and " of " not in noun and " in " not in noun and " with " not in noun
            else with_article(noun)
        )
    elif kind < 0.13:
        subject = f"{with_article(noun)} and {with_article(_noun_phrase(rng, domain, split))}"
    else:
        subject = f"the {noun}" if rng.random() < 0.38 else with_article(noun)
    props = rng.choice(domain.props)
    if rng.random() < 0.25:
        other = rng.choice(domain.props)
        if other != props:
            props = f"{props} and {other}"
    if quoted and rng.random() < 0.5:
        props = f"the words {quoted}"
    pose = rng.choice(domain.poses) if rng.random() < 0.65 else rng.choice(lexicon.SETTINGS)
    joined = 0.05 <= kind < 0.13 and not plural
    be = "are" if joined or subject.split(" ", 1)[0] in _PLURAL_STARTS else "is"
    have = "have" if be == "are" else "has"
    kind = rng.random()
    if kind < 0.27:
        props, text = "", f"{subject} {be} {pose}."
    elif kind < 0.45:
        props, text = "", f"{subject} {pose}."
    elif kind < 0.55:
        pose, text = "", f"{subject} {have} {props}."
    elif kind < 0.74:
        pose, text = "", f"{subject} with {props}."
    elif kind < 0.86:
        text = f"{subject} with {props} {be} {pose}."
    elif kind < 0.91:
        text = f"{subject} with {props} {pose}."
    else:
        props = pose = ""
        text = rng.choice(
            (
                f"{subject} {be} shown.",
                f"an image of {subject}.",
                f"{subject}.",
                f"a close up of {subject}.",
                f"this is {subject}.",
                f"the image shows {subject}.",
            )
        )
    kind = rng.random()
    if kind > 0.12:
        text = names.capital(text)
    if kind > 0.92:
        text = text[:-1]
    return Scene(subject, props, pose, text, be)
