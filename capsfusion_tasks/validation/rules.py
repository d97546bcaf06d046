"""Verdicts: the reasons for which a caption is rejected, and the flags that mark doubtful captions.

A rule is a small function. The function's name is the reason or flag, and its docstring says where the rule comes from
and how it was calibrated. Percentages in the docstrings refer to 5,000 published captions by CapsFusion's own model
(half of the 10,000 published pairs). docs/validation.md says how often each rule is right.
"""

from __future__ import annotations

from collections.abc import Callable

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.caption_rules import (
    control_characters,
    empty,
    failed,
    repetition,
    restated,
    too_long,
    too_short,
    truncated,
)
from capsfusion_tasks.validation.claim_rules import (
    changed_colour,
    changed_name,
    denial,
    general_talk,
    invented_name,
    invented_number,
    invention,
    little_support,
    loose_link,
    unsupported,
)
from capsfusion_tasks.validation.english import is_to_be_english
from capsfusion_tasks.validation.language_rules import wrong_language, wrong_script
from capsfusion_tasks.validation.leak_rules import (
    assistant_talk,
    prompt_leakage,
    refusal,
    source_marker,
    special_token,
)
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.source_rules import (
    concatenation,
    continuation,
    copy,
    knowledge_lost,
    one_source,
    same_caption,
    unrelated_sources,
    verbatim,
)
from capsfusion_tasks.validation.voice_rules import addresses_reader, first_person, question
from capsfusion_tasks.validation.web_rules import (
    broken_text,
    file_name,
    markup,
    personal_data,
    product_code,
    shop_talk,
    web_residue,
)

Rule = Callable[[Fused, RuleSettings], bool]

# Rules that reject captions, in the order in which reasons are listed.
RULES: tuple[Rule, ...] = (
    failed,
    empty,
    too_short,
    too_long,
    truncated,
    continuation,
    prompt_leakage,
    source_marker,
    refusal,
    assistant_talk,
    special_token,
    repetition,
    restated,
    concatenation,
    copy,
    knowledge_lost,
    invention,
    invented_number,
    changed_name,
    changed_colour,
    unsupported,
    denial,
    first_person,
    addresses_reader,
    question,
    personal_data,
    wrong_script,
    wrong_language,
    control_characters,
    broken_text,
    markup,
    same_caption,
)

REASONS = tuple(rule.__name__ for rule in RULES)

# Rules that only flag captions.
FLAGS: tuple[Rule, ...] = (
    verbatim,
    unrelated_sources,
    one_source,
    little_support,
    invented_name,
    general_talk,
    loose_link,
    shop_talk,
    web_residue,
    file_name,
    product_code,
)

# Rules that depend on English words, on English capitalisation, or on spaces between words. They would reject or flag
# good captions in other languages. All other rules work in any language, or find nothing in other languages.
PRESUME_ENGLISH: frozenset[Rule] = frozenset(
    (
        *(too_short, restated, knowledge_lost, invention, changed_name, changed_colour, unsupported, denial),
        *(first_person, addresses_reader, wrong_script, wrong_language),
        *(one_source, little_support, invented_name),
    )
)
_RULES_FOR_ANY, _FLAGS_FOR_ANY = (
    tuple(rule for rule in rules if rule not in PRESUME_ENGLISH) for rules in (RULES, FLAGS)
)

# What each rule looks for: the first paragraph of its docstring, without the rule's name.
MEANINGS = {
    rule.__name__: " ".join((rule.__doc__ or "").split(": ", 1)[-1].split("\n\n")[0].split()).replace("``", "")
    for rule in (*RULES, *FLAGS)
}

DEFAULTS = RuleSettings()


def reasons(fused: Fused, settings: RuleSettings = DEFAULTS) -> list[str]:
    """The names of all rules that reject the caption, in the order of ``RULES``. Empty if no rule rejects it."""
    rules = RULES if is_to_be_english(fused, settings) else _RULES_FOR_ANY
    return [rule.__name__ for rule in rules if rule(fused, settings)]


def flags(fused: Fused, settings: RuleSettings = DEFAULTS) -> list[str]:
    """The names of all flags that apply to the caption, in the order of ``FLAGS``."""
    rules = FLAGS if is_to_be_english(fused, settings) else _FLAGS_FOR_ANY
    return [rule.__name__ for rule in rules if rule(fused, settings)]
