"""Every metric and log event, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.telemetry.afterwards import Afterwards
from app.telemetry.logging import EventLog, where
from app.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where measurements and events go."""

    metrics: Metrics = field(default_factory=Metrics)
    log: EventLog = field(default_factory=EventLog)
    together: int = 1
    """So much of what is counted, kept and logged is done in a row."""
    afterwards: Afterwards = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "afterwards", Afterwards(self._untold, self.together))
        self.metrics.refresh_with(self.afterwards.finish)
        self.metrics.refresh_with(lambda: self.metrics.log_lines_dropped.values.update({(): float(self.log.dropped)}))

    def _untold(self, error: Exception) -> None:
        self.log.write("request.untold", where=where(error))
