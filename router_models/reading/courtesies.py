"""What people say around a question out of politeness, told apart from the question.

How it works: sentences at the beginning, and thanks at the end, are taken away while each is a greeting, a wish, a
request for help that does not say with what, or thanks; nothing but a few fixed phrases counts. English only. A text of
nothing else stays as it is, and so does "Can you help me write a letter?", which says with what.
"""

from __future__ import annotations

import re

_SOMEBODY = r"(?:there|again|all|everyone|everybody|assistant|ai|bot|chatgpt|friends?|team|sir|madam)"
_SOMETHING = (
    r"(?:(?:with|on)\ )?(?:the\ following|this(?:\ one)?|(?:a|an|my|one|some)\ (?:\w{1,12}\ )?"
    r"(?:question|problem|task|exercise)s?)"
)
# What thanks are for, and what they are given with, that says nothing of a task.
_KINDNESS = (
    r"(?:(?:all\ )?(?:your|the|any|some)\ (?:\w{1,12}\ )?(?:help|time|advice|answer|support|patience|assistance))"
)
_MUCH = rf"(?:\ (?:so\ much|very\ much|a\ lot|again|already|in\ advance|for\ {_KINDNESS}|for\ being\ here)){{0,3}}"
_WELL = (
    r"(?:you\ are|you're|all\ is|everything\ is|you\ have\ been)\ (?:doing\ )?(?:well|fine|great|good)"
    r"|(?:this|that|my\ message)\ (?:message\ )?finds\ you\ (?:well|in\ good\ health)"
    r"|you(?:'re|\ are)?\ hav(?:e|ing)\ a\ (?:good|great|nice|wonderful)\ (?:day|week|time)"
    r"|you\ can\ help(?:\ me)?"
)
_COURTESY = re.compile(
    rf"""
    \s{{0,8}}
    (?:
        (?:hi|hello|hey|greetings|good\ (?:morning|afternoon|evening|day)|dear\ {_SOMEBODY})
            (?:\ {_SOMEBODY}\s?[,.!]+|\s?[.!]+|,(?=\ (?:i|can|could|would|please|hope|what|how|why|who)\b|\s*\n))
      | i\ (?:really\ )?hope\ (?:that\ )?(?:{_WELL})(?:\ (?:today|with\ this))?[.!]
      | (?:could|can|would|will)\ you\ (?:please\ |kindly\ |maybe\ )?(?:help|assist)(?:\ me|\ us)?(?:\ out)?
            (?:\ {_SOMETHING})?(?:,?\ please)?\s?[.!?:]
      | (?:(?:could|can|would|will)\ you\ )?(?:please\ |kindly\ )?(?:answer|solve|have\ a\ look\ at|look\ at)
            \ {_SOMETHING}(?:\ for\ me)?(?:,?\ please)?(?:,\ thanks)?\s?[.!?:]
      | would\ you\ mind\ (?:answering|solving|helping\ me\ with)\ {_SOMETHING}(?:\ for\ me)?\s?[.!?:]
      | here\ is\ my\ (?:question|problem)[.!:]
      | (?:please\ |kindly\ )?(?:help|assist)\ (?:me|us)(?:\ {_SOMETHING})?(?:,?\ please)?\s?[.!:]
      | i\ (?:need|want|could\ use)\ (?:some\ |your\ |a\ little\ )?help(?:\ {_SOMETHING})?\s?[.!:]
      | i\ have\ (?:a|one|the\ following)\ (?:\w{{1,12}}\ )?(?:question|problem)(?:\ for\ you)?\s?[.!:]
      | (?:many\ )?(?:thanks|thank\ you){_MUCH}[.!]
      | i(?:\ would|'d)?\ (?:really\ |very\ much\ |greatly\ )?(?:appreciate\ {_KINDNESS}
            |be\ (?:very\ |most\ )?(?:grateful|thankful)(?:\ for\ {_KINDNESS})?)[.!]
      | (?:i\ am\ |i'm\ )?sorry\ (?:to\ (?:bother|trouble|disturb)\ you|for\ (?:the\ trouble|bothering\ you))
            (?:,?\ but\ i(?:\ am|'m)\ stuck(?:\ {_SOMETHING})?)?[.!:]
    )
    (?=\s)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLOSING = re.compile(
    rf"(?<=[.!?\n])\s{{0,8}}(?:many\ )?(?:thanks|thank\ you){_MUCH}[.!]*\s{{0,8}}\Z", re.IGNORECASE | re.VERBOSE
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
    end = text[-CLOSING_CHARS:].lower()
    closing = _CLOSING.search(text, max(start, len(text) - CLOSING_CHARS)) if "thank" in end else None
    if start == 0 and closing is None:
        return text
    rest = text[start : closing.start() if closing else len(text)]
    return rest.lstrip() if rest.strip() else text
