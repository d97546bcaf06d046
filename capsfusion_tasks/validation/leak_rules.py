"""Rules about text that comes from the model's prompt or training, not from the source captions.

Examples: phrases of the prompt, refusals, phrases of a chat assistant, special tokens.
"""

from __future__ import annotations

import re

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import word_set

# Phrases from the prompt's instruction, which calls the source captions "sentences". Good captions do not need these
# phrases.
INSTRUCTION_PHRASES = (
    "real-world",
    "in the real world, there",
    "in a real world",
    "sentence structure",
    "structured sentence",
    "well-structured",
    "sentence is well",
    "two sentences",
    "both sentences",
    "given sentences",
    "merged sentence",
    "refined sentence",
    "combined sentence",
    "new sentence",
    "is a sentence",
    "false information",
    "false details",
    "inaccurate information",
    "incorrect information",
    "in-depth details",
    "in-depth information",
    "in-depth real",
    "lacks in-depth",
    "lacking in-depth",
    "lacks depth",
    "simply concatenating",
    "flaws in grammar",
    "grammatical flaws",
    "grammatical errors",
)
# Each phrase above contains one of these words, so captions without these words are not searched for the phrases. Some
# patterns below have such a set, too (``…_HINTS``): only captions with a word of the set are searched for the pattern.
# Looking up words in a set is faster than searching for phrases or patterns.
_PHRASE_HINTS = word_set(
    "real sentence sentences structured information details depth concatenating grammar grammatical"
)
# Normal uses of "real-world", which do not come from the instruction.
_HONEST_REAL_WORLD = re.compile(
    r"real-world (?:scenarios|problems|applications|issues?|challenges|experiences|engineering)"
)
# Words that mean a caption, for the pattern PARAPHRASE.
_TEXT = r"(?:captions?|descriptions?|sentences?|texts?)"
# Like _TEXT, but without "text", because "the original text" may be a text in the picture.
_TEXT_OF_TASK = r"(?:captions?|descriptions?|sentences?)"
_PARAPHRASE_HINTS = word_set(
    "knowledge facts fact structure grammar wording phrasing false inaccurate inaccuracies incorrect untrue wrong"
    " caption captions description descriptions sentence sentences text texts detail details information style depth"
    " specifics factual grammatically syntactically structurally"
)
# Paraphrases of the instruction: statements about the knowledge, truth, grammar or structure of a text.
PARAPHRASE = re.compile(
    r"\b(?:detailed|in-depth|accurate|factual|rich)(?:,? (?:and |but )?\w+)? (?:knowledge|facts)\b"
    rf"|\b(?:structure|grammar|wording|phrasing) of (?:the|this|its|their|both|each) {_TEXT}\b"
    r"|\bmay (?:be|contain|include|have) (?:\w+ )?(?:false|inaccura\w+|incorrect|untrue|wrong)\b"
    r"|\b(?:false|inaccurate|incorrect|untrue) (?:details?|information|claims?|facts?)\b"
    rf"|\b(?:this|the (?:first|second|raw|synthetic|given|provided)) {_TEXT}\b"
    rf"|\bthe (?:original|above|following|other) {_TEXT_OF_TASK}\b"
    rf"|\b(?:merg|combin|fus)\w+ (?:both|the two|these|those) {_TEXT}\b"
    r"|\b(?:knowledge|details?|facts?|information|style|structure) (?:of|from) (?:the )?(?:first|second|source|raw) "
    r"|\bsource (?:text|caption)s?\b|\b(?:grammatically|syntactically|structurally) \w+"
    r"|\b(?:poor|good|bad|correct|nice|proper) (?:grammar|structure)\b"
    r"|\bgrammar (?:mistakes?|errors?|flaws?|issues?)\b"
    rf"|\bwell[- ](?:structured|formed|constructed|written) {_TEXT}\b"
    r"|\breal world (?:knowledge|details?|facts?|information)\b"
    r"|\black(?:s|ing)? (?:of )?(?:\w+ )?(?:details?|depth|specifics|factual \w+)\b"
)

SOURCE_MARKER = re.compile(r"\bsentences? (?:1|2|one|two)\b|\b(?:first|second) sentence\b")

# Phrases with which chat models refuse a task or present themselves. "I'm sorry" alone does not match, because it may
# be text on a shirt or a song's title.
_REFUSAL_HINTS = word_set("ai model sorry apologize apologise apologies unfortunately unable able i i'm artificial")
REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:sorry,? (?:but )?i(?:'m| am) )?(?:unable|not able) to\b"
    r"|\b(?:i(?:'m| am) sorry|sorry|i apologi[sz]e|unfortunately),? (?:but )?(?:i|it|this|there|the (?:request|task))"
    r" (?:can't|cannot|can not|couldn't|could not|(?:am|is|was) (?:unable|not (?:able|possible)))\b"
    r"|\bi (?:can't|cannot|can not|won't) (?:assist|help|comply|fulfil+|provide|generate|create|merge|do that"
    r"|(?:actually |directly )?(?:see|view|access|open|verify|identify|determine))\b"
    r"|\bi (?:don't|do not) (?:have (?:enough|sufficient|access)|see (?:an?|any|the) (?:image|picture|photo))\b"
)

# Phrases with which a chat assistant introduces its answer.
LABEL = re.compile(
    r"\s*[\"'*#\[(]*(?:(?:new|merged|fused|combined|refined|final|revised|rewritten|resulting) )?"
    r"(?:image |output )?(?:caption|sentence|output|answer|response|result|assistant|description|fused"
    r"|merged)[\])*]*:"
)
ASSISTANT_OPENING = re.compile(
    r"\s*[\"']?(?:sure|certainly|of course|absolutely|okay|great)(?:,|!|\.| thing| -)"
    r"|\s*[\"']?here(?:'s| is| are)(?: the| a| your| my| one)? (?:\w+ ){0,3}(?:sentence|caption|description|version"
    r"|merge)"
)
_ASIDE_HINTS = word_set("hope let feel requested provided given captions based merge merged")
ASIDE = re.compile(
    r"\b(?:i )?hope (?:this|that|it) helps\b|\blet me know\b|\bfeel free to (?:ask|let)\b|\bas (?:you )?requested\b"
    r"|\bbased on the (?:provided|given|two|information|captions?|sentences?|image|description)\b"
    r"|\bthe (?:provided|given) (?:information|captions?|sentences?|images?|descriptions?|texts?)\b"
    r"|\b(?:the )?two captions\b|\bmerged? (?:caption|version|description)\b"
)

_TOKEN_HINT = re.compile(r"[\[<▁ġ#:]")
TOKEN = re.compile(
    r"\[(?:pad|unk|cls|sep|mask|eos|bos|inst|/inst|start|end)\]|<0x[0-9a-f]{2}>|<\|[^<>|]{1,40}\|>|▁|ġ\w"
    r"|</?s>|<(?:unk|pad|bos|eos|mask|start_of_turn|end_of_turn|image|sep)>|<<?/?sys>>?"
    r"|###? ?(?:instruction|response|input|output|human|assistant|user|system)\b"
    r"|(?:^|[.!?\n] )(?:user|assistant|human|system): |(?<=\s)##\w"
)


def prompt_leakage(fused: Fused, _: RuleSettings) -> bool:
    """``prompt_leakage``: a phrase of the prompt's instruction, as it is or paraphrased, that neither source has.

    BLIP3-KALE (Awadalla et al., 2024) removes sentences with such phrases. Common phrases such as "real-world
    problems" are allowed. Of CapsFusion's published captions that this rule rejects, 90% contain "real-world", as in
    "provides detailed real-world knowledge about …".
    """
    caption = fused.caption_lower
    hinted = not _PHRASE_HINTS.isdisjoint(fused.caption_set)
    said = [phrase for phrase in INSTRUCTION_PHRASES if phrase in caption] if hinted else []
    if said == ["real-world"] and _HONEST_REAL_WORLD.search(caption):
        return False
    if any(phrase not in fused.sources_lower for phrase in said):
        return True
    return not _PARAPHRASE_HINTS.isdisjoint(fused.caption_set) and says_unlike_sources(PARAPHRASE, fused)


def source_marker(fused: Fused, _: RuleSettings) -> bool:
    """``source_marker``: the caption mentions "Sentence 1" or "the second sentence", and no source does.

    Rejects 0.18% of CapsFusion's published captions.
    """
    return "sentence" in fused.caption_lower and says_unlike_sources(SOURCE_MARKER, fused)


def refusal(fused: Fused, _: RuleSettings) -> bool:
    """``refusal``: the model speaks of itself ("As an AI") or declines the task, in words that no source has.

    Rejects none of CapsFusion's published captions. The patterns are whole phrases, because "I'm Sorry" on a shirt and
    "I can't believe it" in a comic are normal text.
    """
    return not _REFUSAL_HINTS.isdisjoint(fused.caption_set) and says_unlike_sources(REFUSAL, fused)


def assistant_talk(fused: Fused, _: RuleSettings) -> bool:
    """``assistant_talk``: an assistant's words around the caption ("Sure! Here is", "Caption:", "I hope this helps").

    A label or phrase that a source also has is allowed.
    """
    caption = fused.caption_lower.replace("’", "'")
    for start in (LABEL.match(caption), ASSISTANT_OPENING.match(caption)):
        if start and start[0].strip("\"' ") not in fused.sources_lower:
            return True
    return not _ASIDE_HINTS.isdisjoint(fused.caption_set) and says_unlike_sources(ASIDE, fused)


def special_token(fused: Fused, _: RuleSettings) -> bool:
    """``special_token``: a token of a tokenizer or a chat template ("[PAD]", "<0x0A>", "▁", "<|im_end|>").

    Rejects none of CapsFusion's published captions.
    """
    return _TOKEN_HINT.search(fused.caption_lower) is not None and says_unlike_sources(TOKEN, fused)


def says_unlike_sources(pattern: re.Pattern[str], fused: Fused) -> bool:
    """Whether ``pattern`` matches a part of the lower-case caption that neither source has."""
    caption, sources = fused.caption_lower, fused.sources_lower
    if "’" in caption or "’" in sources:
        caption, sources = caption.replace("’", "'"), sources.replace("’", "'")
    return any(match[0] not in sources for match in pattern.finditer(caption))
