"""Fields named in the prompt, taken out of a sentence as one JSON object: two, three or four of them by level."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording, words

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Extract {keys} as JSON: {sentence}",
        "Return a JSON object with the keys {keys}. Text: {sentence}",
        "{sentence} Give {keys} as a JSON object.",
        "Convert this sentence to JSON with the fields {keys}: {sentence}",
        "Read the text and output JSON ({keys}). {sentence}",
        "List {keys} from this sentence in JSON form. {sentence}",
        "Turn the note into one row of data, as JSON with {keys}: {sentence}",
        "JSON keys: {keys}. Input: {sentence}",
        "From the sentence, pull out {keys} and write JSON. {sentence}",
    ),
    "unseen": (
        "{sentence} Which values belong to {keys}? Answer as a JSON dictionary.",
        "I am filling in a form with the boxes {keys}. Complete it in JSON for this message: {sentence}",
        'Parse into structured JSON holding {keys}. "{sentence}"',
        "Somebody wrote: {sentence} Put what they said about {keys} between curly braces, JSON style.",
        "Our importer accepts JSON only and expects {keys}. What should we feed it for: {sentence}",
    ),
}
_NAMES = words("Anna Ben Carla David Emma Felix Grace Hugo Iris Jonas Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor")
_CITIES = words("Paris Rome Oslo Berlin Madrid Vienna Lisbon Dublin Athens Prague Tokyo Cairo Boston Delhi Lima Seoul")


@dataclass(frozen=True)
class _Subject:
    """What sentences are about: the pools its fields draw from, and how it is told."""

    pools: Mapping[str, tuple[str | int, ...]]
    told: Mapping[Wording, tuple[str, ...]]


_SUBJECTS = (
    _Subject(
        {
            "name": tuple(_NAMES),
            "age": tuple(range(19, 80)),
            "city": tuple(_CITIES),
            "job": ("nurse", "baker", "pilot", "teacher", "farmer", "lawyer", "painter", "driver", "cook", "judge"),
        },
        {
            "seen": (
                "{name} is a {age}-year-old {job} from {city}.",
                "{name}, {age}, works as a {job} in {city}.",
                "In {city} lives {name}, a {job} aged {age}.",
            ),
            "unseen": (
                "The {job} we met in {city} was called {name} and had just turned {age}.",
                "{name} moved to {city} at {age} and became a {job} there.",
            ),
        },
    ),
    _Subject(
        {
            "customer": tuple(_NAMES),
            "product": ("lamp", "chair", "table", "phone", "desk", "bike", "tent", "clock", "mirror", "camera"),
            "quantity": tuple(range(2, 40)),
            "price": tuple(range(5, 400)),
        },
        {
            "seen": (
                "{customer} ordered {quantity} units of the {product} at {price} dollars each.",
                "Order: {quantity} x {product}, {price} dollars each, for {customer}.",
                "{customer} bought {quantity} pieces of our {product} for {price} dollars apiece.",
            ),
            "unseen": (
                "Please ship the {product} to {customer}: {quantity} of them, {price} dollars per unit.",
                "At {price} dollars a piece, {customer} took {quantity} of the {product} model.",
            ),
        },
    ),
    _Subject(
        {
            "event": ("concert", "meeting", "wedding", "lecture", "race", "exam", "party", "workshop", "dinner"),
            "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
            "city": tuple(_CITIES),
            "guests": tuple(range(6, 300)),
        },
        {
            "seen": (
                "The {event} in {city} is on {day} with {guests} guests.",
                "On {day}, {guests} guests come to the {event} in {city}.",
                "{city} hosts a {event} for {guests} people on {day}.",
            ),
            "unseen": (
                "Expect {guests} people at the {event}; it starts {day} in {city}.",
                "We are off to {city} this {day}, since the {event} there seats {guests}.",
            ),
        },
    ),
    _Subject(
        {
            "animal": ("dog", "cat", "horse", "parrot", "rabbit", "goat", "turtle", "hamster", "pony"),
            "name": ("Rex", "Luna", "Max", "Bella", "Coco", "Rocky", "Daisy", "Milo", "Nala", "Oscar"),
            "owner": tuple(_NAMES),
            "weight": tuple(range(2, 90)),
        },
        {
            "seen": (
                "{owner} has a {animal} called {name} that weighs {weight} kg.",
                "{name} is the {animal} of {owner} and weighs {weight} kg.",
                "The {animal} {name}, {weight} kg, belongs to {owner}.",
            ),
            "unseen": (
                "At the vet, {owner} put {name} on the scales: {weight} kg for a {animal}.",
                "Meet {name}! This {animal} of {weight} kg sleeps at the house of {owner}.",
            ),
        },
    ),
)


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A sentence, and the object of the fields asked for, in the order they are named."""
    subject = rng.choice(_SUBJECTS)
    fields = {key: rng.choice(pool) for key, pool in subject.pools.items()}
    keys = rng.sample(list(fields), level + 1)
    asked = {key: fields[key] for key in keys}
    sentence = rng.choice(subject.told[wording]).format(**fields)
    return Draft(
        prompt=rng.choice(_FRAMES[wording]).format(keys=", ".join(keys), sentence=sentence),
        answer=json.dumps(asked),
        grader="json_schema",
        reference=json.dumps({"expected": asked}),
    )


EXTRACT_JSON = Family("extract_json", "extract", "Take named fields out of a sentence as JSON.", _FRAMES, make)
