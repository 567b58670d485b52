"""Which of several one-letter options an answer settles on: "B) A mammal." is B, whatever articles it has.

How it works: signs are looked for, the surest first, and the first kind that points at exactly one option decides.

    the answer is B            also in parentheses, in bold, in JSON; of several, the last one
    \\boxed{B}, **B**, **B) ...
    B) ..., B. ..., B, ..., B: ...  at the beginning of the first or the last line, or all of that line
    (B)
    B                          as a word of its own, in the case of the option

"A" and "I" are words too, so they count only where no article and no pronoun could stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_CLOSED = r"(?=[^\w\s'’{but}]|\s*(?:$|\n)|\s+(?:[(=–—-]|(?:is|or|and|because|since{words})\b))"
# A comma may follow "I" (as in "I, for one"), and never an article.
_NOT_A_WORD = {
    "a": _CLOSED.format(but="", words="|as|for|which|would|must"),
    "i": _CLOSED.format(but=",", words=""),
}
_MARKUP = r"[\s*_`\"'($]*(?:\\[a-z]+\{)*"
_CONCLUDES = (
    r"(?<!wrong )(?<!incorrect )\b(?:answer|(?:correct|right|best) (?:option|choice|letter|one))\b[\"'*_`]*"
    r"\s*(?:(?:is|would be|should be|must be)\b\s*:?|[:=])"
    rf"{_MARKUP}(?:(?:clearly|therefore|probably|option|choice|letter)\b)?{_MARKUP}"
)


class Letters:
    """The options of a question, each of one character."""

    def __init__(self, options: Sequence[str]) -> None:
        self._option = {option.casefold(): option for option in options} | {option: option for option in options}
        bare = "|".join(map(_whole, options))
        letter = "|".join(_whole(case) for option in options for case in {option, option.lower(), option.upper()})
        comma = r",(?=\s*\w\s*(?:$|[^\w\s]))"
        several = rf"(?:{letter})(?:[)*_`\"']*\s*(?:/|&|,?\s*\b(?:or|and)\b|{comma})[\s*_`\"'(]*(?:{letter}))*"
        self._letter = re.compile(rf"(?<!\w)(?:{letter})")
        self._concluded = re.compile(rf"(?i:{_CONCLUDES})({several})")
        self._marked = re.compile(rf"(?:\\boxed\{{(?:\\text\{{)?|\*\*)\(?({letter})\)?(?:[.:,]|\}}|\*\*|(?<=\)))")
        self._leading = re.compile(rf"[\W_]*?({several})[*_`\"']*(?:[).:]|$)|[\W_]*?({bare})[*_`\"']*,")
        self._listed = re.compile(rf"(?<![\w(])({letter})[):]")
        self._enclosed = re.compile(rf"(?<!\w)\(({letter})\)")
        self._bare = re.compile(rf"(?<!\w)(?:{bare})")

    def settled(self, text: str) -> str | None:
        """The one option that the text settles on; None where it names none, or several."""
        return next((found.pop() for found in self._signs(text) if len(found) == 1), None)

    def last(self, text: str) -> str | None:
        """The option that is concluded, or else named last."""
        if concluded := self._concluded.findall(text):
            return self._options(concluded[-1:])[-1]
        patterns = (self._marked, self._enclosed, self._bare)
        named = [(match.end(), match[0]) for pattern in patterns for match in pattern.finditer(text)]
        options = self._options([max(named)[1]] if named else self._leads(text))
        return options[-1] if options else None

    def _signs(self, text: str) -> Iterator[set[str]]:
        yield set(self._options(self._concluded.findall(text)[-1:]))
        yield set(self._options(self._marked.findall(text)))
        yield set(self._options(self._leads(text)))
        yield set(self._options(self._enclosed.findall(text)))
        yield set(self._options(self._bare.findall(text)))
        yield set(self._options(self._bare.findall(re.split(r"\b(?:is|are|was|be)\b|[:=]", text)[-1])))

    def _leads(self, text: str) -> list[str]:
        """What the first and the last line begin with; and what follows, where they repeat the list of options."""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        found = [(line, match) for line in lines[:1] + lines[-1:] if (match := self._leading.match(line))]
        return [each for line, match in found for each in (match[1] or match[2], *self._listed.findall(line))]

    def _options(self, found: Sequence[str]) -> list[str]:
        letters = [letter for each in found for letter in self._letter.findall(each)]
        return [self._option.get(letter, self._option[letter.casefold()]) for letter in letters]


def _whole(letter: str) -> str:
    """The letter as a word of its own."""
    return re.escape(letter) + r"(?!\w)" + _NOT_A_WORD.get(letter.casefold(), "")
