"""From measured rows to a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.load.bench.gateways import BASELINE

Row = dict[str, Any]


def write(rows: Sequence[Row], folder: Path) -> None:
    """`gateways.json`, `gateways.md` and `gateways.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateways.json").write_text(json.dumps(list(rows), indent=1))
    (folder / "gateways.md").write_text(table(rows))
    plot(rows, folder / "gateways.png")


def table(rows: Sequence[Row]) -> str:
    """CPU per request in ms: the median of all rounds [lowest, highest], and in how many times that of the baseline."""
    cases, gateways = _in_order(rows, "case"), _in_order(rows, "gateway")
    lines = ["| CPU ms a request | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    lines += [f"| {each} | " + " | ".join(_cell(rows, each, case) for case in cases) + " |" for each in gateways]
    lines += ["", "| p50 / p99 ms | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    lines += [f"| {each} | " + " | ".join(_latency(rows, each, case) for case in cases) + " |" for each in gateways]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of CPU per request as a ratio to the baseline, on a log scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases, gateways = _in_order(rows, "case"), _in_order(rows, "gateway")
    figure, axes = plt.subplots(figsize=(2.2 + 1.5 * len(cases), 4.5), layout="constrained")
    width = 0.8 / len(gateways)
    for number, gateway in enumerate(gateways):
        places = [place + (number - len(gateways) / 2) * width for place in range(len(cases))]
        axes.bar(places, [_ratio(rows, gateway, case) or 0.0 for case in cases], width, label=gateway)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel(f"CPU per request, times {BASELINE}")
    axes.set_xticks(range(len(cases)), cases, rotation=15)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _cell(rows: Sequence[Row], gateway: str, case: str) -> str:
    found = _values(rows, gateway, case, "cpu_ms")
    if not found:
        return "not measured"
    ratio = _ratio(rows, gateway, case)
    times = "" if ratio is None else f" ({ratio:.2f} x)"
    wrong = " **wrong answers**" if any(row.get("wrong") for row in _rows(rows, gateway, case)) else ""
    return f"{statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}]{times}{wrong}"


def _latency(rows: Sequence[Row], gateway: str, case: str) -> str:
    p50, p99 = _values(rows, gateway, case, "p50_ms"), _values(rows, gateway, case, "p99_ms")
    return f"{statistics.median(p50):.2f} / {statistics.median(p99):.2f}" if p50 and p99 else "-"


def _ratio(rows: Sequence[Row], gateway: str, case: str) -> float | None:
    own, base = _values(rows, gateway, case, "cpu_ms"), _values(rows, BASELINE, case, "cpu_ms")
    return statistics.median(own) / statistics.median(base) if own and base and statistics.median(base) else None


def _values(rows: Sequence[Row], gateway: str, case: str, name: str) -> list[float]:
    return [row[name] for row in _rows(rows, gateway, case) if row.get(name) is not None]


def _rows(rows: Sequence[Row], gateway: str, case: str) -> list[Row]:
    return [row for row in rows if row["gateway"] == gateway and row["case"] == case]


def _in_order(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))
