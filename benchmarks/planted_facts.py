"""Plants into captions the faults that models make: wrong claims, and text that does not belong in a caption.

Each function plants one fault, and returns None if the pair does not allow this fault. The functions use only captions,
and no threshold or pattern of a validation rule, so that faults do not depend on the rules that should find them.
"""

from __future__ import annotations

import random
import re

from benchmarks.pair import Pair
from benchmarks.planted_form import FIRST_NAMES, LAST_NAMES, TOWNS, before_end

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PARAPHRASED_LEAKS = (
    "which offers accurate facts but poor grammar",
    "a description that is grammatically sound yet lacks specifics",
    "while the other caption may be inaccurate",
    "combining the knowledge of the first text with the style of the second",
    "and the wording of the sentence is polished",
    "giving rich real world details",
    "whereas the second description may contain untrue claims",
    "although the original caption has grammar mistakes",
    "merging both descriptions",
    "in a grammatically correct way",
    "while keeping the factual knowledge of the source text",
    "with nice structure but little depth of real facts",
)
EMAILS = ("j.smith@gmail.com", "sales@shop-now.co.uk", "Info@Studio-12.de", "maria_lopez99@hotmail.com")
PHONES = ("(415) 555-0132", "+44 20 7946 0958", "212-555-0187", "0161 496 0735", "+49 30 901820", "1-800-555-0199")
URLS = (
    "www.bestprints.com",
    "https://shop.example.org/item?id=12",
    "artfinder.net/gallery",
    "mystore.co.uk",
    "http://bit.ly/3xYz",
)
FILES = ("IMG_20190412_1530.jpg", "red-dress-front.png", "scan0001.pdf", "DSC_0042.JPG", "banner-final-v2.webp")
PRICES = ("priced at $29.99", "for only £15.50", "at €120", "for 49.95 USD", "on sale for $7")
SYNONYMS = {
    "features": "shows", "featuring": "showing", "shows": "presents", "depicts": "displays", "displays": "depicts",
    "showcases": "presents", "showcasing": "presenting", "adorned": "decorated", "stands": "is standing",
    "includes": "contains", "wearing": "dressed in", "holding": "carrying", "seen": "visible", "located": "situated",
}  # fmt: skip
TOKENS = ("[PAD]", "<0x0A>", "▁", "<|im_end|>", "<|endoftext|>", "</s>", "[UNK]", "<unk>", "### Response:", "[SEP]")
TALK = (
    "Sure! Here is the merged caption: {}",
    "Certainly! {}",
    "Here's a refined version of the sentence: {}",
    "{} I hope this helps!",
    "{} Let me know if you would like any changes.",
    "Based on the provided information, {}",
    "I cannot see the image, but {}",
    "Of course, {}",
)
LABELS = ("Caption: ", "New Sentence: ", "Output: ", "Merged sentence: ", "**Caption:** ", "Answer: ", "Assistant: ")
INVISIBLE = "\u202e\u2066\u00ad\u200b\ufeff\u2060\U000e0041"
SPECIAL = {"'": "&#x27;", '"': "&quot", " ": "&nbsp", "e": "\\u00e9", "o": "&#xf6;", "a": "&aacute", "-": "&#8211"}
FOREIGN_SENTENCES = {
    "Polish": ("{} stoi na ulicy przed starym budynkiem.", "Na zdjęciu widać {} podczas uroczystości w ogrodzie."),
    "Turkish": ("{} eski bir binanın önünde sokakta duruyor.", "Fotoğrafta {} bahçedeki törende görülüyor."),
    "Swedish": ("{} står på gatan framför en gammal byggnad.", "På bilden syns {} vid en ceremoni i trädgården."),
    "Czech": ("{} stojí na ulici před starou budovou.", "Na snímku je vidět {} při obřadu v zahradě."),
    "Indonesian": ("{} berdiri di jalan di depan bangunan tua.", "Foto ini menampilkan {} saat upacara di taman."),
    "Vietnamese": ("{} đứng trên đường trước một tòa nhà cũ.", "Bức ảnh cho thấy {} trong buổi lễ ở khu vườn."),
}
DENIALS = ("It is not to be confused with {}.", "This is not {}.", "However, it does not show {}.", "It isn't {}.")
DIARY = (
    "I love this one for my kitchen: {}",
    "{} I bought it last year for my dad.",
    "We are happy to share it with you. {}",
    "{} I'm going to make one myself.",
)
ADVERTISING = (
    "Buy it now! {}",
    "Introducing our newest find: {}",
    "{} Click here to see more.",
    "Please contact us. {}",
)
QUESTIONS = ("Is it true that {}?", "Did you know that {}?", "Why is it that {}?")


def _sub_one(pattern: str, caption: str, draw: random.Random, replace: dict[str, str] | list[str]) -> str | None:
    """Replace one random match of ``pattern``. Returns None if nothing matches.

    ``replace``: a dict from matched text to new text, or a list of new texts from which one is chosen.
    """
    found = list(re.finditer(pattern, caption))
    if not found:
        return None
    match = draw.choice(found)
    new = replace[match[0]] if isinstance(replace, dict) else draw.choice([r for r in replace if r != match[0]])
    return caption[: match.start()] + new + caption[match.end() :]


def changed_year(pair: Pair, draw: random.Random) -> str | None:
    return _sub_one(r"\b(?:19|20)\d\d\b", pair.caption, draw, [str(year) for year in range(1901, 2030)])


def swapped_name(pair: Pair, draw: random.Random) -> str | None:
    """Replaces a name with another name. A name is a capitalised word that both the fused and the raw caption have."""
    inside = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}\b", pair.caption)
    names = [name for name in inside if re.search(rf"\b{name}\b", pair.raw) and pair.caption.count(name) == 1]
    if not names or pair.raw.istitle():
        return None
    name = draw.choice(names)
    return re.sub(rf"\b{name}\b", draw.choice(FIRST_NAMES + LAST_NAMES + TOWNS), pair.caption)


def other_colour(pair: Pair, draw: random.Random) -> str | None:
    """Replaces a colour that a source caption (raw or synthetic) also has with a colour that no source has."""
    sources = f"{pair.raw} {pair.synthetic}".lower()
    said = [colour for colour in COLOURS if re.search(rf"\b{colour}\b", sources)]
    others = [colour for colour in COLOURS if colour not in sources]
    found = [colour for colour in said if re.search(rf"\b{colour}\b", pair.caption)]
    if not found or not others:
        return None
    return re.sub(rf"\b{draw.choice(found)}\b", draw.choice(others), pair.caption)


def other_count(pair: Pair, draw: random.Random) -> str | None:
    """Replaces a number word, such as "two", with another. The raw or synthetic caption also has the replaced word."""
    sources = f"{pair.raw} {pair.synthetic}".lower()
    found = [
        count for count in COUNTS if re.search(rf"\b{count}\b", pair.caption) and re.search(rf"\b{count}\b", sources)
    ]
    if not found:
        return None
    count = draw.choice(found)
    return re.sub(rf"\b{count}\b", draw.choice([other for other in COUNTS if other != count]), pair.caption)


def email(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, f"contact {draw.choice(EMAILS)}")


def phone_number(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, f"call {draw.choice(PHONES)}")


def url(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, f"see {draw.choice(URLS)}")


def file_name(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, f"as in {draw.choice(FILES)}")


def price(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, draw.choice(PRICES))


def paraphrased_leak(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, draw.choice(PARAPHRASED_LEAKS))


def said_again(pair: Pair, draw: random.Random) -> str | None:
    """Adds a sentence that repeats the caption with its halves swapped, some verbs replaced, and without articles."""
    words = pair.caption.rstrip(".").split()
    if len(words) < 8 or ". " in pair.caption:
        return None
    at = len(words) // 2
    again = [SYNONYMS.get(word, word) for word in [*words[at:], "is", "what", *words[:at]] if word not in ("a", "the")]
    opening = draw.choice(("Here", "In other words,", "It means that", "To be precise,", "Moreover,"))
    return f"{pair.caption.rstrip('.')}. {opening} {' '.join(again)}."


def other_synthetic(pair: Pair, draw: random.Random) -> str:
    """Replaces the caption with the synthetic caption of another pair."""
    other = draw.choice(
        [synthetic for synthetic in draw.sample(pair.other_synthetics, 20) if synthetic != pair.synthetic]
    )
    return other.strip().rstrip(".").capitalize() + "."


def denial(pair: Pair, draw: random.Random) -> str:
    """Adds a sentence that denies the content of another pair's synthetic caption."""
    other = draw.choice(pair.other_synthetics).strip().rstrip(".").lower()
    return f"{pair.caption} {draw.choice(DENIALS).format(other)}"


def diary(pair: Pair, draw: random.Random) -> str:
    return draw.choice(DIARY).format(pair.caption)


def advertising(pair: Pair, draw: random.Random) -> str:
    return draw.choice(ADVERTISING).format(pair.caption)


def question(pair: Pair, draw: random.Random) -> str:
    return draw.choice(QUESTIONS).format(pair.caption.rstrip("."))


def special_token(pair: Pair, draw: random.Random) -> str:
    words = pair.caption.split()
    at = draw.randrange(len(words) + 1)
    return " ".join([*words[:at], draw.choice(TOKENS), *words[at:]])


def assistant_talk(pair: Pair, draw: random.Random) -> str:
    return draw.choice(TALK).format(pair.caption)


def label(pair: Pair, draw: random.Random) -> str:
    return draw.choice(LABELS) + pair.caption


def invisible_character(pair: Pair, draw: random.Random) -> str:
    at = draw.randrange(len(pair.caption))
    return pair.caption[:at] + draw.choice(INVISIBLE) + pair.caption[at:]


def broken_character(pair: Pair, draw: random.Random) -> str | None:
    """Writes one character as a hexadecimal HTML entity, an entity without its semicolon, or an escape sequence."""
    return _sub_one("['\" eoa-]", pair.caption, draw, SPECIAL)


def mojibake(pair: Pair, draw: random.Random) -> str | None:
    """Makes quotes typographic, replaces an e with é or è, and decodes the caption's UTF-8 bytes as Windows-1252."""
    accented = pair.caption.replace("'", "’").replace('"', "“").replace("e", draw.choice("éè"), 1)
    return accented.encode().decode("cp1252", errors="ignore") if not accented.isascii() else None


def foreign_sentence(pair: Pair, draw: random.Random) -> str | None:
    """Replaces the caption with a sentence in a foreign language, into which the raw caption's first words are put."""
    name = " ".join(re.findall(r"[A-Za-z]+", pair.raw)[:3])
    return draw.choice(FOREIGN_SENTENCES[draw.choice(list(FOREIGN_SENTENCES))]).format(name) if name else None
