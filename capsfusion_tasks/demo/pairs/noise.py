"""Noise of web pages in raw captions: shop endings, numbers, hashtags, entities. Fused captions have none of it."""

from __future__ import annotations

import random

from capsfusion_tasks.demo.pairs import lexicon, names

_PREFIXES = (
    "Image result for ",
    "Buy ",
    "NEW ",
    "New! ",
    "Download ",
    "Photo: ",
    "File:",
    "Picture of ",
    "Image of ",
    "Thumbnail for ",
    "Amazon.com: ",
    "eBay: ",
)
_STOCK = (
    " - stock photo",
    " Stock Photo",
    " stock image",
    " Royalty Free Stock Photography",
    " stock vector",
    " HD Wallpaper",
    " - Image 3",
    " | Stock Images",
    " Stock Illustration",
    " royalty free stock images",
    " Vector",
    " desktop wallpaper",
    " #Gallery",
)
_SHOPS = (
    " - Etsy",
    " | eBay",
    " - Amazon",
    " | Pinterest",
    " | Shop",
    " - Walmart.com",
    " | Free Shipping",
    " - Best Price",
    " | Online Store",
    " – Buy Online",
    ", Free Shipping",
    " [SALE]",
    " (New)",
    " - Wikipedia",
    " - YouTube",
    " | IMDb",
    " | Flickr",
    " - Getty Images",
)


def _suffix(rng: random.Random, split: str) -> str:
    kind = rng.random()
    if kind < 0.20:
        return rng.choice(_STOCK)
    if kind < 0.36:
        return rng.choice(_SHOPS)
    if kind < 0.50:
        return f" | {names.brand(rng, split)}" + rng.choice(("", "", " Shop", " Blog", " News", " Online", " Store"))
    if kind < 0.58:
        return f" - {names.lower_word(rng, split)}.{rng.choice(('com', 'org', 'net', 'co.uk', 'de'))}"
    if kind < 0.64:
        return f" www.{names.lower_word(rng, split)}.com"
    if kind < 0.72:
        return f" {rng.choice(('SKU', 'SKU:', 'Item #', 'ID', 'MLS #', 'Ref.', 'No.'))} {rng.randint(1000, 9999999)}"
    if kind < 0.80:
        return f" #{rng.choice(lexicon.TITLE_NOUNS).lower()}" + (
            f" #{names.lower_word(rng, split)}" if rng.random() < 0.5 else ""
        )
    if kind < 0.86:
        return rng.choice((".jpg", ".JPG", ".png", "_1.jpg", "-1.jpeg"))
    if kind < 0.92:
        return rng.choice(("...", " ...", "…"))
    return f" - {rng.randint(10000, 99999999)}"


def add_noise(rng: random.Random, raw: str, split: str) -> str:
    """`raw` with a prefix, a site suffix, an article number, hashtags, entities or doubled spaces, or as it was."""
    if rng.random() < 0.07:
        raw = rng.choice(_PREFIXES) + raw
    if rng.random() < 0.32:
        raw += _suffix(rng, split)
        if rng.random() < 0.15:
            raw += _suffix(rng, split)
    kind = rng.random()
    if kind < 0.03:
        raw = '"' + raw.replace('"', '""') + '"'
    elif kind < 0.07:
        raw = raw.replace('"', "&quot;").replace(" & ", " &amp; ").replace("'", rng.choice(("'", "&#39;")))
    elif kind < 0.12:
        words = raw.split(" ")
        place = rng.randrange(len(words))
        raw = " ".join(words[:place]) + "  " + " ".join(words[place:])
    elif kind < 0.135 and len(raw) < 60:
        raw = f"{raw}. {raw}" + rng.choice((" stock images", "", " stock photo"))
    return raw.strip()
