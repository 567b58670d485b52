"""What a prompt template wraps around a question, told apart from the question.

How it works: lines such as "Question:", "A:" or "## Instruction" are heads. The question stands at the last question
head, or before a last "Answer:", provided that the answer is still open. Worked examples before it are dropped; a short
text before the first head is the instruction, a long one is what the question is about and stays with it. Where the
last answer is already written, it is a text to judge, or a programming problem with its examples, and the whole text is
the question. Sentences about the form of the answer ("put your final answer within ...") are removed, and courtesies
around it all.

Cost: only the ends of a long text are read. The one pattern begins with a line break and its repeats are bounded; the
rest is plain search that does not look at a place twice. Hostile text costs what other text of that length does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from router_models.reading.courtesies import without_courtesies

# The instruction opens a message and the question closes it; five worked examples are about 3,000 characters.
HEAD_CHARS = 2000
TAIL_CHARS = 4000
# Of a long question, at each end: the reader keeps less, and sentences about the form stand at the ends.
EDGE_CHARS = 600
# The longest instruction of four public benchmarks has 190 characters; a passage to be read has more than this.
INSTRUCTION_CHARS = 400
# After an open "Answer:" at most a cue is left, such as "The answer is (".
CUE_CHARS = 24

_HEADS = re.compile(
    r"""
    \n[ \t]{0,16}(?=[#*a-z])(?P<heading>\#{1,6}+[ ]?+|\*\*)?
    (?:
        (?P<question>(?:question|problem|query|q)(?:[ ]?\d{1,3})?)
      | (?P<input>input)
      | (?P<answer>(?:(?:final|your|helpful|correct|the)[ ])?(?:answer|response|output|solution|a)
                   |label|sentiment|translation|summary|sql)
      | (?P<section>instructions?|(?:answer|output|response)[ ]format)
    )
    (?:(?:\*\*)?[ ]{0,2}:(?:\*\*)?|(?<=\d)[.)](?=\s)|(?(heading)(?:\*\*)?[ ]{0,2}(?=\n)|(?!)))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ASKING = ("question", "input")

# A sentence about the form of the answer contains one of these signs (lower case). Looking for a sign costs as much as
# reading the text, so they are grouped by a word that all of a group occur with.
_FORM_SIGNS = {
    "step by step": ("let's think step", "lets think step", "think step by step", "reason step by step"),
    "answer": (
        "put your final answer",
        "your final answer",
        "put the answer",
        "put your answer",
        "format your answer",
        "answer with only",
        "answer with the letter",
        "answer with the option",
        "(without quotes)",
    ),
    "format": (
        "format your response",
        "in this format:",
        "following json format",
        "your final solution in the following",
    ),
    "response": ("your response should only", "last line of your response", "response that appropriately completes"),
    "boxed{}": ("\\boxed{}",),
}
# These open a prompt, and their sentence ends at a colon too: "Answer the following question: ...".
_LEAD_INS = {
    "answer": ("answer the following question", "answer the following multiple"),
    "response": ("below is an instruction",),
    "you are a": ("you are an expert", "you are a helpful"),
}
_SENTENCE_ENDS = (". ", ".\n", "\n")
_SIGNS = (
    *((word, signs, _SENTENCE_ENDS) for word, signs in _FORM_SIGNS.items()),
    *((word, signs, (*_SENTENCE_ENDS, ": ")) for word, signs in _LEAD_INS.items()),
)
_SIGN_WORDS = tuple({**_FORM_SIGNS, **_LEAD_INS})
SENTENCE_CHARS = 400
# A sign this near the beginning of its sentence takes the whole sentence with it; of "Compute the integral and put your
# final answer in ..." the first half stays.
_OPENING_CHARS = 24
_OPTIONS_LINES = ("\nOptions:\n", "\n## Options:\n")


def split_question(text: str) -> tuple[str, str]:
    """(instruction, question): the first may be "", the second is not unless the text is.

    A question of more than twice `EDGE_CHARS` lacks its middle.
    """
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    text = without_courtesies(text)
    instruction, question = _at_heads(f"\n{text}\n")
    if "\n" in text:
        for line in _OPTIONS_LINES:
            question = question.replace(line, "\n")
    question = question.strip()
    if len(question) > 2 * EDGE_CHARS:
        question = f"{question[:EDGE_CHARS]} {question[-EDGE_CHARS:]}"
    return instruction, _without_form(question).strip() or question or text[:EDGE_CHARS]


def _at_heads(text: str) -> tuple[str, str]:
    if _HEADS.search(text) is None:
        return "", text
    heads = list(_HEADS.finditer(text))
    kinds = [head.lastgroup for head in heads]
    asked = [place for place, kind in enumerate(kinds) if kind in _ASKING]
    if asked:
        return _asked_at(text, heads, kinds, asked[-1])
    if kinds and kinds[-1] == "answer" and _is_cue(text[heads[-1].end() :], CUE_CHARS):
        same = [head for head in heads[:-1] if head["answer"] == heads[-1]["answer"]]
        return _asked_before(text[: heads[-1].start()], same)
    return "", text


def _asked_at(text: str, heads: list[re.Match[str]], kinds: list[str | None], last: int) -> tuple[str, str]:
    first = last
    while first and kinds[first - 1] in _ASKING:
        first -= 1  # questions in a row, none answered, are asked together
    rest, start = heads[last + 1 :], heads[first].start()
    question = text[heads[first].end() : rest[0].start() if rest else len(text)]
    if not question.strip() or not _is_open(text, heads[last], rest):
        return "", text
    if "answer" in kinds[:first]:
        opening = next(head for head in heads if head.lastgroup != "section")
        return _first_paragraph(text[: opening.start()]), _premise(text[heads[first - 1].end() : start]) + question
    before, after = text[:start].strip(), _instruction_after(text, rest)
    if heads[last].lastgroup == "input" or len(before) > INSTRUCTION_CHARS:
        # It says what to do with the input, or is what the question is about.
        return "", "\n".join(part for part in (text[:start], question, after) if part)
    if before and after:
        return f"{before}\n{after}", question
    return before or (text[rest[0].end() :].strip() if rest else ""), question


def _instruction_after(text: str, rest: list[re.Match[str]]) -> str:
    """What stands in a section of instructions below the question, up to the next head."""
    for place, head in enumerate(rest):
        if head.lastgroup == "section" and "format" not in head["section"].lower():
            return text[head.end() : rest[place + 1].start() if place + 1 < len(rest) else len(text)].strip()
    return ""


def _asked_before(text: str, answers: list[re.Match[str]]) -> tuple[str, str]:
    """A last "Answer:" without a head for its question: that is the paragraph after the answer before."""
    if not answers:
        return "", text
    question = text[answers[-1].end() :].partition("\n\n")[2]
    return ("", text) if not question.strip() else (_first_paragraph(text[: answers[0].start()]), question)


def _is_open(text: str, asking: re.Match[str], rest: list[re.Match[str]]) -> bool:
    if not rest or rest[0].lastgroup != "answer":
        return True
    sections = [head.start() for head in rest if head.lastgroup == "section"]
    # Between an input and "Output: 5" stands the example of a programming problem.
    room = 0 if asking.lastgroup == "input" else CUE_CHARS
    return _is_cue(text[rest[0].end() : sections[0] if sections else len(text)], room)


def _is_cue(answer: str, room: int) -> bool:
    answer = answer.strip()
    if len(answer) > INSTRUCTION_CHARS:
        return False
    rest = _without_form(answer).strip()
    return len(rest) <= room and "\n" not in rest


def _first_paragraph(text: str) -> str:
    return text.strip().partition("\n\n")[0]


def _premise(example: str) -> str:
    """What stands between the last worked answer and the question, if it has a head of its own: "Passage: ..."."""
    premise = example.partition("\n\n")[2].strip()
    return f"{premise}\n" if 0 < premise.find(":") < CUE_CHARS else ""


def _without_form(text: str) -> str:
    """The text without the sentences about the form of its answer; perhaps ""."""
    lower = text.lower()
    if len(lower) != len(text):
        lower = text  # U+0130 becomes two letters in lower case, and places would no longer agree
    if not any(map(lower.__contains__, _SIGN_WORDS)):
        return text
    spans = [
        span
        for word, signs, ends in _SIGNS
        if word in lower
        for sign in signs
        for span in _sentences(lower, sign, ends)
    ]
    kept, place = [], 0
    for start, end in sorted(spans):
        kept.append(text[place:start])
        place = max(place, end)
    return " ".join([*kept, text[place:]])


def _sentences(text: str, sign: str, ends: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    at = text.find(sign)
    while at >= 0:
        stop = _closing(text, at, ends)
        yield _opening(text, at), stop
        at = text.find(sign, stop)


def _opening(text: str, at: int) -> int:
    """Where the sentence begins, when that is near; else the place itself."""
    nearest = max(at - _OPENING_CHARS, 0)
    begins = [
        text.rfind(end, nearest, at) + len(end) for end in (*_SENTENCE_ENDS, "? ", ": ") if end in text[nearest:at]
    ]
    return max(begins, default=0 if nearest == 0 else at)


def _closing(text: str, at: int, ends: tuple[str, ...]) -> int:
    """Where the sentence ends, or the fenced template that it introduces: "... in the following format: ```json"."""
    near = text[at : at + SENTENCE_CHARS]
    stop = at + min((near.index(end) + len(end) for end in ends if end in near), default=len(near))
    fence = text.find("```", at, stop + 8)
    if fence < 0 or "format" not in text[at:stop]:
        return stop
    closing = text.find("```", fence + 3)
    return len(text) if closing < 0 else closing + 3
