"""Every error a caller can see, drawn as a tree.

A class has a `status` and a `code`; the code is the failure's one name in body, log and metric label. Messages say
what to change. Only an UpstreamError leads to another attempt, and only before the caller has seen a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

AnError = TypeVar("AnError", bound=Exception)


MOST_NAME_CHARS = 100
"""Of a name that somebody else chose, in a message."""


def shown(name: str) -> str:
    """A name that a caller chose, as messages and `param` repeat it: cut where it is long."""
    return name if len(name) <= MOST_NAME_CHARS else f"{name[: MOST_NAME_CHARS - 3]}..."


def without_credentials(url: str) -> str:
    """A URL as messages repeat it: who is to log in there, and with what, is left out of it."""
    before, at, rest = url.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    return (f"{scheme}//***@{rest}" if slashes else f"***@{rest}") if at else url


class UsageError(Exception):
    """A command cannot go on; the message is one line that says what to change."""


class GatewayError(Exception):
    """An answer that is an error: `status`, the OpenAI `type`, `code` and `param`, and headers of its own."""

    status: ClassVar[int] = 500
    code: str = "internal"
    type: ClassVar[str] = "server_error"
    counted_as: ClassVar[str | None] = None
    """How a request that it ends is said to have ended, where its code would tell another cause."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        may_retry: bool = True,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        """Whole seconds for `Retry-After`; every 429 and 503 has one."""
        self.may_retry = may_retry
        """False adds `x-should-retry: false`, which the OpenAI SDK honours."""
        self.details = details
        """More for machines, beside the four keys of OpenAI's error object."""
        self.decided: Mapping[str, str] = {}
        """Headers that tell of the decision that was made before it."""
        self.evidence: object = None
        """What it follows from, for the record, where no model was eligible."""

    @property
    def outcome(self) -> str:
        """How a request that it ends is said to have ended, in metrics and records."""
        return self.counted_as or self.code

    def headers(self) -> dict[str, str]:
        """Headers that belong to this answer."""
        wait_s = 1 if self.retry_after_s is None and self.status in (429, 503) else self.retry_after_s
        headers = {**self.decided, **({} if wait_s is None else {"retry-after": str(wait_s)})}
        return headers if self.may_retry else headers | {"x-should-retry": "false"}


class Internal(GatewayError):
    """A bug of ours; the message is the same for all of them."""


class CallerError(GatewayError):
    status = 400
    type = "invalid_request_error"


class InvalidRequest(CallerError):
    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class InvalidFlag(InvalidRequest):
    code = "invalid_flag"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class Unauthorized(CallerError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": "Bearer"}


class NotAllowed(CallerError):
    status = 403
    code = "not_allowed"
    type = "permission_error"


class UnknownModel(CallerError):
    status = 404
    code = "model_not_found"


class UnknownDecision(CallerError):
    status = 404
    code = "decision_not_found"


class UnknownRoute(CallerError):
    status = 404
    code = "not_found"


class WrongMethod(CallerError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return super().headers() | {"allow": self.allowed}


class RequestTimeout(CallerError):
    status = 408
    code = "request_timeout"


class TooLarge(CallerError):
    status = 413
    code = "too_large"


class UnsupportedMedia(CallerError):
    status = 415
    code = "unsupported_media"


class NoEligibleModel(CallerError):
    """The constraints leave no model; `details` names, per model, what excluded it and the smallest relaxation."""

    status = 422
    code = "no_eligible_model"


class ConfigRejected(CallerError):
    """A configuration that is wrong; `details` has a line for each thing. For operators only."""

    status = 422
    code = "config_rejected"


class RateLimited(CallerError):
    """The caller's key is over one of its limits."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: int, left: Mapping[str, str] | None = None) -> None:
        """`left` are headers that say what the key has left."""
        super().__init__(message, retry_after_s=retry_after_s)
        self._left = left or {}

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self._left}


class BudgetSpent(CallerError):
    """What is left of the budget of the caller's key does not pay for this request."""

    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"


class BudgetUnavailable(GatewayError):
    """The caller's key has a hard budget, and what is left of it cannot be told."""

    status = 503
    code = "budget_unavailable"


class Overloaded(GatewayError):
    """Refused before any work: shed, or draining."""

    status = 503
    code = "overloaded"


class Draining(Overloaded):
    code = "draining"


class UpstreamError(GatewayError):
    """An attempt failed."""


class UpstreamUnreachable(UpstreamError):
    status = 503
    code = "no_backend"


class UpstreamBusy(UpstreamError):
    """The backend refused the request because it is full (503), or has no connection to spare."""

    status = 503
    code = "no_backend"


class UpstreamRateLimited(UpstreamBusy):
    """The backend's own rate limit (429); the caller sees it only when no other backend could answer."""

    status = 429
    code = "rate_limit_exceeded"
    counted_as = "upstream_rate_limited"
    type = "rate_limit_error"
    everywhere = "every backend that could answer is over its rate limit, or its account has no quota left"
    """What is said where none is asked: both rest, and only the first who was refused has heard which it is."""


class UpstreamSpent(UpstreamRateLimited):
    """The account at the backend has no money left (429 `insufficient_quota`): the operator's to fill."""


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamBroken(UpstreamError):
    status = 502
    code = "bad_upstream"


class UpstreamDisconnected(UpstreamBroken):
    """A begun answer was cut; seen only as an error event."""

    code = "upstream_disconnected"


class AnswerTooLarge(UpstreamBroken):
    """There is more of it than is taken from a backend; how much there is was the caller's choice.

    So it says nothing against the replica. Another model may answer more briefly, but the same call again is as large.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, may_retry=False)


class UpstreamRejected(UpstreamError):
    """The backend's own refusal of this request (400, 404, 413, 422), in OpenAI shape; not tried elsewhere."""

    type = "invalid_request_error"

    def __init__(self, message: str, *, status: int, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message, param=param)
        self.status = status  # type: ignore[misc]  # one class for the few statuses that are passed on
        self.code = code


def unraised(error: AnError) -> AnError:
    """An error to keep: without the frames that it passed, which may refer to whoever keeps it."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
