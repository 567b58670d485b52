"""Lists and small states: pick an element, change the list, follow moves step by step."""

import json
from collections.abc import Mapping
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording, words

_WORDS = words(
    "red blue green pink gold cat dog fox owl bee apple pear plum lemon fig lamp book cup pen key "
    "sun moon star rain snow oak rose fern lily moss"
)
_PEOPLE = words("Anna Ben Carla David Emma Felix Grace Hugo Iris Jonas Kate Leo Mia Noah Olga Paul Rosa Sam")
_NTH = ("first", "second", "third", "fourth")

_Told = Mapping[Wording, tuple[str, ...]]

_PICK: _Told = {
    "seen": (
        "What is the {nth} item of this list: {items}?",
        "List: {items}. Which word is {nth}?",
        "Give the {nth} word of: {items}.",
        "From {items}, select the {nth}.",
        "The columns of a table are {items}. Name the {nth} one.",
    ),
    "unseen": (
        "{items} stand in a row. Reading left to right, who is {nth}?",
        "I recited {items}. Repeat what came {nth}.",
    ),
}
_COUNT: _Told = {
    "seen": ("How many items are in the list {items}?", "Count the words: {items}.", "What is the length of: {items}?"),
    "unseen": ("{items}: that makes how many?", "Tell me the size of the group {items}."),
}
_REVERSE: _Told = {
    "seen": ("Reverse the list: {items}.", "Write {items} in reverse order.", "List {items} from last to first."),
    "unseen": ("Say {items} backwards, one by one.", "Flip {items} so the ending comes up front."),
}
_REMOVE: _Told = {
    "seen": (
        "Remove {gone} from the list: {items}.",
        "Delete {gone} from {items}. What is left?",
        "List {items} without {gone}.",
    ),
    "unseen": ("We had {items}, but {gone} got thrown out. Recite what stayed.", "Drop {gone} out of {items}."),
}
_FROM_END: _Told = {
    "seen": (
        "Which word is second to last in the list: {items}?",
        "Give the second word from the end of: {items}.",
        "List: {items}. Select the one before the last.",
    ),
    "unseen": (
        "{items} stand in a row. Who is next to the final one?",
        "Counting {items} from the right, name number two.",
    ),
}
_COUNTER: _Told = {
    "seen": (
        "A counter starts at {start}. {moves}. What is its value?",
        "Counter = {start}. {moves}. What does it show at the end?",
        "Start with {start}. {moves}. Which number do you have?",
    ),
    "unseen": (
        "The lift waits on floor {start}. {moves}. Where does it stop?",
        "{start} sheep graze. {moves}. Tell me the final figure.",
    ),
}
_QUEUE: _Told = {
    "seen": (
        "Queue: {items}. {gone} leaves the front and {new} joins the end. Who is first now?",
        "In line: {items}. The first person leaves, then {new} joins at the back. Who is first?",
        "The waiting list is {items}. Remove {gone} and add {new} at the end. Who comes first?",
    ),
    "unseen": (
        "{items} wait at the till, in that order. {gone} has paid; {new} walks in. Whose turn is it?",
        "{items} are lined up. {gone} goes home, {new} arrives last. Who heads the line?",
    ),
}
_MOVES: Mapping[Wording, tuple[tuple[str, str], ...]] = {
    "seen": (("Add {n}", "Subtract {n}"), ("Up {n}", "Down {n}")),
    "unseen": (("Then {n} more", "Then {n} fewer"), ("Rise by {n}", "Fall by {n}")),
}


def _choice(prompt: str, answer: str, options: list[str]) -> Draft:
    return Draft(prompt, answer, "choice", json.dumps({"answer": answer, "options": options}))


def _pick(rng: Random, wording: Wording) -> Draft:
    items = rng.sample(_WORDS, rng.randint(3, 4))
    position = rng.randrange(len(items))
    nth = "last" if position == len(items) - 1 else _NTH[position]
    return _choice(rng.choice(_PICK[wording]).format(items=", ".join(items), nth=nth), items[position], items)


def _count(rng: Random, wording: Wording) -> Draft:
    items = rng.sample(_WORDS, rng.randint(2, 6))
    prompt = rng.choice(_COUNT[wording]).format(items=", ".join(items))
    return Draft(prompt, str(len(items)), "number", json.dumps({"value": len(items)}))


def _reverse(rng: Random, wording: Wording) -> Draft:
    items = rng.sample(_WORDS, 3)
    prompt = rng.choice(_REVERSE[wording]).format(items=", ".join(items))
    return Draft(prompt, ", ".join(reversed(items)), "exact", ", ".join(reversed(items)))


def _remove(rng: Random, wording: Wording) -> Draft:
    items = rng.sample(_WORDS, rng.randint(3, 4))
    gone = rng.choice(items)
    left = ", ".join(item for item in items if item != gone)
    return Draft(rng.choice(_REMOVE[wording]).format(items=", ".join(items), gone=gone), left, "exact", left)


def _from_end(rng: Random, wording: Wording) -> Draft:
    items = rng.sample(_WORDS, rng.randint(4, 5))
    return _choice(rng.choice(_FROM_END[wording]).format(items=", ".join(items)), items[-2], items)


def _counter(rng: Random, wording: Wording) -> Draft:
    up, down = rng.choice(_MOVES[wording])
    start = value = rng.randint(4, 20)
    shown, moves = [str(start)], []
    for _ in range(3):
        step = rng.randint(1, 4)
        rises = rng.random() < 0.5 or value - step < 1
        value += step if rises else -step
        moves.append((up if rises else down).format(n=step))
        shown.append(str(value))
    prompt = rng.choice(_COUNTER[wording]).format(start=start, moves=". ".join(moves))
    return Draft(prompt, ", ".join(shown), "number", json.dumps({"value": value}))


def _queue(rng: Random, wording: Wording) -> Draft:
    *items, new = rng.sample(_PEOPLE, rng.randint(4, 5))
    prompt = rng.choice(_QUEUE[wording]).format(items=", ".join(items), gone=items[0], new=new)
    return _choice(prompt, items[1], [*items, new])


_TASKS = {1: (_pick, _pick, _count), 2: (_reverse, _remove, _from_end), 3: (_counter, _queue)}


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A list to read, a list to change, or a state to follow."""
    return rng.choice(_TASKS[level])(rng, wording)


_TOLD = (_PICK, _COUNT, _REVERSE, _REMOVE, _FROM_END, _COUNTER, _QUEUE)
_ALL_FRAMES: _Told = {
    "seen": tuple(text for told in _TOLD for text in told["seen"]),
    "unseen": tuple(text for told in _TOLD for text in told["unseen"]),
}
LIST_STATE = Family(
    "list_state", "lists", "Read and change short lists; follow a counter or a queue.", _ALL_FRAMES, make
)
