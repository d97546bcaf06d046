"""Whether a pair's caption is to be in English. Rules that presume English are asked of such captions only."""

from __future__ import annotations

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.language import words_not_latin
from capsfusion_tasks.validation.scores import Fused


def is_to_be_english(fused: Fused, settings: RuleSettings) -> bool:
    """By the setting ``english``. With ``latin``, the script of the synthetic caption decides: at most half of its
    letters are of another script than Latin. The raw caption does not: a model writes English of any of them."""
    if settings.english != "latin":
        return settings.english == "always"
    if fused.synthetic.isascii():
        return True
    other = sum(map(len, words_not_latin(fused.synthetic)))
    return 2 * other <= sum(map(str.isalpha, fused.synthetic))
