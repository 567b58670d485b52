"""The journal as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import UsageError
from app.store.flat import COLUMNS, PREDICTIONS

_TRUTHS = {"stream", "usage_counted", "reconstructed", "keeps_text"}
_WHOLE = {"attempts", "input_tokens", "cached_input_tokens", "output_tokens", "max_tokens", "eligible"}
_NUMBERS = {"time", "reserved_usd", "propensity", "cost_usd", "mean_logprob", "ttft_s", "duration_s", "overhead_s"}
_NUMBERS |= {*PREDICTIONS, "score"}


def _type(name: str) -> pa.DataType:
    if name in _TRUTHS:
        return pa.bool_()
    if name in _WHOLE:
        return pa.int64()
    return pa.float64() if name in _NUMBERS else pa.string()


SCHEMA = pa.schema([(name, _type(name)) for name in COLUMNS])


class ParquetFile:
    """Takes rows as they are read; the file appears whole or not at all.

    Raises:
        UsageError: a folder is there already.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise UsageError(f"{path}: Is a directory; name a file")
        self._path, self._unfinished = path, path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished.touch()  # says what is wrong with the path; pyarrow's own errors have no file name
        self._writer = pq.ParquetWriter(self._unfinished, SCHEMA, compression="zstd")

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer.write_table(pa.Table.from_pylist(list(rows), SCHEMA))

    def close(self) -> None:
        self._writer.close()
        self._unfinished.replace(self._path)
