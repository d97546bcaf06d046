"""Tests the rules about who speaks in a caption and to whom, on captions like those of models."""

from __future__ import annotations

import pytest

from capsfusion_tasks.validation.rules import reasons
from capsfusion_tasks.validation.scores import Fused


def judge(caption: str, *, raw: str | None = None) -> list[str]:
    return reasons(Fused(raw or caption, "a picture", caption, "stop"))


@pytest.mark.parametrize(
    "caption",
    [
        "Don't Look Up is a movie with Leonardo DiCaprio.",
        "Don’t Look Up is a movie directed by Adam McKay.",
        "Don't Breathe (2016) movie poster with a blind man.",
        "Don't Starve, a survival game, has a hand-drawn cover.",
        "Don't Worry Darling poster on a wall shows Florence Pugh.",
        "Please Please Me was the first album of the Beatles.",
        "Welcome to the Jungle is a song by Guns N' Roses.",
        "Welcome to the Dollhouse, a 1995 film, has a girl in glasses on its poster.",
        "Looking for Alaska is a novel by John Green.",
        "Looking for food, a brown bear walks through the snow.",
        "Visit of Pope Francis to Sweden in 2016.",
        "Visit to the museum by a group of children in yellow vests.",
        "Visit by the Queen to a school in Leeds, with children waving flags.",
        "Shop front in Rome with green shutters and a bicycle.",
        "Shop window with mannequins in red dresses.",
        "Shop signs hang over a narrow street in York.",
        "Shop for sale in the centre of Leeds, with a blue door.",
        "Register of Deeds office in a brick building.",
        "Register book on a wooden desk in a church.",
        "Here is Greenwood, an anime about a boys' dormitory.",
        "Here are Tom and Ann on a beach with a dog.",
        "Click beetle on a green leaf.",
        "Check out counter of a grocery store with two cashiers.",
        "Buy Buy Baby store is seen from the parking lot.",
        "Enjoy Coca-Cola is written on a red sign.",
        "Get the Gringo is a film with Mel Gibson.",
        "Get Out is a film by Jordan Peele.",
        "Discover the World is a board game for children.",
        "Introducing Dorothy Dandridge is a film with Halle Berry.",
        "Don't Panic sticker in large, friendly letters.",
        "Visit Card Template with blue lines.",
        "Don't Walk sign lit in red at a crossing.",
        "Here's Johnny scene from The Shining with Jack Nicholson.",
        "Please Wait Here sign stands on the floor of a bank.",
    ],
)
def test_a_title_or_a_noun_addresses_nobody(caption: str) -> None:
    assert "addresses_reader" not in judge(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "Shop now for red dresses with free delivery.",
        "Shop our collection of red dresses.",
        "Shop red dresses and shoes online.",
        "Shop women's red dresses with long sleeves.",
        "Shop Nike running shoes in black and white.",
        "Shop the look with a red dress.",
        "Visit our site for more red dresses.",
        "Visit the Louvre and see the Mona Lisa.",
        "Visit Rome, the capital of Italy, in the spring.",
        "Visit historic Savannah with its old oaks.",
        "Don't miss the red dress with long sleeves.",
        "Don't forget the sale on red dresses.",
        "Don’t Miss Out on the Summer Sale with red dresses.",
        "Register now for the red dress contest.",
        "Register for the course on red dresses.",
        "Buy Frozen, the film, on DVD with a red cover.",
        "Buy Nike Shoes that are red and white.",
        "Here is a red dress with long sleeves.",
        "Here are some red dresses for summer.",
        "Here's what the red dress looks like.",
        "Click here to see the red dress.",
        "Click on the image to see the red dress.",
        "Check out the red dress with long sleeves.",
        "Check out this red dress.",
        "Get the red dress with long sleeves.",
        "Get a Pit Bull Terrier necklace.",
        "Discover the red dress with long sleeves.",
        "Introducing the Wholesale Vintage Necklace, a red necklace.",
        "Looking for a red dress? This one has long sleeves.",
        "Looking for a red dress with long sleeves.",
        "Looking for a home in Florida, look no further than this red house.",
        "Enjoy the red dress with long sleeves.",
        "Please take a look at the red dress.",
        "Welcome to our shop with red dresses.",
        "Welcome to the newly designated Boerum Hill Historic District Extension, where a street is.",
        "Order now from the shop with red dresses.",
        "Are you interested in a red dress.",
        "Here are LEGO's new sets for Christmas.",
        "Shop at Macy's for red dresses.",
        "Visit beautiful Rome in the spring.",
    ],
)
def test_an_offer_or_an_instruction_addresses_the_reader(caption: str) -> None:
    assert "addresses_reader" in judge(caption)
