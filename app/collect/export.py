"""The journal as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.collect.whole import unfinished
from app.errors import UsageError
from app.store.journal.flat import COLUMNS, PREDICTIONS

Row = Mapping[str, Any]

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


@contextmanager
def parquet_file(path: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Takes rows as they are read; the file is there, whole, once the block has ended well.

    Raises:
        UsageError: a folder is there already.
        OSError: it cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{path}: Is a directory; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as part:
        part.touch()  # says what is wrong with the path; pyarrow's own errors have no file name
        with pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), SCHEMA))
