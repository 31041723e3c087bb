"""The folder of a sweep: a Parquet file for each shard, written whole by one process, checked when it is read."""

import io
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ar_interp._files import LONGEST_TEXT, CheckpointError, name_of, opened
from ar_interp._writing import write_file
from ar_interp.sweeps.columns import Column
from ar_interp.sweeps.plan import Shard, Value
from ar_interp.sweeps.shards import Table

MAX_BYTES = 2**26  # of a part, also unpacked
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

    return read_table(path, [shard], check).to_pylist()


def read_table(
    path: Path, shards: Sequence[Shard], check: Callable[[dict[bytes, bytes]], None] = lambda metadata: None
) -> pa.Table:
    """The rows of shards, in their order, in a file that may come from anybody.

    Args:
        shards: with the same columns.
        check: raises an error where its metadata are not as they must be.
    Raises:
        CheckpointError: it is damaged or too large, has other columns, or holds other trainings.
    """
    where, schema, n_rows = name_of(path), schema_of(shards[0]), sum(shard.training.n_seeds for shard in shards)
    with opened(path) as (file, size):
        content = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    if max(size, len(content)) > MAX_BYTES:
        raise CheckpointError(f"{where} is larger than {MAX_BYTES} bytes.")
    try:
        found = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        check(found.schema_arrow.metadata or {})
        if found.metadata.num_rows != n_rows:
            raise CheckpointError(f"{where} holds {found.metadata.num_rows} rows, and {n_rows} are asked for.")
        if found.schema_arrow != schema:
            raise CheckpointError(f"{where} has other columns than what was asked for.")
        table = _unpacked(content, found, where)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if table["loss"].null_count:
        raise CheckpointError(f"{where} lacks losses.")
    for name, values in _asked(shards).items():
        if table[name].to_pylist() != values:
            raise CheckpointError(f"{where} holds other trainings than those asked for: see {name!r}.")
    return table


def _unpacked(content: bytes, found: pq.ParquetFile, where: str) -> pa.Table:
    """The table; a small file of a large one is refused, also where a long text stands in many rows."""
    size = sum(found.metadata.row_group(k).total_byte_size for k in range(found.num_row_groups))
    if size > MAX_BYTES:
        raise CheckpointError(f"{where} is larger than {MAX_BYTES} bytes once it is unpacked.")
    texts = [field.name for field in found.schema_arrow if field.type == pa.string()]
    once = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts, page_checksum_verification=True).read()
    for name in texts:
        if any(len(text or "") > LONGEST_TEXT for chunk in once[name].chunks for text in chunk.dictionary.to_pylist()):
            raise CheckpointError(f"{where}: {name!r} holds texts longer than {LONGEST_TEXT} letters.")
    return once.cast(found.schema_arrow)


def _asked(shards: Sequence[Shard]) -> dict[str, list[Any]]:
    """Contents of the columns that say which training a row is of."""
    asked: dict[str, list[Any]] = {name: [] for name in (*shards[0].point, "seed")}
    for shard in shards:
        first, n = shard.training.seed, shard.training.n_seeds
        for name, value in shard.point.items():
            asked[name] += [value] * n
        asked["seed"] += range(first, first + n)
    return asked


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
