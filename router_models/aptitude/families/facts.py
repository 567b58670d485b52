"""General knowledge that a small instruct model has: easy and harder two-choice questions, then open ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording


@dataclass(frozen=True)
class _Relation:
    """Subjects with the one right answer each; the other subjects' answers are the wrong options."""

    levels: tuple[int, ...]
    answers: Mapping[str, str]
    asked: Mapping[Wording, tuple[str, ...]]

    def options(self) -> list[str]:
        return sorted(set(self.answers.values()))


def _pairs(text: str) -> dict[str, str]:
    return {subject.replace("_", " "): answer for subject, answer in (pair.split(":") for pair in text.split())}


_OPPOSITE = _pairs(
    "hot:cold big:small old:young fast:slow high:low happy:sad day:night light:dark hard:soft full:empty "
    "strong:weak rich:poor clean:dirty dry:wet open:closed early:late left:right up:down good:bad long:short"
)
_COLOUR = _pairs(
    "grass:green fresh_snow:white a_ripe_banana:yellow coal:black blood:red the_daytime_sky:blue milk:white "
    "a_carrot:orange chocolate:brown a_lemon:yellow spinach:green the_night_sky:black a_strawberry:red salt:white"
)
_ANIMAL = _pairs(
    "dog:mammal eagle:bird salmon:fish bee:insect cow:mammal parrot:bird shark:fish ant:insect horse:mammal "
    "owl:bird tuna:fish butterfly:insect lion:mammal penguin:bird trout:fish beetle:insect elephant:mammal duck:bird"
)
_YOUNG = _pairs("dog:puppy cat:kitten cow:calf horse:foal sheep:lamb duck:duckling lion:cub goat:kid")
_CAPITAL = _pairs(
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Japan:Tokyo China:Beijing Russia:Moscow Egypt:Cairo "
    "Greece:Athens Portugal:Lisbon Austria:Vienna Ireland:Dublin Norway:Oslo Poland:Warsaw Cuba:Havana "
    "Canada:Ottawa England:London Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Hungary:Budapest "
    "Thailand:Bangkok Peru:Lima Chile:Santiago Kenya:Nairobi Iraq:Baghdad Iran:Tehran Belgium:Brussels"
)
_CONTINENT = _pairs(
    "France:Europe Germany:Europe Spain:Europe Poland:Europe China:Asia Japan:Asia India:Asia Thailand:Asia "
    "Egypt:Africa Kenya:Africa Nigeria:Africa Ghana:Africa Sweden:Europe Vietnam:Asia Morocco:Africa Italy:Europe"
)
_LANGUAGE = _pairs(
    "France:French Germany:German Italy:Italian Spain:Spanish Japan:Japanese China:Chinese Russia:Russian "
    "Greece:Greek Portugal:Portuguese Poland:Polish Sweden:Swedish Finland:Finnish Hungary:Hungarian Brazil:Portuguese"
)
_SYMBOL = _pairs(
    "O:oxygen H:hydrogen C:carbon N:nitrogen He:helium Fe:iron Au:gold Ag:silver Na:sodium "
    "Cl:chlorine Ca:calcium K:potassium"
)
# Family names only: "William Shakespeare" contains "Shakespeare", and the grader looks for what is contained.
_AUTHOR = {
    "Romeo and Juliet": "Shakespeare",
    "Hamlet": "Shakespeare",
    "Pride and Prejudice": "Austen",
    "Oliver Twist": "Dickens",
    "The Odyssey": "Homer",
    "War and Peace": "Tolstoy",
    "Harry Potter": "Rowling",
    "The Hobbit": "Tolkien",
    "1984": "Orwell",
    "Animal Farm": "Orwell",
    "Don Quixote": "Cervantes",
    "Faust": "Goethe",
    "The Old Man and the Sea": "Hemingway",
}

_RELATIONS = (
    _Relation(
        (1,),
        _OPPOSITE,
        {
            "seen": ("What is the opposite of {s}", "Which word means the opposite of {s}"),
            "unseen": ("Something that is anything but {s} would be", "Name the antonym of {s}"),
        },
    ),
    _Relation(
        (1,),
        _COLOUR,
        {
            "seen": ("What color is {s}", "Which color does {s} have"),
            "unseen": ("Painting {s}, I should take", "How would you describe the hue of {s}"),
        },
    ),
    _Relation(
        (1,),
        _ANIMAL,
        {
            "seen": ("What kind of animal is {a} {s}", "Which group of animals does the {s} belong to"),
            "unseen": ("A biologist would file the {s} under", "Think of {a} {s}. How is it classified"),
        },
    ),
    _Relation(
        (1,),
        _YOUNG,
        {
            "seen": ("What is a young {s} called", "What do we call the baby of {a} {s}"),
            "unseen": ("The offspring of {a} {s} goes by the name of", "Before it grows up, {a} {s} is a"),
        },
    ),
    _Relation(
        (2, 3),
        _CAPITAL,
        {
            "seen": ("What is the capital of {s}", "Which city is the capital of {s}"),
            "unseen": ("Where does the government of {s} have its seat", "The most important political city of {s} is"),
        },
    ),
    _Relation(
        (2,),
        _CONTINENT,
        {
            "seen": ("On which continent is {s}", "Which continent does {s} belong to"),
            "unseen": ("Travelling to {s}, what part of the world do I land in", "{s} is a country of"),
        },
    ),
    _Relation(
        (2, 3),
        _LANGUAGE,
        {
            "seen": ("Which language is spoken in {s}", "What is the main language of {s}"),
            "unseen": ("What do the inhabitants of {s} mostly speak", "Moving to {s}, I had better learn"),
        },
    ),
    _Relation(
        (3,),
        _SYMBOL,
        {
            "seen": (
                "Which chemical element has the symbol {s}",
                "What element does {s} stand for in the periodic table",
            ),
            "unseen": ("In chemistry, {s} abbreviates", "A chemist writes {s}. Of what does she speak"),
        },
    ),
    _Relation(
        (3,),
        _AUTHOR,
        {
            "seen": ("Who wrote {s}", "Who is the author of {s}"),
            "unseen": ("{s} came from the pen of", "Whose famous work is {s}"),
        },
    ),
)
_CHOICES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "{question}: {a} or {b}?",
        "{question}? Options: {a}, {b}.",
        "{question}? Choose {a} or {b}.",
        "{question}? Select from the list: {a}, {b}.",
        "{question}, {a} or {b}?",
        "Trivia table, row one. {question}? ({a} / {b})",
        "{question}? Is it {a} or is it {b}?",
        "Answer with {a} or {b}. {question}?",
    ),
    "unseen": (
        "{question}... {a}, or rather {b}?",
        "Either {a} or {b} is correct. {question}?",
        "My quiz shows two buttons, {a} and {b}. {question}?",
        "I hesitate between {a} and {b}. {question}?",
        "{question}? One of {a} and {b}, surely.",
    ),
}
_OPEN: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "{question}?",
        "Tell me: {question}?",
        "{question}? Answer in a few words.",
        "Please answer: {question}?",
        "General knowledge: {question}?",
    ),
    "unseen": ("{question}...?", "Do you happen to know? {question}?", "The quiz master says: {question}?"),
}


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A question with two options in any order, or at level 3 without."""
    relation = rng.choice([relation for relation in _RELATIONS if level in relation.levels])
    subject = rng.choice(list(relation.answers))
    answer = relation.answers[subject]
    question = rng.choice(relation.asked[wording]).format(s=subject, a="an" if subject[0] in "aeiou" else "a")
    others = [option for option in relation.options() if option != answer]
    if level == 3:
        prompt = rng.choice(_OPEN[wording]).format(question=question)
        return Draft(prompt, answer, "choice", json.dumps({"answer": answer, "options": [answer, *others]}))
    options = [answer, rng.choice(others)]
    a, b = rng.sample(options, 2)
    prompt = rng.choice(_CHOICES[wording]).format(question=question, a=a, b=b)
    return Draft(prompt, answer, "choice", json.dumps({"answer": answer, "options": options}))


_ALL_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (*_CHOICES["seen"], *_OPEN["seen"]),
    "unseen": (*_CHOICES["unseen"], *_OPEN["unseen"]),
}
FACTS = Family("facts", "base", "Answer general-knowledge questions.", _ALL_FRAMES, make)
