"""Tests each rule on captions that it must reject, and on good captions that it must not reject."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import FLAGS, RULES, flags, reasons
from capsfusion_tasks.validation.scores import Fused, scores

RAW = "Christian Louboutin So Kate 120 glitter pumps"
SYNTHETIC = "A pair of red high heels on a white table."
GOOD = "The Christian Louboutin So Kate 120 glitter pumps are red high heels that stand on a white table."


def judge(caption: str, *, raw: str = RAW, synthetic: str = SYNTHETIC, finish_reason: str | None = "stop") -> list[str]:
    return reasons(Fused(raw, synthetic, caption, finish_reason))


def test_a_good_caption_has_no_reason() -> None:
    assert judge(GOOD) == []
    assert judge(GOOD, finish_reason=None) == []


def test_every_rule_states_its_reason_code_first() -> None:
    for rule in (*RULES, *FLAGS):
        assert rule.__doc__ is not None
        assert rule.__doc__.startswith(f"``{rule.__name__}``: ")


@pytest.mark.parametrize(
    ("reason", "caption"),
    [
        ("empty", ""),
        ("empty", " \n\t "),
        ("too_short", "Red shoes."),
        ("too_short", "A b c"),
        ("too_short", "🎉🎉🎉🎉🎉🎉"),
        ("truncated", "The Christian Louboutin So Kate 120 glitter pumps are red high heels that"),
        ("truncated", "The pumps come in red, black, and"),
        ("truncated", "To wear the pumps, follow these steps:"),
        ("prompt_leakage", "The So Kate 120 pumps provide detailed real-world knowledge and stand on a white table."),
        ("source_marker", "The pumps are glittering, not red as stated in Sentence 2."),
        ("source_marker", "The first sentence is about pumps, the second sentence about red high heels."),
        ("prompt_leakage", "Here is the merged sentence: the So Kate 120 pumps are red."),
        ("prompt_leakage", "In the real world, there are pumps by Christian Louboutin."),
        ("prompt_leakage", "Despite flaws in Sentence Structure, the So Kate 120 pumps are red."),
        ("too_long", GOOD * 5),
        ("refusal", "I'm sorry, but I cannot merge these sentences."),
        ("refusal", "As an AI language model, I see red heels by Christian Louboutin."),
        ("refusal", "Unfortunately, I am unable to combine them."),
        ("repetition", "The Louboutin pumps are very very very very red."),
        ("repetition", "The Louboutin pumps are looooooooooong and red."),
        ("repetition", "The Louboutin pumps are red - - - - - - - - - - - - heels."),
        ("repetition", "The Louboutin pumps are for Girls, Girls, Girls with red heels."),
        ("repetition", "The red shoes of the red shoes of the red shoes of the red shoes."),
        ("concatenation", f"{RAW}. {SYNTHETIC}"),
        ("concatenation", f"{SYNTHETIC[:-1]}, and the {RAW}."),
        ("concatenation", f"The {RAW.upper()}, while {SYNTHETIC.lower()}"),
        ("copy", RAW + "."),
        ("copy", SYNTHETIC),
        ("copy", SYNTHETIC.upper().rstrip(".") + "!"),
        ("knowledge_lost", "A pair of sparkling shoes in bright red stands on a white table."),
        ("invention", "The So Kate 120 pumps were worn by Zofia Brandt at the Fenwick Gala in 1987."),
        ("wrong_script", "Туфли Christian Louboutin So Kate 120 стоят на столе."),
        ("wrong_script", "The So Kate 120 glitter pumps are 红色 heels."),
        ("wrong_language", "Die Pumps von Christian Louboutin sind rot und stehen auf einem Tisch mit der Nummer 120."),
        ("wrong_language", "Los zapatos de Christian Louboutin son rojos y están en una mesa con el número 120."),
        ("markup", "The <b>So Kate 120</b> glitter pumps are red high heels."),
        ("markup", "The So Kate 120 glitter pumps &amp; heels are red."),
        ("markup", "The **So Kate 120** glitter pumps are red high heels."),
        ("markup", "The [So Kate 120](https://example.com) glitter pumps are red."),
        ("markup", "- The So Kate 120 glitter pumps are red high heels."),
        ("markup", "The So Kate 120 glitter pumps at https://shoes.example.com are red."),
        ("control_characters", GOOD.replace(" are", "\x00 are")),
        ("control_characters", GOOD.replace(" are", "\nare")),
        ("control_characters", GOOD.replace("Louboutin", "Loub\ufffdtin")),
        ("control_characters", GOOD.replace("glitter", "glit\u00adter")),
        ("control_characters", GOOD.replace("glitter", "\u202eglitter")),
        ("control_characters", GOOD.replace("glitter", "glitter\U000e0041")),
        ("empty", "\x00\x1f"),
        ("empty", " \u200b\ufeff\u2060 "),
        ("truncated", "The Christian Louboutin So Kate 120 glitter pumps are red high..."),
        ("truncated", "The So Kate 120 pumps stand on a white table and…"),
        ("truncated", "The So Kate 120 glitter pumps are red heels and the."),
        ("prompt_leakage", "The So Kate 120 pumps are well-structured and stand on a white table."),
        ("prompt_leakage", "The So Kate 120 pumps are red, but the second description may be incorrect."),
        ("prompt_leakage", "The So Kate 120 pumps are red heels, unlike the original description."),
        ("prompt_leakage", "The So Kate 120 pumps are red heels, as the second text says."),
        ("prompt_leakage", "The So Kate 120 pumps are red heels, in a grammatically correct sentence."),
        ("prompt_leakage", "The So Kate 120 pumps offer rich and factual knowledge about red heels."),
        ("assistant_talk", "Sure! Here is the merged caption: the So Kate 120 pumps are red."),
        ("assistant_talk", "Caption: The So Kate 120 glitter pumps are red high heels."),
        ("assistant_talk", "**New Sentence:** The So Kate 120 glitter pumps are red high heels."),
        ("assistant_talk", "The So Kate 120 glitter pumps are red high heels. I hope this helps!"),
        ("refusal", "I cannot see the image, but the So Kate 120 pumps are red."),
        ("special_token", "The So Kate 120 glitter pumps are red high heels. <|im_end|>"),
        ("special_token", "The So Kate 120 [PAD] glitter pumps are red high heels."),
        ("special_token", "The So Kate 120<0x0A>glitter pumps are red▁high heels."),
        (
            "restated",
            "The Louboutin So Kate 120 pumps are red heels. On the table, Louboutin pumps are So Kate 120 heels.",
        ),
        ("invented_number", GOOD.replace("120", "130")),
        ("invented_number", "Three Christian Louboutin So Kate 120 glitter pumps are red high heels."),
        ("invented_number", GOOD.rstrip(".") + ", priced at $49.99."),
        ("changed_name", "The Christian Brandt So Kate 120 glitter pumps are red high heels on a white table."),
        ("changed_colour", GOOD.replace("are red", "are green")),
        (
            "unsupported",
            "Comfortable footwear plays a crucial role in fashion history, expressing elegance and social status.",
        ),
        ("denial", GOOD.rstrip(".") + ", not a pair of boots."),
        ("denial", "The So Kate 120 glitter pumps are red high heels. They aren't sold in a box."),
        ("first_person", "I love the So Kate 120 glitter pumps, which are red high heels."),
        ("first_person", "The So Kate 120 glitter pumps are red high heels, like the Louboutin I bought."),
        ("first_person", "The So Kate 120 glitter pumps are red high heels. In them I was happy."),
        ("first_person", "The So Kate 120 glitter pumps are the red high heels that we found for the party."),
        ("addresses_reader", "Buy the So Kate 120 glitter pumps, which are red high heels."),
        ("addresses_reader", "Click here to see the So Kate 120 glitter pumps, which are red high heels."),
        ("question", "Are the So Kate 120 glitter pumps red high heels?"),
        ("personal_data", GOOD.rstrip(".") + " (kate@shoes.example)."),
        ("personal_data", GOOD.rstrip(".") + ", call (415) 555-0132."),
        ("personal_data", GOOD.rstrip(".") + ", call +44 20 7946 0958."),
        ("personal_data", GOOD.rstrip(".") + ", call 0161 496 0735."),
        ("personal_data", GOOD.rstrip(".") + ", call 0412 345 678."),
        ("personal_data", GOOD.rstrip(".") + ", call 082 123 4567."),
        ("personal_data", GOOD.rstrip(".") + ", call 01632 960123."),
        ("broken_text", GOOD.replace("glitter", "glittÃ©r")),
        ("broken_text", GOOD.replace("glitter", "glitt\\u00e9r")),
        ("broken_text", GOOD.replace("glitter pumps", "glitter&#x20;pumps")),
        ("broken_text", GOOD.replace("glitter pumps", "glitter&nbsp pumps")),
        ("markup", "The So Kate 120 glitter pumps at shoes-and-more.com are red high heels."),
        ("markup", "The So Kate 120 glitter pumps are red high heels in pumps_red.jpg."),
        ("wrong_language", "Szpilki Christian Louboutin stoją na białym stole obok wazonu z kwiatami."),
        ("wrong_language", "Louboutin topuklu ayakkabılar beyaz bir masanın üzerinde duruyor."),
        ("wrong_language", "Sepatu Louboutin merah berdiri di atas meja putih dekat jendela."),
        ("wrong_language", "Červené lodičky Louboutin stojí na bílém stole vedle okna."),
    ],
)
def test_a_fault_is_rejected_with_its_reason(reason: str, caption: str) -> None:
    assert reason in judge(caption)


@pytest.mark.parametrize(
    ("why", "raw", "synthetic", "caption"),
    [
        (
            "an apology that is printed on a shirt",
            "I'm Sorry Did I Roll My Eyes Out Loud T-Shirt",
            "A black t-shirt with white text.",
            'The black T-shirt says "I\'m Sorry, Did I Roll My Eyes Out Loud" in white text.',
        ),
        (
            "several sentences",
            "Drinking water with cucumber and lemon at lake",
            "A girl drinks from a glass at the beach.",
            "A girl drinks water with cucumber and lemon. She sits at the lake, near the beach.",
        ),
        (
            "a closing quote ends it",
            "Keep Calm poster",
            "a poster on a wall",
            "A poster on the wall reads “Keep Calm.”",
        ),
        (
            "a bracket ends it",
            "White Sox win, photo by Ron Vesely",
            "a ball game",
            "A ball game is won by the Sox. (Photo by Ron Vesely)",
        ),
        ("an emoji follows the end", "Pizza night 🍕", "a pizza", "A hot pizza is served for pizza night. 🍕❤️"),
        ("another script's end of sentence", "北京 故宫", "a palace", "The Forbidden City (北京 故宫) is a palace。"),
        (
            "the phrase stands in a source",
            "Real-World Algebra, Sentence 1 of the book",
            "the cover of a book",
            "The cover of the book Real-World Algebra shows Sentence 1 of it.",
        ),
        (
            "the real world, without the instruction's hyphen",
            "Pokemon IRL",
            "a toy",
            "It is a toy from the real world.",
        ),
        (
            "a name said twice",
            "Artis REIT (Artis)",
            "a company logo above words in a blue and grey font",
            "The logo of Artis Real Estate stands above the words that say Artis Real Estate in a blue and grey font.",
        ),
        (
            "one source contains the other",
            "Oxford Handbook of Recruitment",
            "the Oxford Handbook of Recruitment",
            "The Oxford Handbook of Recruitment is a resource for people who hire.",
        ),
        (
            "a sentence of both sources",
            "Regency 22 inch Double Tier Speed Rail",
            "Three stainless steel trays with wooden handles.",
            "The Regency 22 inch Double Tier Speed Rail features three stainless steel trays with wooden handles.",
        ),
        (
            "a comic that cannot believe it",
            "Roy Lichtenstein: I cant believe it, I forgot to have children",
            "A woman in a comic.",
            'A woman in a comic by Roy Lichtenstein says "I can\'t believe it, I forgot to have children."',
        ),
        (
            "a name that a source says three times",
            "Sam Sam Sam Edelman Ankle Boot",
            "black boots",
            "The Sam Sam Sam Edelman Ankle Boot is a pair of black boots.",
        ),
        (
            "abbreviations written out",
            "Picnic at Batu Layar, NYC - 27th Oct'08 with Sask. Premier",
            "People eat in the grass.",
            "On October 27, 2008, the Saskatchewan Premier was at a Batu Layar picnic in the grass in New York City.",
        ),
        (
            "names in a script of their own are translated",
            "San Ramon, カリフォルニア 94582 アメリカ合衆国",
            "geese near a pond",
            "Geese are near a pond in San Ramon, California, United States, 94582.",
        ),
        (
            "a script and an address that a source has",
            "Картина 5 at www.gallery.example",
            "a painting on a wall",
            "The painting Картина 5 hangs on a wall, see https://www.gallery.example.",
        ),
        (
            "real-world problems",
            "ANSYS Free Simulation for Students",
            "a car in a wind tunnel",
            "ANSYS Free Simulation for Students shows a car in a wind tunnel to solve real-world problems.",
        ),
        (
            "numbers in another form",
            "3rd Jan. 2014 - '08 plates, 5k run at 18:00, part III, 8½ inch, 061208",
            "a pair of shoes",
            "On January 3, 2014, three 2008 plates and two 8-inch shoes of the 5,000-metre run at 6:00 pm were"
            " shown, dated June 12.",
        ),
        ("a loop of a source with commas", "Girls, Girls, Girls", "a poster", "A poster for Girls, Girls, Girls."),
        ("a loop with other signs", "Tora! Tora! Tora!", "a film poster", "The film poster is for Tora, Tora, Tora."),
        (
            "a loop of two words",
            "New York, New York, New York",
            "a city at night",
            "The city of New York, New York, New York is seen at night with its many lights and tall buildings.",
        ),
        ("a name that begins with Buy", "Buyers Products", "a logo", "Buyers Products is a company that has a logo."),
        ("a nurse who is registered", "Registered nurse", "a nurse", "Registered nurse is a nurse at work."),
        ("people who enjoy", "Beach holiday", "a family", "Enjoying the beach, a family is on holiday."),
        ("people who are pleased", "Pleased customers", "a shop", "Pleased customers are in a shop."),
        ("a queen's numeral", "Queen Elizabeth I", "a woman", "The woman on Queen Elizabeth I was in a dress."),
        ("a war's numeral", "World War I soldiers", "men", "The men were soldiers, and in World War I were young."),
        ("a title that a source has", "We Are Shining Cards", "cards", "We are Shining Cards is on the cards."),
        ("the sun of a sunrise", "Sunrise over Tahoe", "a lake", "Tahoe is a lake in the morning sun."),
        ("the bed of a bedroom", "Master Bedroom in Oak", "a room", "The master room in oak has a white bed."),
        ("a Bosch part number", "Bosch 0280 150 415", "a metal part", "The Bosch 0280 150 415 is a metal part."),
        ("a VW part number", "VW part 028 905 205", "a metal part", "The VW part 028 905 205 is made of metal."),
        (
            "the original text of a source",
            "Original text of the Declaration of Independence",
            "an old paper",
            "An old paper shows the original text of the Declaration of Independence.",
        ),
        (
            "a text in the picture",
            "Keep Calm poster",
            "a red poster",
            "The Keep Calm poster is red and has the following text on it: Keep Calm.",
        ),
        (
            "colours in another language and shades",
            "Schultertasche braun, navy",
            "The grey purse is on a table.",
            "The brown and blue shoulder bag, a purse, is on a table.",
        ),
        (
            "a denial of a source",
            "Don't Worry Be Happy mug",
            "a mug that is not empty",
            "The Don't Worry Be Happy mug is not empty.",
        ),
        (
            "a person who speaks in quotation marks",
            "T-shirt: We are the champions",
            "a shirt with words",
            'The T-shirt says "We are the champions, and I love it" in white words.',
        ),
        (
            "Italian articles and names that look like the first person",
            "Adventure Time: I Pirati - Our Lady of Peace",
            "a game cover",
            "Adventure Time: I Pirati is a game with Our Lady of Peace on its cover.",
        ),
        (
            "a word of grammar as a name at the end",
            "Johnny Tiger - Movie Poster - Style A",
            "a movie poster",
            "The movie poster for Johnny Tiger is printed in Style A.",
        ),
        (
            "a plural and a compound of the last word",
            "Kitchens near the waterfall",
            "A kitchen and water.",
            "The kitchens near the waterfall are beside the water, and one is a kitchen.",
        ),
        (
            "the flag of Scotland is made of tags",
            "Scotland \U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f win",
            "a flag",
            "The flag of Scotland \U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f is for a win.",
        ),
        ("accents are not mojibake", "Café Zoë à Paris", "a café", "The Café Zoë à Paris is a café with a façade."),
        ("an ampersand is not an entity", "AT&T and R&D; Q&A", "a logo", "The logo of AT&T is for R&D and Q&A."),
        (
            "an ISBN and a date are not telephone numbers",
            "Book 978-0-7385-5734-2 of 12-04-2015",
            "a book cover",
            "The book cover shows the ISBN 978-0-7385-5734-2 and 12-04-2015.",
        ),
        ("an address of a source", "Who is Gliks.com?", "a logo", "The logo of Gliks.com is shown."),
        ("a label that a source has", "Caption: the old mill", "a mill", "Caption: the old mill is a mill."),
        (
            "names of a raw caption in another language",
            "Camiseta Longline Insane Porta Full Print Preto",
            "a t-shirt with a print",
            "Camiseta Longline Insane Porta Full Print Preto: t-shirt with print.",
        ),
        ("a lower-case name begins it", "iPhone 6 case", "a phone", "iPhone 6 cases are for a phone."),
        ("sources of two words", "Red dress", "a dress", "The red dress is a dress that is worn in summer."),
        ("the raw caption adds no word", "red heels", "A pair of red heels.", "A pair of red heels."),
        (
            "the synthetic caption adds no word",
            "Heels in red, from Louboutin.",
            "red heels",
            "Heels in red, from Louboutin.",
        ),
        (
            "joined emoji and direction marks",
            "عطر 👩‍👩‍👧",
            "a bottle",
            "The family 👩‍👩‍👧 has a bottle of \u200fعطر\u200e.",
        ),
    ],
)
def test_an_honest_caption_passes(why: str, raw: str, synthetic: str, caption: str) -> None:
    assert judge(caption, raw=raw, synthetic=synthetic) == [], why


def test_a_caption_that_hit_the_token_limit_is_truncated_even_where_it_ends_in_a_full_stop() -> None:
    assert judge(GOOD, finish_reason="length") == ["truncated"]


def test_a_failed_row_has_that_reason_alone() -> None:
    assert judge("", finish_reason="error: out of memory") == ["failed"]


@given(st.text(), st.text(), st.text(), st.none() | st.text())
def test_no_text_makes_a_rule_or_a_score_raise(raw: str, synthetic: str, caption: str, finish: str | None) -> None:
    fused = Fused(raw, synthetic, caption, finish)
    assert set(reasons(fused)) <= {rule.__name__ for rule in RULES}
    assert all(value is None or 0 <= value <= 1 for name, value in scores(fused).items() if name != "caption_words")


@pytest.mark.parametrize("bit", [".", "a ", "\u200d", "sentence ", ".\n", "e\u0301", "\x00"])
def test_a_caption_of_a_hundred_thousand_characters_takes_no_noticeable_time(bit: str) -> None:
    text = bit * (100_000 // len(bit)) + "a"
    start = time.process_time()
    reasons(Fused(text, text, text))
    scores(Fused(text, text, text))
    assert time.process_time() - start < 5


def test_the_published_captions_are_rejected_at_their_measured_shares(published_pairs: list[dict[str, Any]]) -> None:
    judged = [Fused(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in published_pairs]
    verdicts = [reasons(fused) for fused in judged]
    # Reason → number of the 5,000 rows with this reason. docs/validation.md states these numbers as shares.
    assert Counter(reason for row in verdicts for reason in row) == {
        "prompt_leakage": 232,
        "truncated": 119,
        "first_person": 74,
        "addresses_reader": 60,
        "unsupported": 60,
        "denial": 23,
        "continuation": 21,
        "question": 15,
        "knowledge_lost": 14,
        "invented_number": 13,
        "repetition": 9,
        "source_marker": 9,
        "invention": 6,
        "assistant_talk": 2,
        "personal_data": 2,
        "restated": 2,
        "concatenation": 2,
        "wrong_language": 1,
        "control_characters": 1,
        "changed_colour": 1,
        "markup": 1,
    }
    assert Counter(flag for fused in judged for flag in flags(fused)) == {
        "general_talk": 817,
        "loose_link": 503,
        "shop_talk": 478,
        "little_support": 471,
        "one_source": 438,
        "web_residue": 350,
        "product_code": 144,
        "verbatim": 117,
        "unrelated_sources": 90,
        "invented_name": 58,
        "file_name": 20,
    }
    assert sum(not row for row in verdicts) == 4417


def test_the_rest_of_a_cut_off_source_is_no_caption() -> None:
    cut = "Glenfiddich 18 year old single malt Scotch"
    assert judge("whisky is sold at the LCBO.", raw="Scotch Whisky from LCBO", synthetic=cut) == ["continuation"]


def test_a_caption_of_many_different_raw_captions_is_rejected() -> None:
    assert reasons(Fused(RAW, SYNTHETIC, GOOD, "stop", raws_with_caption=5)) == []
    assert reasons(Fused(RAW, SYNTHETIC, GOOD, "stop", raws_with_caption=6)) == ["same_caption"]


@pytest.mark.parametrize(
    ("setting", "value", "caption", "reason"),
    [
        ("min_words", 30, GOOD, "too_short"),
        ("max_words", 10, GOOD, "too_long"),
        ("repetition_max", 0.0, "The red heels of the red heels are pumps by Kate, with 120 glitter.", "repetition"),
        ("fact_recall_min", 1.0, "Kate 120 pumps are red high heels.", "knowledge_lost"),
        ("facts_min", 9, "A pair of sparkling shoes in bright red stands on a white table.", "knowledge_lost"),
        ("invented_max", 0, GOOD.replace("white", "Brandt"), "invention"),
        ("same_caption_max", 1, GOOD, "same_caption"),
    ],
)
def test_thresholds_are_settings(setting: str, value: float, caption: str, reason: str) -> None:
    fused = Fused(RAW, SYNTHETIC, caption, "stop", raws_with_caption=2)
    assert (reason in reasons(fused)) != (reason in reasons(fused, RuleSettings(**{setting: value})))


def test_thresholds_reach_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(rules={"max_words": 40}, gate={"drift_max": 3.5})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
    assert (load_settings().rules.max_words, load_settings().gate.drift_max) == (40, 3.5)


@pytest.mark.parametrize(
    ("flag", "raw", "synthetic", "caption"),
    [
        (
            "verbatim",
            "Regency Double Tier Rail",
            "three steel trays",
            "The Regency Double Tier Rail has three steel trays.",
        ),
        (
            "unrelated_sources",
            "Introduction to algebra workbook",
            "A jacket on a hanger.",
            "The workbook introduces algebra, while a jacket hangs on a hanger.",
        ),
        (
            "one_source",
            "Vintage oak table from Lisbon",
            "A cat sleeps under red curtains.",
            "The vintage oak table is from Lisbon.",
        ),
        (
            "little_support",
            "Blue bowl",
            "A bowl on a wooden table.",
            "The blue bowl on a wooden table was shaped with care, fired twice, painted, glazed, polished and signed.",
        ),
        ("invented_name", "Vikings", "a scene", "The TV series Vikings shows a scene."),
        ("general_talk", "Cube bike", "a bike", "The Cube bike is a bike that is often known for its frame."),
        ("loose_link", "Free courses", "a sign", "The courses are free, as indicated by a sign."),
        ("shop_talk", "Wool poncho $49", "a poncho", "The wool poncho is a poncho priced at $49."),
        ("web_residue", "Mill - stock photo 12", "a mill", "The mill is a mill in a stock photo."),
        ("web_residue", "Lace top | Gliks.com", "a top", "The lace top at gliks.com is a top."),
        ("file_name", "old-mill.jpg", "a mill", "The mill in old-mill.jpg is a mill."),
        ("product_code", "Drone with charger (DSTF210)", "a drone", "The drone (DSTF210) with a charger is a drone."),
    ],
)
def test_a_flag_rejects_nothing(flag: str, raw: str, synthetic: str, caption: str) -> None:
    fused = Fused(raw, synthetic, caption, "stop")
    assert flag in flags(fused)
    assert reasons(fused) == []


@pytest.mark.parametrize(
    "caption",
    [
        "The green cocktail dress, also known as a party dress, hangs in a room.",
        "The green cocktail dress for a party hangs in a room, while also having a belt.",
        "The green cocktail dress can be used for a party in a room.",
        "The green cocktail dress hangs in a room, providing a party dress with a belt.",
    ],
)
def test_words_that_good_captions_use_as_often_as_bad_ones_have_no_flag(caption: str) -> None:
    assert flags(Fused("Cocktail dress, party dress - green", "A dress with a belt hangs in a room.", caption)) == []


@pytest.mark.parametrize(
    ("reason", "raw", "synthetic", "caption"),
    [
        ("changed_name", "Kichler 1674NI chandelier", "a lamp", "The Vukovic 1674NI chandelier is a lamp."),
        ("changed_name", "Espresso cups by Ada", "a cup", "The Winnipeg cups by Ada are cups."),
        (None, "Espresso cups by Ada", "a cup", "The Italian espresso cups by Ada are cups."),
        ("changed_colour", "Red Bull cap", "a red cap", "The Red Bull cap is a brown cap."),
        (
            "changed_colour",
            "Cap",
            "a black and white cap, a black belt",
            "The black cap has a yellow cap and a black belt.",
        ),
        (None, "Red Bull cap", "a red cap", "The Red Bull cap is a red cap with a brown belt."),
        (None, "Navy cap", "a cap", "The navy cap is a blue cap."),
        (None, "Teal Dress by Ada", "a dress", "The dress by Ada is a long blue dress."),
        (None, "Teal Dress by Ada", "a dress", "The dress by Ada is a long green dress."),
        (None, "Dress by Ada", "a turquoise dress", "The dress by Ada is a green dress."),
        (None, "Aqua Sandals by Ada", "sandals", "The sandals by Ada are blue sandals."),
        (None, "Maroon Sofa", "a brown sofa on a red rug", "The maroon sofa is a brown sofa on a red rug."),
        (None, "Maroon Sofa", "a sofa", "The sofa is a brown sofa."),
        (None, "Burgundy Velvet Sofa", "a sofa", "The velvet sofa is a purple sofa."),
        (None, "Olive Jacket", "a jacket", "The jacket is a brown jacket."),
        (None, "Coral Lipstick", "a lipstick", "The lipstick is an orange lipstick."),
        (None, "Teal and Blue Scarf", "a scarf", "The blue scarf is a green scarf."),
        ("changed_colour", "Teal Dress by Ada", "a dress", "The dress by Ada is a long red dress."),
        ("changed_colour", "Teal Dress, teal belt", "a dress", "The teal dress is a dress with a pink belt."),
        ("changed_colour", "Aqua Sandals by Ada", "sandals", "The sandals by Ada are brown sandals."),
        ("changed_colour", "Maroon Sofa", "a sofa", "The sofa is a green sofa."),
        ("changed_colour", "Green Dress, blue belt", "a dress", "The dress has a green belt and an orange dress."),
        ("changed_colour", "Blue Dress", "a dress", "The dress is a green dress."),
    ],
)
def test_another_name_or_colour_in_the_place_of_a_sources(
    reason: str | None, raw: str, synthetic: str, caption: str
) -> None:
    changes = {"changed_name", "changed_colour"}
    assert changes & {*reasons(Fused(raw, synthetic, caption))} == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("source", "honest", "invented"),
    [
        ("18:00", "6 pm", "7 pm"),
        ("18h", "6 o'clock", "8 o'clock"),
        ("18 roses", "", "6 pm"),
        ("1985", "'85", "'58"),
        ("2008", "’08", "08"),
        ("1980s", "80s", "70s"),
        ("1985", "1980s", "1960s"),
        ("63 roses", "", "1960s"),
        ("21", "Twenty One", "forty-one"),
        ("21st", "twenty-first", "thirty-first"),
        ("built in 2015", "twenty-first century", "twenty-third century"),
        ("24", "twenty-four", "forty-two"),
        ("24", "twenty-four", "twenty-four and four"),
        ("50", "fifty", "sixty"),
        ("Sixty-Six", "66", "67"),
        ("Twenty-five", "25", "52"),
        ("Thirteenth", "13th", "14th"),
        ("XLVIII", "48", "47"),
        ("XXV", "25", "35"),
        ("XL", "", "40"),
        ("1.5 million", "1,500,000", "5,100,000"),
        ("1,500,000", "1.5 million", "5.1 million"),
        ("12,500", "12.5k", "12.6k"),
    ],
)
def test_a_number_may_take_another_notation_but_not_another_value(source: str, honest: str, invented: str) -> None:
    raw, synthetic = f"Show {source}", "a poster"
    assert "invented_number" not in judge(f"A poster of the show has {honest} on it.", raw=raw, synthetic=synthetic)
    assert "invented_number" in judge(f"A poster of the show has {invented} on it.", raw=raw, synthetic=synthetic)


def test_a_time_with_thousands_of_digits_is_judged() -> None:
    assert "invented_number" in judge(f"The pumps stand on a table at {'1' * 5000}:00.")
