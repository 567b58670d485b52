"""English to German over a small vocabulary: number or article with noun, with adjective, then a short sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        'Translate to German: "{english}"',
        'What is "{english}" in German?',
        'How do you say "{english}" in German?',
        'Give the German translation of "{english}".',
        'English: "{english}". German:',
        'Write "{english}" in German.',
        'Convert "{english}" from English to German.',
        'On my list of phrases: "{english}". Put it into German.',
        'Fill the German column of the table for "{english}".',
    ),
    "unseen": (
        'A tourist in Berlin would like to utter "{english}". Which words does she need?',
        'My friend from Munich only understands her own language. Tell her "{english}".',
        'Auf Deutsch, bitte: "{english}"',
        'In Vienna, people would phrase "{english}" as:',
        'The Swiss teacher dictated something that means "{english}". What did the pupils note down?',
    ),
}


@dataclass(frozen=True)
class _Noun:
    english: str
    plural_english: str
    german: str
    plural: str
    article: str


def _noun(line: str) -> _Noun:
    return _Noun(*line.split())


_NOUNS = tuple(
    map(
        _noun,
        (
            "dog dogs Hund Hunde der",
            "cat cats Katze Katzen die",
            "house houses Haus Häuser das",
            "car cars Auto Autos das",
            "book books Buch Bücher das",
            "tree trees Baum Bäume der",
            "table tables Tisch Tische der",
            "flower flowers Blume Blumen die",
            "woman women Frau Frauen die",
            "man men Mann Männer der",
            "child children Kind Kinder das",
            "bird birds Vogel Vögel der",
            "lamp lamps Lampe Lampen die",
            "horse horses Pferd Pferde das",
        ),
    )
)
_NUMBERS = {
    "two": "zwei",
    "three": "drei",
    "four": "vier",
    "five": "fünf",
    "six": "sechs",
    "seven": "sieben",
    "eight": "acht",
    "nine": "neun",
    "ten": "zehn",
}
_ADJECTIVES = {
    "red": "rot",
    "green": "grün",
    "white": "weiß",
    "black": "schwarz",
    "small": "klein",
    "big": "groß",
    "old": "alt",
    "new": "neu",
    "beautiful": "schön",
}


def _counted(rng: Random) -> tuple[str, str]:
    noun, (english, german) = rng.choice(_NOUNS), rng.choice(list(_NUMBERS.items()))
    return f"{english} {noun.plural_english}", f"{german} {noun.plural}"


def _named(rng: Random) -> tuple[str, str]:
    noun = rng.choice(_NOUNS)
    return f"the {noun.english}", f"{noun.article} {noun.german}"


def _described(rng: Random) -> tuple[str, str]:
    noun, (english, german) = rng.choice(_NOUNS), rng.choice(list(_ADJECTIVES.items()))
    return f"the {english} {noun.english}", f"{noun.article} {german}e {noun.german}"


def _described_plural(rng: Random) -> tuple[str, str]:
    noun, (english, german) = rng.choice(_NOUNS), rng.choice(list(_ADJECTIVES.items()))
    number, zahl = rng.choice(list(_NUMBERS.items()))
    return f"{number} {english} {noun.plural_english}", f"{zahl} {german}e {noun.plural}"


def _predicate(rng: Random) -> tuple[str, str]:
    noun, (english, german) = rng.choice(_NOUNS), rng.choice(list(_ADJECTIVES.items()))
    return f"The {noun.english} is {english}", f"{noun.article.capitalize()} {noun.german} ist {german}"


def _possession(rng: Random) -> tuple[str, str]:
    english, german = rng.choice((_counted, _described_plural))(rng)
    return f"I have {english}", f"Ich habe {german}"


def _pair(rng: Random) -> tuple[str, str]:
    (first, erst), (second, zweit) = _described(rng), _named(rng)
    return f"{first} and {second}", f"{erst} und {zweit}"


_PHRASES = {1: (_counted, _counted, _named), 2: (_described, _described_plural, _predicate), 3: (_possession, _pair)}


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A phrase and its German."""
    english, german = rng.choice(_PHRASES[level])(rng)
    return Draft(rng.choice(_FRAMES[wording]).format(english=english), german, "exact", german)


GERMAN = Family("german", "german", "Translate short phrases from English to German.", _FRAMES, make)
