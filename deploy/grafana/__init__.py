"""Our Grafana dashboards, as code; `python -m deploy.grafana` writes what Grafana reads."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana import decisions, fleet, promise

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (decisions.DASHBOARD, promise.DASHBOARD, fleet.DASHBOARD)
