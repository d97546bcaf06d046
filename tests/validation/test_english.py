"""Tests captions in languages other than English, and the rules that only make sense for English."""

from __future__ import annotations

import pytest

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import FLAGS, PRESUME_ENGLISH, RULES, flags, reasons
from capsfusion_tasks.validation.scores import Fused

# Language, raw caption, synthetic caption, and a good fused caption.
GOOD = (
    ("zh", "2019款 红色 丰田 凯美瑞 轿车 图片", "一辆红色的汽车停在路边。", "一辆2019款红色丰田凯美瑞轿车停在路边。"),
    ("ja", "京都 清水寺 2018年", "木々に囲まれた寺の建物。", "2018年の京都・清水寺は、木々に囲まれた寺の建物である。"),
    (
        *("ru", "Москва, Собор Василия Блаженного", "Здание с куполами на площади."),
        "Собор Василия Блаженного с разноцветными куполами стоит на площади в Москве.",
    ),
    ("ar", "برج خليفة دبي ليلا", "مبنى طويل مضاء في الليل.", "برج خليفة في دبي مبنى طويل مضاء في الليل."),
    ("hi", "ताज महल आगरा", "पानी के सामने एक सफेद इमारत।", "आगरा का ताज महल पानी के सामने एक सफेद इमारत है।"),
    ("de", "Kleid Abendkleid Damen", "Eine Frau zieht ein Kleid an.", "Eine Frau zieht ein Abendkleid für Damen an."),
    (
        *("fr", "Château de Chambord vue du ciel", "Un grand bâtiment au milieu d'un parc avec des tours."),
        "Vu du ciel, le château de Chambord est un grand bâtiment au milieu d'un parc avec des tours.",
    ),
)
OF_OTHER_SCRIPTS = ("zh", "ja", "ru", "ar", "hi")


@pytest.mark.parametrize(("language", "raw", "synthetic", "caption"), GOOD, ids=[row[0] for row in GOOD])
def test_good_captions_in_other_languages_pass_where_the_setting_or_their_pairs_script_allows_it(
    language: str, raw: str, synthetic: str, caption: str
) -> None:
    fused = Fused(raw, synthetic, caption, "stop", 1)
    assert reasons(fused)
    assert reasons(fused, RuleSettings(english="never")) == flags(fused, RuleSettings(english="never")) == []
    assert (reasons(fused, RuleSettings(english="latin")) == []) == (language in OF_OTHER_SCRIPTS)


@pytest.mark.parametrize("english", ["always", "latin"])
def test_of_a_synthetic_caption_in_english_the_caption_is_to_be_english_whatever_the_raw_one_is(english: str) -> None:
    settings = RuleSettings.model_validate({"english": english})
    fused = Fused("2019款 红色 丰田 凯美瑞", "A red car is parked on the road.", "一辆红色的汽车停在路边。", "stop", 1)
    assert "wrong_script" in reasons(fused, settings)


@pytest.mark.parametrize(
    ("caption", "finish_reason", "reason"),
    [
        ("一辆红色的汽车停在路边", "stop", "truncated"),
        ("一辆红色的汽车停在路边。", "length", "truncated"),
        ("一辆红色的汽车…", "stop", "truncated"),
        ("一辆红色的汽车停在<b>路边</b>。", "stop", "markup"),
        ("一辆红色的汽车，电话 (415) 555-0132。", "stop", "personal_data"),
        ("红色 汽车 停在 路边 红色 汽车 停在 路边 红色 汽车 停在 路边。", "stop", "repetition"),
        ("一辆红色的汽车停在路边吗?", "stop", "question"),
        ("1907年的汽车停在路边。", "stop", "invented_number"),
    ],
)
def test_rules_that_know_no_language_go_on(caption: str, finish_reason: str, reason: str) -> None:
    fused = Fused("2019款 红色 汽车", "一辆汽车停在路边。", caption, finish_reason, 1)
    assert reason in reasons(fused, RuleSettings(english="never"))


def test_rules_that_presume_english_are_rules() -> None:
    assert {*RULES, *FLAGS} >= PRESUME_ENGLISH
