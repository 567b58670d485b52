"""Write the dashboards as Grafana reads them: `python -m deploy.grafana`."""

from __future__ import annotations

from deploy.grafana import DASHBOARDS, FOLDER
from deploy.grafana.panels import render

for dashboard in DASHBOARDS:
    path = FOLDER / f"{dashboard.uid}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(dashboard))
    print(path)
