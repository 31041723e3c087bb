"""The folder of a sweep: a Parquet file for each shard, written whole by one process, checked when it is read."""

import io
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ar_interp._files import CheckpointError, name_of, opened
from ar_interp._writing import write_file
from ar_interp.sweeps.columns import Column
from ar_interp.sweeps.plan import Shard, Value
from ar_interp.sweeps.shards import Table

MAX_BYTES = 2**26  # of a part
TEXT, VERSIONS = b"ar_interp.shard", b"ar_interp.versions"  # metadata
LIBRARIES = ("ar_interp", "torch", "numpy", "pyarrow")
TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def path_of(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.parquet"


def write(folder: Path, shard: Shard, table: Table) -> list[dict[str, Any]]:
    """Write the part of a shard; its rows."""
    metadata = {TEXT: shard.text, VERSIONS: " ".join(f"{name} {version(name)}" for name in LIBRARIES)}
    made = pa.table(table, schema=schema_of(shard).with_metadata(metadata))
    write_file(path_of(folder, shard), as_bytes(made))
    return made.to_pylist()


def read(folder: Path, shard: Shard) -> list[dict[str, Any]]:
    """The rows of the part of a shard.

    Raises:
        CheckpointError: it is damaged, or not the part of this shard.
    """
    path = path_of(folder, shard)

    def check(metadata: dict[bytes, bytes]) -> None:
        if metadata.get(TEXT) != shard.text.encode():
            raise CheckpointError(f"{name_of(path)} holds another shard than its name says.")

    return read_table(path, schema_of(shard), shard.training.n_seeds, check).to_pylist()


def read_table(
    path: Path, schema: pa.Schema, n_rows: int, check: Callable[[dict[bytes, bytes]], None] = lambda metadata: None
) -> pa.Table:
    """The table in a file that may come from anybody.

    Args:
        check: raises an error where its metadata are not as they must be.
    Raises:
        CheckpointError: it is damaged or too large, or has other columns or another number of rows.
    """
    with opened(path) as (file, size):
        content = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    if max(size, len(content)) > MAX_BYTES:
        raise CheckpointError(f"{name_of(path)} is larger than {MAX_BYTES} bytes.")
    try:
        found = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        check(found.schema_arrow.metadata or {})
        if found.metadata.num_rows != n_rows:
            raise CheckpointError(f"{name_of(path)} holds {found.metadata.num_rows} rows, and {n_rows} are asked for.")
        if found.schema_arrow != schema:
            raise CheckpointError(f"{name_of(path)} has other columns than what was asked for.")
        return found.read()
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{name_of(path)} is damaged: {error}") from error


def as_bytes(table: pa.Table) -> bytes:
    """A table as a file, with a checksum for each page."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def set_aside(folder: Path, shard: Shard) -> Path:
    """Put a damaged part where nothing reads it."""
    path = path_of(folder, shard)
    aside = path.with_name(f".{shard.name}.damaged")
    os.replace(path, aside)
    return aside


def schema_of(shard: Shard) -> pa.Schema:
    """Names and types of the columns."""

    def kind(value: Value) -> pa.DataType:
        return TYPES[type(value)]

    columns = {name: kind(value) for name, value in shard.point.items()}
    columns |= {"seed": pa.int64(), "loss": pa.float64(), "minimum": pa.float64()}
    columns |= {name: pa.int64() if Column.find(name).integer else pa.float64() for name in shard.columns}
    return pa.schema(columns | {"seconds": pa.float64(), "device": pa.string()})
