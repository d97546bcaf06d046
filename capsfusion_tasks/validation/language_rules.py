"""Rules about a caption's language. By default, captions must be in English, even if the source captions are not."""

from __future__ import annotations

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.language import is_foreign, words_not_latin
from capsfusion_tasks.validation.scores import Fused


def wrong_script(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_script``: words in a non-Latin script that neither source has.

    A caption may copy a name in a non-Latin script from a source. Rejects none of CapsFusion's published captions.
    """
    return any(word not in fused.sources_lower for word in words_not_latin(fused.caption_lower))


def wrong_language(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_language``: the caption is not in English. Words that the raw caption also has are ignored.

    CapsFusion's captions are in English, whatever language the raw caption has. Rejects one of CapsFusion's published
    captions (0.02%), which is in French.
    """
    return is_foreign(fused.caption_words, names=fused.raw_words)
