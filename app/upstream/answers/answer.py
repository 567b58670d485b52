"""What a backend answers, checked and rewritten: a plain answer read whole, or a stream committed at its first output.

How it works: `read_answer` returns once the caller can be sent something. A plain answer is read to its end first; a
stream is read to its first output. Until then every failure is an exception, and another backend may be tried. After
that a failure is exactly one error event, which ends the stream without `[DONE]`: what the caller got is a prefix of
one backend's answer.

An answer is an object with `aclose()`, so that what a request holds is given back even if nobody ever reads it.
What was used is counted here; what it cost is not this file's business.
"""

from __future__ import annotations

from app.errors import UpstreamBroken, UpstreamDisconnected, UpstreamError
from app.upstream.answers.base_answer import Answer, Form
from app.upstream.answers.chat_stream import ChatStream
from app.upstream.answers.plain_answer import PlainAnswer
from app.upstream.answers.response_stream import ResponseStream
from app.upstream.answers.stream_answer import EVENT_STREAM, StreamAnswer
from app.upstream.http.exchange import Exchange, Pace, read_body
from app.upstream.http.faults import unreadable

__all__ = ["Answer", "Form", "read_answer"]

MAX_ANSWER_BYTES = 16 << 20


async def read_answer(exchange: Exchange, form: Form, pace: Pace) -> Answer:
    """The answer, as soon as the caller can be sent something of it. Closes the exchange on any failure.

    Raises:
        UpstreamError: nothing of it can be sent; another backend may be asked.
    """
    try:
        if not form.stream:
            body = await read_body(exchange, MAX_ANSWER_BYTES)
            exchange.close()
            return PlainAnswer(form, body)
        if not exchange.content_type.startswith(EVENT_STREAM):
            raise UpstreamBroken("the backend did not answer with a stream")
        kind = ResponseStream if form.operation == "responses" else ChatStream
        return await _opened(kind(form, exchange, pace))
    except UpstreamDisconnected as exc:
        exchange.close()
        raise UpstreamBroken(f"{exc}, before any of it could be sent") from exc
    except UpstreamError:
        exchange.close()
        raise
    except Exception as exc:
        exchange.close()
        raise unreadable(exc) from exc
    except BaseException:
        exchange.close()
        raise


async def _opened(answer: StreamAnswer) -> StreamAnswer:
    try:
        await answer.open()
    except BaseException:
        answer.close()
        raise
    return answer
