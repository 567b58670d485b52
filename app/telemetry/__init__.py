"""Every metric and log event, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where measurements and events go."""

    metrics: Metrics = field(default_factory=Metrics)
    log: EventLog = field(default_factory=EventLog)

    def __post_init__(self) -> None:
        self.metrics.refresh_with(lambda: self.metrics.log_lines_dropped.values.update({(): float(self.log.dropped)}))
