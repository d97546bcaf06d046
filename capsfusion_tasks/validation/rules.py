"""Verdicts: the reasons for which a caption is rejected, and the flags that ask for a look at it.

A rule is a small function whose name is its code; its docstring has its source and its calibration. Shares in them are
of the 5,000 published captions that CapsFusion's own model wrote (a half of the 10,000 published pairs), so they are
what a good model does wrong, not how often a rule errs.
"""

from __future__ import annotations

from collections.abc import Callable

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.caption_rules import (
    control_characters,
    empty,
    failed,
    repetition,
    too_long,
    too_short,
    truncated,
)
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.source_rules import (
    concatenation,
    continuation,
    copy,
    invention,
    knowledge_lost,
    markup,
    prompt_leakage,
    refusal,
    same_caption,
    source_marker,
    unrelated_sources,
    verbatim,
    wrong_language,
    wrong_script,
)

Rule = Callable[[Fused, RuleSettings], bool]

# Rules that reject, in the order in which reasons are listed.
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
    repetition,
    concatenation,
    copy,
    knowledge_lost,
    invention,
    wrong_script,
    wrong_language,
    control_characters,
    markup,
    same_caption,
)

REASONS = tuple(rule.__name__ for rule in RULES)

# Rules that reject nothing.
FLAGS: tuple[Rule, ...] = (verbatim, unrelated_sources)

DEFAULTS = RuleSettings()


def reasons(fused: Fused, settings: RuleSettings = DEFAULTS) -> list[str]:
    """The codes of all rules that reject the caption, in the order of ``RULES``; empty: accepted."""
    return [rule.__name__ for rule in RULES if rule(fused, settings)]


def flags(fused: Fused, settings: RuleSettings = DEFAULTS) -> list[str]:
    """The codes of all rules that ask for a look at the caption, in the order of ``FLAGS``."""
    return [rule.__name__ for rule in FLAGS if rule(fused, settings)]
