"""Rules about the language of a caption. Captions must be in English, for sources in any language."""

from __future__ import annotations

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.language import is_foreign, words_not_latin
from capsfusion_tasks.validation.scores import Fused


def wrong_script(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_script``: words in another script than Latin that neither source has.

    A name may be copied from a source in its own script. Rejects none of CapsFusion's published captions.
    """
    return any(word not in fused.sources_lower for word in words_not_latin(fused.caption_lower))


def wrong_language(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_language``: the caption is not in English, even if words of the raw caption do not count.

    CapsFusion's captions are in English for raw captions in any language. Rejects one of CapsFusion's published
    captions (0.02%), in French.
    """
    return is_foreign(fused.caption_words, names=fused.raw_words)
