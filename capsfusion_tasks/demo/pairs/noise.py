"""Web noise in raw captions: texts of shops ("Buy Online"), numbers, hashtags, HTML entities.

Fused captions leave out this noise.
"""

from __future__ import annotations

import random

from capsfusion_tasks.demo.pairs import names
from capsfusion_tasks.demo.pairs.words import VOCABULARY, words_of


def _suffix(rng: random.Random, split: str, source: str) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(words_of("shop_ending" if source == "shop" else "web_ending"))
    if kind < 0.60:
        return f" | {names.brand(rng, split)}" + rng.choice(words_of("site_ending"))
    if kind < 0.70:
        host = f"{names.lower_word(rng, split)}.{rng.choice(('com', 'org', 'net', 'co.uk', 'de'))}"
        return rng.choice((f" - {host}", f" www.{host}", f" @ {host}"))
    if kind < 0.82:
        return f"{rng.choice(words_of(f'{source}_label'))} {rng.randint(1000, 9999999)}"
    if kind < 0.92:
        return "".join(f" #{rng.choice(VOCABULARY)}" for _ in range(rng.randint(1, 3)))
    return rng.choice((".jpg", ".JPG", ".png", "_1.jpg", "-1.jpeg"))


def add_noise(rng: random.Random, raw: str, split: str, source: str) -> str:
    """Add random noise to `raw`: a prefix, suffixes, a product number, hashtags or HTML.

    `source` is "shop", "home" (an advertisement for a house) or "web".
    """
    if rng.random() < 0.07:
        raw = rng.choice(words_of("shop_start" if source == "shop" else "web_start")) + raw
    if rng.random() < 0.3:
        raw += _suffix(rng, split, source)
        if rng.random() < 0.1:
            raw += _suffix(rng, split, source)
    kind = rng.random()
    if kind < 0.02:
        return '"' + raw.replace('"', '""') + '"'
    if kind < 0.05:
        return raw.replace('"', "&quot;").replace(" & ", " &amp; ").replace("'", rng.choice(("'", "&#39;")))
    if kind < 0.09:
        words = raw.split(" ")
        place = rng.randrange(len(words))
        return (" ".join(words[:place]) + "  " + " ".join(words[place:])).strip()
    if kind < 0.10 and len(raw) < 60:
        return f"{raw}. {raw}" + rng.choice((" stock images", "", " stock photo"))
    if kind < 0.11 and all(word.isalnum() for word in raw.split()):
        return "-".join(raw.split())
    return raw
