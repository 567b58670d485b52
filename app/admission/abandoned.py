"""What a backend has done for an answer that nobody waited for until it began.

How it works: it has read the prompt. A stream shows when writing begins, so without a first piece nothing was written;
a plain answer shows nothing before it is whole, so it is as long by now as its model writes in that time: at the speed
that was expected of it when it was chosen, else at the one in the catalogue, and no longer than it was expected, or
asked, to be. Where neither speed is known only the prompt counts.
"""

from __future__ import annotations

from app.domain.decision import Candidate
from app.domain.request import Request
from app.domain.usage import Usage


def usage_by(candidate: Candidate, request: Request, waited_s: float) -> Usage:
    """What it took to work on this request for so long."""
    is_silent = request.stream or request.operation == "embeddings"
    return Usage(request.input_tokens, 0 if is_silent else _written_tokens(candidate, request, waited_s), counted=True)


def _written_tokens(candidate: Candidate, request: Request, waited_s: float) -> int:
    expected, model = candidate.estimate, candidate.model
    context = model.card.context_tokens
    longest = request.answer_tokens(context if expected.output_tokens is None else expected.output_tokens, context)
    if expected.latency_s is not None and expected.ttft_s is not None:
        reading_s, writing_s = expected.ttft_s, expected.latency_s - expected.ttft_s
    elif model.speed is not None:
        reading_s = request.input_tokens / model.speed.prefill_tokens_per_s
        writing_s = longest * model.speed.s_per_output_token
    else:
        return 0
    # Of nothing that takes no time is there a part.
    share = min(1.0, (waited_s - reading_s) / writing_s) if writing_s > 0.0 else float(waited_s >= reading_s)
    return round(max(0.0, share) * longest) * request.choices
