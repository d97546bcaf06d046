"""Tests the rules about who speaks in a caption and to whom, on captions like those of models."""

from __future__ import annotations

import pytest

from capsfusion_tasks.validation.evidence import evidence
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


@pytest.mark.parametrize(
    "caption",
    [
        "The poster of What We Do in the Shadows shows four vampires.",
        "The film What We do in the Shadows is a comedy.",
        "The movie 'The way we were' has a couple on its cover.",
        "The portrait of Louis I of Bavaria hangs in a gallery.",
        "World War I soldiers march through a muddy field.",
        "Men in World War I were young soldiers in a trench.",
        "During World War I women worked in the factory.",
        "Henry I of England sits on a throne in a manuscript.",
        "Elizabeth I wears a pearl necklace in a portrait.",
        "Queen Elizabeth I visited Tilbury on a white horse.",
        "The Emperor Charles I visited the town on a horse.",
        "King Juan Carlos I and Queen Sofia wave from a balcony.",
        "Type I diabetes is explained on a chart.",
        "The type I error is shown in red on a graph.",
        "A grade I listed building stands by a river.",
        "The Division I basketball team celebrates on the court.",
        "We Energies employees repair a power line.",
        "We Are Marshall is a film about a football team.",
        "We Bare Bears characters stand in a forest.",
        "We Bought a Zoo is a film with Matt Damon.",
        "The movie poster shows Miss May I released from a cage.",
        "Super Bowl I was played in Los Angeles.",
        "The letter I is made of red flowers.",
        "An I love you card lies on a table.",
        "A mug with the words I love my dog stands on a table.",
        "A sign reads we are open, next to a blue door.",
        "A T-shirt that says I'm not perfect but my dog loves me in white letters.",
        'A poster reads "I want you" in red letters.',
        "The doormat says welcome to our home in black letters.",
        "A book titled 'My Struggle' lies on a desk.",
        "The book 'I am Malala' lies on a desk.",
        "I Am Legend is a film with Will Smith.",
        "I am Legend is a film with Will Smith.",
        "My Little Pony toys stand on a shelf.",
        "My Neighbor Totoro is a film by Hayao Miyazaki.",
        "Our Lady of Peace Church has a tall tower.",
        "The planets of our solar system are shown in a row.",
        "Earth is our home planet in the solar system.",
        "A bouquet of forget me nots stands in a blue vase.",
        "The Women's Faux-Fur Kiss Me Slippers are black.",
        "A pick me up coffee stands on a table.",
        "Marley and Me is a book about a dog.",
        "Despicable Me characters stand on a cake.",
        "The Statue of Liberty is in New York, US.",
        "The cover of I promessi sposi shows a couple by a lake.",
        "The volcano reminds visitors of the power of the earth, which connects us all.",
        "A card from all of us at the office has a red heart.",
        "An I-95 sign stands by the road.",
        "The end of the world as we know it is painted on a wall.",
        "A portrait of Francis I painted by Clouet hangs in the Louvre.",
        "The Saturn I rocket launches from a pad.",
        "The Mamas and the Papas (I.V.M. 115) sit around a table.",
        "The Apollo I crew poses in white suits.",
        'The actor, quoted as "we never gave up", smiles at the camera.',
        "Pope John Paul I wore a white robe in Rome.",
        "Photosystem I absorbs light in the diagram.",
        "Napoleon I crowned himself in Notre-Dame.",
        "Area I of the map is marked in red.",
        "Photo shows Ramesses I made of granite.",
        "A scene from Rocky I shows Sylvester Stallone.",
        "An I spy game is on the table.",
        "The band I See Stars plays on a stage.",
        "Elizabeth I had red hair in her portraits.",
        "I, Robot is a film with Will Smith.",
        "The about us page has a photo of a team.",
        "The painting of our Lord on the cross hangs in a church.",
        "According to the bumper sticker, anyone may be my brother.",
        "A cartoon of a man saying I told you so.",
        "Sunlight, as depicted on the poster, connects us with the sky.",
    ],
)
def test_a_numeral_a_title_or_a_quotation_is_no_narrator(caption: str) -> None:
    assert "first_person" not in judge(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "I took this picture of a lighthouse in Maine.",
        "We visited the old lighthouse last summer.",
        "The bridge that we crossed is made of stone.",
        "This is the dress that I wore to a wedding.",
        "The lighthouse stands where I grew up, on a cliff.",
        "In Maine, I photographed a white lighthouse.",
        "When I arrived, the lighthouse was closed.",
        "Yesterday I saw a heron by the lake.",
        "In July I climbed a tall mountain.",
        "In Rome I saw the Trevi Fountain at night.",
        "A photo of the Eiffel Tower I took in 2015.",
        "A photo of Rome I took from a balcony.",
        "The Nikon I bought lies on a wooden table.",
        "My dog sleeps on a red sofa.",
        "A dog sleeps on my red sofa.",
        "Our house has a red door and a garden.",
        "The garden of our house has red roses.",
        "The cake was made by my mother for a birthday.",
        "A red vase was given to us by a friend.",
        "A picture of us in front of the Eiffel Tower.",
        "My sister gave me a red vase with roses.",
        "A cat that reminds me of a lion lies on a sofa.",
        "A friend took a picture of me on the beach.",
        "The cat sits beside me on a sofa.",
        "We're at the beach with two dogs.",
        "We’ve painted the wall in a light blue.",
        "I'm at the beach with two dogs.",
        "The cake that I'd baked is on a table.",
        "A red vase that we, after a long search, bought in Paris.",
        "The red scarf was knitted by myself in a week.",
        "The quilt, which I sewed for a baby, is blue.",
        "Here we stroll through the market in Marrakesh.",
        "I love this song.",
        "My husband and I walk on a beach.",
        "The sunset over Lake Tahoe made us smile.",
        "We recommend the red sofa with a wooden frame.",
        "In our shop, red sofas stand in a row.",
        "This sofa is from our new collection.",
        "At the zoo, we watched the penguins swim.",
        "The first thing I noticed is a red door.",
        "Last week I finished a blue quilt.",
        "A text my mother wrote hangs on a wall.",
        "The hotel where we stayed has a pool.",
        "If I were rich, I'd live in this red house.",
        "The recipe that I followed is from a book.",
    ],
)
def test_a_narrator_is_found_whatever_the_verb_is(caption: str) -> None:
    assert "first_person" in judge(caption)


@pytest.mark.parametrize(
    ("raw", "caption", "narrated"),
    [
        ("My Little Pony toys", "Toys of my Little Pony stand on a shelf.", False),
        ("Toys of my little brother", "Toys of my little brother stand on a shelf.", True),
        ("Turtles in our Wake, an audiobook", "The audiobook is about turtles in our wake.", False),
        ("turtles in our wake", "The audiobook is about turtles in our wake.", True),
        ("our London trip", "Our London trip began at the Tower Bridge.", True),
        ("Our Town by Thornton Wilder", "Our Town by Thornton Wilder has a blue cover.", False),
        ("A sign that says welcome to our lake house", "A sign welcomes visitors to our lake house.", False),
        ("A sign welcomes visitors to our lake house", "A sign welcomes visitors to our lake house.", True),
        ("We Are Shining Cards", "We are Shining Cards is on the cards.", False),
        ("we are in Shining", "We are in Shining with our cards.", True),
    ],
)
def test_a_source_tells_a_title_from_a_narrator(raw: str, caption: str, narrated: bool) -> None:
    assert ("first_person" in judge(caption, raw=raw)) == narrated


def test_the_words_of_a_narrator_are_evidence_but_not_those_of_a_quotation() -> None:
    caption = 'A mug that we bought says "I love my dog" and was given to me by Ada.'
    fused = Fused("mug", "a mug", caption)
    assert [caption[start:end] for start, end in evidence(fused, "first_person")] == ["we bought", "me by"]
