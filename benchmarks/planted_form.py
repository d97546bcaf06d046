"""Plants into captions the faults of form that models make: truncation, leaked prompts, loops, copies, other scripts.

Each function plants one fault, and returns None if the pair does not allow this fault. The functions use only captions,
and no threshold or pattern of a validation rule, so that faults do not depend on the rules that should find them.
"""

from __future__ import annotations

import random
import re

from benchmarks.pair import Pair

LEAKS = (
    "providing detailed real-world knowledge about the subject",
    "while exhibiting nice sentence structure",
    "despite its flaws in sentence structure and grammar",
    "which may contain false information",
    "retaining the detailed real-world information",
    "ensuring a well-structured sentence",
)
MARKERS = (
    "as stated in Sentence 1",
    "as mentioned in Sentence 2",
    "which the first sentence says",
    "unlike sentence two",
)
REFUSALS = (
    "I'm sorry, but I cannot merge these two captions.",
    "As an AI language model, I am not able to see images.",
    "I apologize, but I can't assist with that request.",
    "Sorry, I am unable to combine the information.",
    "Unfortunately, I cannot help with this image.",
    "I'm unable to provide a caption for this content.",
    "I do not have enough information to merge these captions.",
)
FIRST_NAMES = ("Zofia", "Bertrand", "Keiko", "Oluwaseun", "Ingrid", "Matteo", "Priyanka", "Thaddeus")
LAST_NAMES = ("Brzezinski", "Okonkwo", "Lindqvist", "Yamashiro", "Delacroix", "Abernathy", "Vukovic", "Quispe")
TOWNS = ("Ouagadougou", "Winnipeg", "Ljubljana", "Antofagasta", "Wolverhampton", "Yokohama", "Timbuktu", "Gdynia")
CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстуввхыз", strict=True))
HAN = "在一张白色的桌子上有红鞋花园里孩子们正玩耍这幅画描绘了山和河流老建筑前面停着辆汽车"
ENGLISH = "a an the and of with is on in for to are by from at as that this was while"
FOREIGN = {
    "German": "ein ein der und von mit ist auf im für zu sind von aus bei als dass dieser war während",
    "French": "une un le et du avec est sur dans pour à sont par de chez comme que cette était pendant",
    "Spanish": "una un el y de con es en en para a son por desde en como que este era mientras",
}


def before_end(caption: str, phrase: str) -> str:
    """Insert ``phrase`` into ``caption``, before the full stop at the end."""
    return f"{caption.rstrip('.')}, {phrase}."


def truncation(pair: Pair, draw: random.Random) -> str | None:
    """Cuts the caption at a word boundary in its second half, where no sentence ends."""
    words = pair.caption.split()
    ends = [n for n in range(max(4, len(words) // 2), len(words)) if words[n - 1][-1].isalnum()]
    return " ".join(words[: draw.choice(ends)]) if ends else None


def cut_in_a_word(pair: Pair, draw: random.Random) -> str | None:
    """Cuts the caption inside a word, as happens when generation reaches the token limit."""
    long = [m for m in re.finditer(r"[a-z]{6,}", pair.caption) if m.start() > 20]
    match = draw.choice(long) if long else None
    return pair.caption[: match.start() + 3] if match else None


def leakage(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, draw.choice(LEAKS))


def source_marker(pair: Pair, draw: random.Random) -> str:
    return before_end(pair.caption, draw.choice(MARKERS))


def refusal(_: Pair, draw: random.Random) -> str:
    return draw.choice(REFUSALS)


def phrase_loop(pair: Pair, draw: random.Random) -> str:
    """Repeats a phrase of 1 to 4 words many times."""
    words = pair.caption.rstrip(".").split()
    size = draw.randint(1, 4)
    start = draw.randrange(max(1, len(words) - size))
    phrase = words[start : start + size]
    return " ".join([*words[: start + size], *phrase * draw.randint(4, 10)]) + "."


def sentence_loop(pair: Pair, draw: random.Random) -> str:
    return " ".join([pair.caption] * draw.randint(2, 3))


def letter_loop(pair: Pair, draw: random.Random) -> str:
    """Inserts a word of letters that repeat many times, such as "hahahahaha"."""
    words = pair.caption.split()
    at = draw.randrange(1, max(2, len(words) - 1))
    return " ".join([*words[:at], draw.choice(("a", "ha", "lo", "ing", "na")) * draw.randint(12, 30), *words[at:]])


def joined_sources(pair: Pair, draw: random.Random) -> str | None:
    """Joins the raw and the synthetic caption, one after the other. Needs captions of at least five words each."""
    raw, synthetic = pair.raw.strip(), pair.synthetic.strip().rstrip(".")
    if min(len(raw.split()), len(synthetic.split())) < 5 or synthetic.lower() in raw.lower():
        return None
    ways = (f"{raw}. {synthetic}.", f"{synthetic}, {raw}.", f"{raw} and {synthetic}.", f"{synthetic} while {raw}.")
    return draw.choice(ways)


def copied_raw(pair: Pair, _: random.Random) -> str | None:
    return pair.raw.strip().rstrip(".") + "." if _adds_words(pair.synthetic, pair.raw) else None


def copied_synthetic(pair: Pair, _: random.Random) -> str | None:
    return pair.synthetic.strip().rstrip(".") + "." if _adds_words(pair.raw, pair.synthetic) else None


def _adds_words(text: str, to: str) -> bool:
    return not set(re.findall(r"\w+", text.lower())) <= set(re.findall(r"\w+", to.lower()))


def continuation(pair: Pair, draw: random.Random) -> str | None:
    """Keeps only the end of the caption, as if a model had continued a cut-off synthetic caption."""
    words = pair.caption.split()
    starts = [n for n in range(2, len(words) - 4) if words[n].isalpha() and words[n].islower()]
    return " ".join(words[draw.choice(starts) :]) if starts and pair.synthetic.strip()[-1].isalnum() else None


def lost_facts(pair: Pair, _: random.Random) -> str | None:
    """Writes generic words in place of the raw caption's names and numbers. Needs at least four names or numbers."""
    raw = re.sub(r"Royalty.Free|Stock (?:Photo|Image|Picture)\w*|https?:\S+|\S+[-_]\S+[-_]\S+", "", pair.raw)
    names = set(re.findall(r"(?<=[a-z,] )[A-Z]\w+|\b\w*\d\w*", raw))
    if len(names) < 4:
        return None
    caption = re.sub(r"\b\w*\d\w*\b", "some", pair.caption)
    for word in set(re.findall(r"\w+", raw)):  # also replaces words that have the same first five letters
        if word[0].isupper() or any(map(str.isdigit, word)):
            caption = re.sub(rf"\b{re.escape(word[:5])}\w*", "something", caption, flags=re.IGNORECASE)
    return caption[0].upper() + caption[1:]


def invented_facts(pair: Pair, draw: random.Random) -> str:
    """Adds a sentence with invented names, a place and a year."""
    who = f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}"
    return f"{pair.caption} It was made by {who} of {draw.choice(TOWNS)} in {draw.randint(1301, 1799)}."


def cyrillic(pair: Pair, draw: random.Random) -> str:
    """Writes the caption's end in Cyrillic letters."""
    words = pair.caption.lower().split()
    at = draw.randrange(max(1, len(words) - 3))
    return " ".join([*words[:at], *("".join(CYRILLIC.get(c, c) for c in word) for word in words[at:])])


def chinese(pair: Pair, draw: random.Random) -> str:
    return pair.caption.rstrip(".") + "".join(draw.choices(HAN, k=draw.randint(4, 20))) + "。"


def other_language(pair: Pair, draw: random.Random) -> str | None:
    """Replaces every grammar word, such as "the", with a word of another language. Needs at least five such words."""
    words = dict(zip(ENGLISH.split(), FOREIGN[draw.choice(list(FOREIGN))].split(), strict=True))
    tokens = re.findall(r"\w+|\W+", pair.caption)
    if sum(token.lower() in words for token in tokens) < 5:
        return None
    return "".join(words.get(token.lower(), token) for token in tokens)


def control_character(pair: Pair, draw: random.Random) -> str:
    caption = pair.caption
    at = draw.randrange(len(caption))
    return caption[:at] + draw.choice("\x00\x07\x1b\x7f\n\r\t\x85\u2028\ufffd") + caption[at:]


def tags(pair: Pair, draw: random.Random) -> str:
    words = pair.caption.split()
    at = draw.randrange(len(words))
    word = words[at]
    marked = draw.choice(
        (f"<b>{word}</b>", f"<br/>{word}", f"**{word}**", f"[{word}](https://img.example/x.jpg)", f"{word}&nbsp;",
         f"<a href='x'>{word}", f"https://img.example/{draw.randrange(10**6)} {word}", f"{word}&#39;", f"__{word}__")
    )  # fmt: skip
    return " ".join([*words[:at], marked, *words[at + 1 :]])


def markdown_line(pair: Pair, draw: random.Random) -> str:
    return draw.choice(("- ", "* ", "# ", "## ")) + pair.caption


def nothing(_: Pair, draw: random.Random) -> str:
    return draw.choice(("", " ", "\u00a0"))


def a_word_or_two(pair: Pair, draw: random.Random) -> str:
    return " ".join(re.findall(r"\w+", pair.caption)[: draw.randint(1, 2)]) + "."


def essay(pair: Pair, draw: random.Random) -> str:
    """Appends captions of other pairs until the text has at least two hundred words."""
    others = iter(draw.sample(pair.others, 60))
    text = pair.caption
    while len(text.split()) < 200:
        text += f" {next(others)}"
    return text


def same_caption(pair: Pair, draw: random.Random) -> str:
    """Replaces the caption with one of a few fixed captions, chosen independently of the pair."""
    return pair.others[draw.randrange(5)]
