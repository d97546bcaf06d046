"""Decides whether a pair's fused caption must be in English. If not, rules that depend on English skip the caption."""

from __future__ import annotations

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.language import words_not_latin
from capsfusion_tasks.validation.scores import Fused


def is_to_be_english(fused: Fused, settings: RuleSettings) -> bool:
    """Whether the setting ``english`` requires an English caption for this pair.

    The value ``latin`` requires English if at least half of the synthetic caption's letters are Latin.
    The script of the raw caption does not count, because the model writes English for raw captions in any script.
    """
    if settings.english != "latin":
        return settings.english == "always"
    if fused.synthetic.isascii():
        return True
    other = sum(map(len, words_not_latin(fused.synthetic)))
    return 2 * other <= sum(map(str.isalpha, fused.synthetic))
