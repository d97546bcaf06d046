"""Rules about parts of web pages in captions: markup, addresses, shop talk, personal data, broken text."""

from __future__ import annotations

import html
import re

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import word_set

_MARKUP_HINT = re.compile(r"[<&*_`#\\\]]|https?:|www\.|^\s*-")
MARKUP = re.compile(
    r"</?[a-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,6});|https?://\S+|\bwww\.\S+"
    r"|\*\*[^*]+\*\*|__[^_]+__|```|!?\[[^\[\]]+\]\([^()\s]+\)|\[/?inst\]|<<?/?sys>>?|\\[nt]"
)
_LINE_MARK = re.compile(r"\s*(?:#{1,6}|[*-]) ")
_ADDRESS_START = re.compile(r"^(?:https?://)?(?:www\.)?")

# Domains with common endings. No word character, hyphen or further dotted part may follow the ending.
_TOP_LEVEL = (
    "com|net|org|info|biz|edu|gov|co\\.uk|com\\.au|de|fr|it|es|nl|eu|us|ca|ru|pl|io|tv|shop|online|site|blog|example"
)
ADDRESS = re.compile(rf"\b(?:[a-z0-9-]+\.)+(?:{_TOP_LEVEL})(?![\w-]|\.\w)(?:/\S*)?")
FILE_NAME = re.compile(r"[\w()-]*[\w)-]\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|psd|pdf|docx?|pptx?|mp4|avi|zip)\b")
# Machine-made names of files or pages: four or more parts, joined by hyphens or underscores. The rule ``web_residue``
# counts only names that also have a digit or an underscore.
SLUG = re.compile(r"\b[a-z0-9]+(?:[_-]+[a-z0-9]+){3,}\b")

EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
# Telephone numbers as people write them: +44 20 7946 0958, (415) 555-0132, 415-555-0132, 0203 174 1069. This regular
# expression finds all 8 numbers in CapsFusion's published pairs. The library phonenumbers, with a default country,
# finds only 5 of them, takes three times as long, and needs 48 MB more memory. A number in groups of four, three and
# three digits must begin with 04 to 09, because 0280 150 415 is a part number.
PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}"
    r"|\(\d{2,5}\)[ .-]?\d{2,4}[ .-]\d{3,4}(?:[ .-]?\d{2,4})?|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"
    r"|0\d{2,3}[ .-](?:\d{3}[ .-]?\d{4}|\d{4}[ .-]?\d{3,4})|0[4-9]\d\d[ .-]\d{3}[ .-]?\d{3}"
    r"|0\d{4}[ .-]\d{3,4}[ .-]?\d{3,4}|0\d{1,4}(?: \d{2,4}){3,4})(?![\w/-])"
)

ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8}\d?);?", re.IGNORECASE)
ESCAPE = re.compile(
    r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|N\{[A-Z ]+\})|(?:%[0-9A-F]{2}){2,}|=\?utf-8\?", re.IGNORECASE
)

# Only captions with one of these words are searched for SHOP_TALK, because looking up words in a set is faster than
# running the pattern. _WEB_HINTS has such words for WEB_RESIDUE.
_SHOP_HINTS = word_set(
    "available sale rent purchase purchased purchases purchasing priced usd eur gbp shipping discount discounts"
    " discounted off offer offers pre preowned stock delivered wholesale coupon coupons giveaway cart now depot etsy"
    " ebay amazon lyst walmart spoonflower 500px pinterest flickr redbubble zazzle wayfair"
)
SHOP_TALK = re.compile(
    r"available\b|for (?:sale|rent|purchase)\b|on sale\b|priced\b|\d ?(?:usd|eur|gbp)\b|free shipping\b|discount"
    r"|\d% off\b|\boffers? (?:the|this|for)\b|purchas|\bpre-?owned\b|in stock\b|delivered\b|wholesale\b|coupons?\b"
    r"|giveaway\b|add(?:ed)? to cart\b|shop now\b|home depot\b"
    r"|\bon (?:etsy|ebay|amazon|lyst|walmart|spoonflower|500px|pinterest|flickr|redbubble|zazzle|wayfair)\b"
)
AMOUNT = re.compile(r"[$£€]\s?\d")
_WEB_HINTS = word_set("stock royalty thumbnail slide https http www gallery website mls stk pinterest online click")
WEB_RESIDUE = re.compile(
    r"\bstock (?:photo|image|illustration|vector|footage|video)|royalty[- ]free|thumbnail\b|https?:|www\."
    r"|photo gallery\b|gallery\b.{0,12}\bimage|website\b|\bmls\b|\bstk\b|pinterest\b|\bonline\b|\bclick\b"
)
CREDIT = re.compile(r"(?:photograph|photo|picture|image) (?:(?:was )?(?:taken|captured|shot) )?by\b")
NUMBERED = re.compile(r"\b(?:photo|image|picture|page|thumbnail|slide) (?:no\.? ?|number ?|#)?\d+\b")
PAGE_OF = re.compile(r"\d of (?:the )?\d")
_PICTURES = word_set("photograph photo picture image page thumbnail slide")
SIGNED = re.compile(r"#[a-z]\w+|©|\((?:photo|pic|image|credit)\b")

# An article number, but not a ZIP code after a state ("TX 77084").
_CODE = re.compile(r"(?<!\b[A-Z][A-Z] )#?\b[A-Z0-9][A-Z0-9/.-]{3,}\b")
_YEARS = re.compile(r"(?:19|20)\d\d(?:[-/](?:19|20)?\d\d)?")


def markup(fused: Fused, _: RuleSettings) -> bool:
    """``markup``: HTML, Markdown, a web address, a file name or a tag of a chat template, if neither source has it.

    A web address is also allowed if a source has the address's host without dots ("Galleryhip Com" for galleryhip.com).
    """
    caption = fused.caption_lower
    if fused.has_inner_dot and any(not _is_of_sources(name, fused) for name in _names_with_dots(caption)):
        return True
    if not _MARKUP_HINT.search(caption):
        return False
    if (start := _LINE_MARK.match(caption)) and not fused.sources_lower.startswith(start[0]):
        return True
    marks = (_ADDRESS_START.sub("", found).rstrip(".,;:!?)\"'") for found in MARKUP.findall(caption))
    return any(mark not in fused.sources_lower for mark in marks)


def _names_with_dots(caption: str) -> list[str]:
    return [*ADDRESS.findall(caption), *FILE_NAME.findall(caption)]


def _is_of_sources(name: str, fused: Fused) -> bool:
    if _ADDRESS_START.sub("", name) in fused.sources_lower:
        return True
    parts = [part for part in re.split(r"\W+", name.split("/")[0]) if part not in ("www", "http", "https")]
    return "".join(parts[:-1]) in re.sub(r"\W+", "", fused.sources_lower)


def file_name(fused: Fused, _: RuleSettings) -> bool:
    """``file_name``: the caption contains a file name ("links-martens-logo.jpg")."""
    return fused.has_inner_dot and FILE_NAME.search(fused.caption_lower) is not None


def personal_data(fused: Fused, _: RuleSettings) -> bool:
    """``personal_data``: an e-mail address or a telephone number, even if a source has it."""
    caption = fused.caption
    if "@" in caption and EMAIL.search(caption):
        return True
    return fused.digits >= 7 and PHONE.search(caption) is not None


def broken_text(fused: Fused, _: RuleSettings) -> bool:
    """``broken_text``: mojibake ("cafÃ©"), an HTML entity ("&#x27;", "&nbsp") or an escape sequence ("\\u00e9") in
    place of a letter.

    Rejects none of CapsFusion's published captions.
    """
    caption = fused.caption
    if "&" in caption and any(html.unescape(found) != found for found in ENTITY.findall(caption)):
        return True
    if ("\\" in caption or "%" in caption or "=?" in caption) and ESCAPE.search(caption):
        return True
    return not caption.isascii() and _is_mojibake(caption)


def _is_mojibake(text: str) -> bool:
    from ftfy import fix_encoding  # imported only here, because the import takes 50 ms

    return bool(fix_encoding(text) != text)


def shop_talk(fused: Fused, _: RuleSettings) -> bool:
    """``shop_talk``: text of a shop, such as a price, "for sale", "is available" or "offers the"."""
    if not _SHOP_HINTS.isdisjoint(fused.caption_set) and SHOP_TALK.search(fused.caption_lower):
        return True
    return fused.digits > 0 and AMOUNT.search(fused.caption) is not None


def web_residue(fused: Fused, _: RuleSettings) -> bool:
    """``web_residue``: text around a picture on a web page: an address, a hashtag, a photo credit, "stock image"."""
    caption, words = fused.caption_lower, fused.caption_set
    pictured = not _PICTURES.isdisjoint(words)
    return (
        (not _WEB_HINTS.isdisjoint(words) and WEB_RESIDUE.search(caption) is not None)
        or (pictured and "by" in words and CREDIT.search(caption) is not None)
        or (pictured and fused.digits > 0 and NUMBERED.search(caption) is not None)
        or (fused.digits > 1 and "of" in words and PAGE_OF.search(caption) is not None)
        or (("#" in caption or "©" in caption or "(" in caption) and SIGNED.search(caption) is not None)
        or _has_name_of_a_page(fused)
    )


def _has_name_of_a_page(fused: Fused) -> bool:
    caption = fused.caption_lower
    if fused.has_inner_dot and ADDRESS.search(caption):
        return True
    slugs = SLUG.findall(caption) if caption.count("-") + caption.count("_") > 2 else []
    return any("_" in slug or any(map(str.isdigit, slug)) for slug in slugs)


def product_code(fused: Fused, _: RuleSettings) -> bool:
    """``product_code``: an article number that the raw caption has at its end or in brackets ("(DSTF210)")."""
    return fused.digits >= 3 and bool(product_codes(fused))


def product_codes(fused: Fused) -> list[str]:
    """The caption's article numbers that the raw caption has at its end or in brackets."""
    end = fused.raw.rstrip(" .")[-25:]
    found = []
    for written in _CODE.findall(fused.caption):
        code = written.strip("#.-")
        if sum(map(str.isdigit, code)) < 3 or len(code) < 5 or _YEARS.fullmatch(code) or code not in fused.raw:
            continue
        if written[0] == "#" or f"({code}" in fused.raw or end.endswith(code) or f"- {code}" in fused.raw:
            found.append(code)
    return found
