"""What people say around a question out of politeness, told apart from the question.

How it works: sentences at the beginning, and thanks at the end, are taken away while each is a greeting, a wish, a
request for help that does not say with what, or thanks. English only. A text of nothing else stays as it is, and so
does "Can you help me write a letter?", which says with what.
"""

from __future__ import annotations

import re

_REST = r"[^.!?:\n]{0,60}"
_SOMETHING = (
    r"(?:(?:with|on)\ )?(?:the\ following|this|(?:a|an|my|one|some)\ (?:\w+\ )?(?:question|problem|task|exercise)s?)"
)
_SOMEBODY = r"(?:there|again|all|everyone|everybody|assistant|ai|bot|chatgpt|friends?|team|sir|madam)"
_COURTESY = re.compile(
    rf"""
    \s{{0,8}}
    (?:
        (?:hi|hello|hey|greetings|good\ (?:morning|afternoon|evening|day)|dear)(?:\ {_SOMEBODY})?\s?[,.!]+
      | i\ hope\ (?:you|this|that|all|everything)\b{_REST}[.!]
      | (?:could|can|would|will)\ you\ (?:please\ |kindly\ |maybe\ )?(?:help|assist)(?:\ me|\ us)?(?:\ out)?
            (?:\ {_SOMETHING})?(?:,?\ please)?\s?[.!?:]
      | (?:please\ |kindly\ )?(?:help|assist)\ (?:me|us)(?:\ {_SOMETHING})?(?:,?\ please)?\s?[.!:]
      | i\ (?:need|want|could\ use)\ (?:some\ |your\ |a\ little\ )?help(?:\ {_SOMETHING})?\s?[.!:]
      | i\ have\ (?:a|one|the\ following)\ (?:\w{{1,12}}\ )?(?:question|problem)(?:\ for\ you)?\s?[.!:]
      | (?:many\ )?(?:thanks|thank\ you)\b(?!\ to\b){_REST}[.!]
      | i(?:\ would|'d)?\ (?:really\ |very\ much\ |greatly\ )?(?:appreciate|be\ (?:very\ |most\ )?(?:grateful|thankful))
            \b{_REST}[.!]
      | (?:i\ am\ |i'm\ )?sorry\ (?:to|for)\b{_REST}[.!:]
    )
    (?=\s)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLOSING = re.compile(
    rf"(?<=[.!?\n])\s{{0,8}}(?:many\ )?(?:thanks|thank\ you)(?!\w)(?:{_REST})[.!]*\s{{0,8}}\Z", re.IGNORECASE
)
# Nobody greets longer than this.
MOST_SENTENCES = 8
CLOSING_CHARS = 100


def without_courtesies(text: str) -> str:
    """The text from where it comes to the point, and without thanks at its end."""
    start = 0
    for _ in range(MOST_SENTENCES):
        courtesy = _COURTESY.match(text, start)
        if courtesy is None:
            break
        start = courtesy.end()
    closing = _CLOSING.search(text, max(start, len(text) - CLOSING_CHARS))
    rest = text[start : closing.start() if closing else len(text)]
    if start == 0 and closing is None:
        return text
    return rest.lstrip() if rest.strip() else text
