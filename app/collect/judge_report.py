"""How far a judge can be trusted: told from its two verdicts on each pair, and from gold scores where there are some.

How it works: all figures are of pairs of different answers with two verdicts that can be read, each distinct pair of
texts once. Verdicts of one pair are not independent, so a pair counts as one observation with the mean of its decided
verdicts (A or B, not TIE), and intervals are Wilson's for that many. They are a little too wide rather than too narrow.

The error rate e without gold: if a judge errs in either order independently and equally often, both orders name the
same answer in a share s = (1 - e)² + e² of the pairs, so e = (1 - √(2s - 1)) / 2; below s = 1/2, e is 1/2. What breaks
the assumption: errors made in both orders alike, as for the longer or the smoother answer, do not show, and e is too
low. A preference for a position makes errors in one order more frequent, and e comes out above their mean: with rates
a and b, e (1 - e) = m (1 - m) + d², where m is their mean and d half their difference. So does a judge that will not
say TIE where two answers are equally good. Gold shows all of these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from app.collect.graders import JUDGE, Graded
from app.collect.judge import Judging, Ruling, Verdict
from app.collect.plan import Key
from app.collect.rates import wilson
from app.collect.whole import write_whole
from router_models.prediction import Z_90

REPORT_NAME = "judge.json"
ASSUMES = "errors are independent and equally frequent in either order"
COIN = 0.5


@dataclass(frozen=True)
class Rate:
    """A figure with the ends of its 90 % interval, and of how many pairs it is; None where nothing tells it."""

    value: float | None
    low: float | None
    high: float | None
    of: int


@dataclass(frozen=True)
class Bias:
    """By how much the judge scores a model above what gold implies: 1, 0.5 or 0 as it beats the reference there."""

    model: str
    judged: float
    gold: float
    bias: Rate


@dataclass(frozen=True)
class AgainstGold:
    """The judge on prompts with a grader of their own. Rates are of pairs whose gold scores differ."""

    comparisons: int
    """Pairs whose gold scores differ."""
    undecided: int
    """Those of them that the judge called a tie in both orders."""
    agreement: Rate
    """How often a decided verdict is for the answer with the better gold score."""
    error_rate: Rate
    bias: tuple[Bias, ...]


@dataclass(frozen=True)
class Report:
    """What is written to `judge.json`. Counts are of pairs or of verdicts, as they say."""

    judge: str
    reference: str
    judges_itself: bool
    comparisons: int
    """Distinct pairs that were shown to the judge."""
    alike: int
    """Pairs that were not: their answers are the same."""
    verdicts: int
    ties: int
    unreadable: int
    unanswered: int
    agreement: Rate
    """How often both orders came to the same result, ties included."""
    agreement_decided: Rate
    first_position: Rate
    """Share of decided verdicts that went to the answer shown first; 0.5 is no preference."""
    longer: Rate
    """Share of decided verdicts that went to the longer answer. Longer answers may be better ones, too."""
    error_rate: Rate
    """Of one verdict, from the judge's disagreement with itself."""
    error_rate_assumes: str
    gold: AgainstGold | None


def report_of(judging: Judging, rulings: Sequence[Ruling], graded: Graded) -> Report:
    """The figures of a judge's rulings; `graded` has the gold scores."""
    shown = _distinct(rulings)
    said = [verdict for ruling in shown for verdict in ruling.verdicts]
    read = [ruling for ruling in shown if ruling.score is not None]
    agreement_decided = _share(_each(read, _same_answer))
    name = judging.judge.target.model
    return Report(
        judge=name,
        reference=judging.judge.reference,
        judges_itself=name in [target.model for target in judging.plan.targets],
        comparisons=len(shown),
        alike=sum(not ruling.verdicts for ruling in rulings),
        verdicts=len(said) - said.count(Verdict.UNANSWERED),
        ties=said.count(Verdict.TIE),
        unreadable=said.count(Verdict.UNREADABLE),
        unanswered=said.count(Verdict.UNANSWERED),
        agreement=_share([float(ruling.agrees) for ruling in read]),
        agreement_decided=agreement_decided,
        first_position=_share(_each(read, _first_position)),
        longer=_share(_each(read, _longer)),
        error_rate=error_rate(agreement_decided),
        error_rate_assumes=ASSUMES,
        gold=_against_gold(rulings, _leads(judging, rulings, graded)),
    )


def error_rate(agreement: Rate) -> Rate:
    """Errors per verdict that let both orders agree so often; the file's head has the formula and what it assumes."""
    low, value, high = (_error(share) for share in (agreement.high, agreement.value, agreement.low))
    return Rate(value, low, high, agreement.of)


def _error(agreement: float | None) -> float | None:
    return None if agreement is None else (1 - math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def _share(values: Sequence[float]) -> Rate:
    """Mean of shares, one for each pair, with Wilson's interval."""
    n = len(values)
    if n == 0:
        return Rate(None, None, None, 0)
    mean = fmean(values)
    return Rate(mean, *wilson(mean, n), n)


def _each(rulings: Sequence[Ruling], share_of: Callable[[Ruling], float | None]) -> list[float]:
    return [share for ruling in rulings if (share := share_of(ruling)) is not None]


def _same_answer(ruling: Ruling) -> float | None:
    return None if COIN in ruling.marks else float(ruling.agrees)


def _first_position(ruling: Ruling) -> float | None:
    decided = [verdict is Verdict.A for verdict in ruling.verdicts if verdict is not Verdict.TIE]
    return fmean(decided) if decided else None


def _longer(ruling: Ruling) -> float | None:
    return _share_for(ruling, len(ruling.pair.answer.strip()) - len(ruling.pair.against.strip()))


def _share_for(ruling: Ruling, lead: float) -> float | None:
    """Share of decided verdicts for the model's answer where `lead` is above 0, against it below; None at 0."""
    decided = [mark if lead > 0 else 1 - mark for mark in ruling.marks if mark != COIN]
    return fmean(decided) if decided and lead else None


def _distinct(rulings: Sequence[Ruling]) -> list[Ruling]:
    """Every pair of texts that was shown, once."""
    shown = {tuple(q.prompt_id for q in ruling.pair.questions): ruling for ruling in rulings if ruling.verdicts}
    return list(shown.values())


def _leads(judging: Judging, rulings: Sequence[Ruling], graded: Graded) -> dict[Key, float]:
    """By how much a model's gold score is above the reference's, where both have one that no judge gave."""
    by_rule = {prompt.prompt_id for prompt in judging.plan.prompts if prompt.grader != JUDGE}
    leads = {}
    for ruling in rulings:
        key = ruling.pair.key
        own, other = graded.scores.get(key), graded.scores.get((key[0], judging.judge.reference))
        if key[0] in by_rule and own is not None and other is not None:
            leads[key] = own - other
    return leads


def _against_gold(rulings: Sequence[Ruling], leads: Mapping[Key, float]) -> AgainstGold | None:
    """None where no prompt has gold."""
    known = [ruling for ruling in rulings if ruling.pair.key in leads and ruling.score is not None]
    if not known:
        return None
    differing = [ruling for ruling in _distinct(known) if leads[ruling.pair.key]]
    right = _each(differing, lambda ruling: _share_for(ruling, leads[ruling.pair.key]))
    agreement = _share(right)
    models = dict.fromkeys(ruling.pair.model for ruling in known)
    return AgainstGold(
        comparisons=len(differing),
        undecided=len(differing) - len(right),
        agreement=agreement,
        error_rate=_opposite(agreement),
        bias=tuple(_bias(model, [r for r in known if r.pair.model == model], leads) for model in models),
    )


def _bias(model: str, rulings: Sequence[Ruling], leads: Mapping[Key, float]) -> Bias:
    judged = [ruling.score or 0.0 for ruling in rulings]
    gold = [_implied(leads[ruling.pair.key]) for ruling in rulings]
    return Bias(model, fmean(judged), fmean(gold), _mean([j - g for j, g in zip(judged, gold, strict=True)]))


def _implied(lead: float) -> float:
    return COIN if lead == 0 else float(lead > 0)


def _mean(values: Sequence[float]) -> Rate:
    """Mean of numbers of any sign with a normal interval, which one number does not have."""
    mean, n = fmean(values), len(values)
    half = Z_90 * stdev(values) / math.sqrt(n) if n > 1 else None
    return Rate(mean, None if half is None else mean - half, None if half is None else mean + half, n)


def counts(report: Report) -> str:
    """What was judged, in one sentence."""
    return (
        f"{report.judge} judged {report.comparisons} different pairs against {report.reference} in both orders, beside "
        f"{report.alike} whose answers are alike: {report.verdicts} verdicts, of them {report.ties} ties and "
        f"{report.unreadable} unreadable; {report.unanswered} requests without an answer."
    )


def rates(report: Report) -> list[tuple[str, Rate]]:
    """All figures with an interval, by what they say."""
    own = [
        ("both orders agree", report.agreement),
        ("both orders agree, where neither is a tie", report.agreement_decided),
        ("the answer shown first wins", report.first_position),
        ("the longer answer wins", report.longer),
        ("error rate, by disagreement", report.error_rate),
    ]
    gold = report.gold
    if gold is None:
        return own
    biases = [(f"{b.model} has {b.judged:.3f}, by gold {b.gold:.3f}: bias", b.bias) for b in gold.bias]
    return [*own, ("the better by gold wins", gold.agreement), ("error rate, by gold", gold.error_rate), *biases]


def remarks(report: Report) -> list[str]:
    """What a reader of the figures should know, in sentences."""
    gold = report.gold.error_rate if report.gold else _share([])
    told = (("against gold", gold), ("by its disagreement with itself", report.error_rate))
    coin = [how for how, rate in told if rate.high is not None and rate.high >= COIN]
    said = [f"Error rate by disagreement: assumes that {report.error_rate_assumes}; repeated errors do not show in it."]
    if coin:
        said.append(f"{report.judge} cannot be told from a coin {' and '.join(coin)}: do not train on these scores.")
    if _above(report.first_position, COIN) or _above(_opposite(report.first_position), COIN):
        said.append("It prefers a position: its disagreement overstates its mean error rate. Both orders are averaged.")
    if report.error_rate.high is not None and _above(gold, report.error_rate.high):
        said.append("It errs more often than it contradicts itself: it repeats errors in both orders.")
    if report.judges_itself:
        said.append(f"{report.judge} is one of the models it judges; a model tends to prefer its own answers.")
    return said


def _above(rate: Rate, limit: float) -> bool:
    return rate.low is not None and rate.low > limit


def _opposite(rate: Rate) -> Rate:
    """The rate of the opposite."""
    low, value, high = (None if share is None else 1 - share for share in (rate.high, rate.value, rate.low))
    return Rate(value, low, high, rate.of)


def write_report(folder: Path, report: Report) -> None:
    """`judge.json`."""
    write_whole(folder / REPORT_NAME, json.dumps(asdict(report), indent=1) + "\n")
