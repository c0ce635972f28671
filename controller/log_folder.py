"""A folder with an exported log: one Parquet file a stream, and a manifest that is written last."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controller.log_columns import ENTRY_ID, RECORD, TABLES, Column, Kind, Row
from speculation.errors import ConfigurationError, InvalidLogError

FORMAT = "forerun log 1"
MANIFEST = "manifest.json"
ROWS_AT_ONCE = 5000

_TYPES: Mapping[Kind, Any] = {
    Kind.TEXT: pa.string(),
    Kind.COUNT: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.FLAG: pa.bool_(),
    Kind.TEXTS: pa.list_(pa.string()),
    Kind.COUNTS: pa.list_(pa.int64()),
    Kind.NUMBERS: pa.list_(pa.float64()),
    Kind.TEXT_BY_NAME: pa.map_(pa.string(), pa.string()),
    Kind.NUMBER_BY_NAME: pa.map_(pa.string(), pa.float64()),
    Kind.BYTES: pa.binary(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One exported stream.

    Attributes:
        rows: In its file.
        first_id: Of its entries; empty if there is none.
        last_id: Of its entries.
        trimmed: Records that Redis had forgotten by then.
        dropped: Records that controllers could not write, as far as the entries tell.
        written_twice: Copies left out: a controller that hears no answer writes again.
    """

    rows: int = 0
    first_id: str = ""
    last_id: str = ""
    trimmed: int = 0
    dropped: int = 0
    written_twice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a folder.

    Attributes:
        namespace: Whose log.
        exported_ms: When, Unix time.
        since_ms: Entries from this time on; None: from the beginning.
        until_ms: Entries before this time; None: to the end.
        parts: By stream.
        config_hashes: Decisions under each configuration.
        schema_versions: Records of each.
    """

    namespace: str
    exported_ms: int
    since_ms: int | None = None
    until_ms: int | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    config_hashes: Mapping[str, int] = field(default_factory=dict)
    schema_versions: Mapping[str, int] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Say that the folder is complete."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """What a folder says of itself.

        Raises:
            InvalidLogError: It is no exported log, or not a whole one.
        """
        file = folder / MANIFEST
        if not file.is_file():
            raise InvalidLogError(str(folder), f"has no {MANIFEST}: no log was exported here, or not to its end")
        try:
            about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if about.pop("format") != FORMAT:
                raise ValueError(f"another format than {FORMAT!r}")
            about["parts"] = {name: Part(**part) for name, part in about["parts"].items()}
            return cls(**about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidLogError(str(file), f"is no manifest of an exported log: {error}") from error


def file_of(folder: Path, stream: str) -> Path:
    """Where a stream's rows are."""
    return folder / f"{stream}.parquet"


def columns_of(stream: str) -> Sequence[Column]:
    """Of its file."""
    return (ENTRY_ID, *TABLES[stream].columns, RECORD)


def new_folder(folder: Path) -> Path:
    """An empty folder to export to.

    Raises:
        ConfigurationError: There is something in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigurationError(str(folder), "is not empty; name a new folder, or remove what is in this one")
    except OSError as error:
        raise ConfigurationError(str(folder), f"cannot be used: {error}") from error
    return folder


class RowWriter:
    """Writes the file of one stream; leave it to close the file."""

    def __init__(self, folder: Path, stream: str) -> None:
        self._schema = _schema(stream)
        self._file = pq.ParquetWriter(file_of(folder, stream), self._schema, compression="zstd")
        self._rows: list[Row] = []

    def write(self, row: Row) -> None:
        """Add a row; a column that it lacks is empty."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [_written(row.get(name)) for row in self._rows] for name in self._schema.names}
            self._file.write_table(pa.table(columns, schema=self._schema))
            self._rows = []

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._file.close()


def read_rows(folder: Path, stream: str, expected: Part) -> Iterator[Row]:
    """The rows of a stream, as they were written.

    Raises:
        InvalidLogError: The file is damaged, or not the one that was exported.
    """
    path = file_of(folder, stream)
    try:
        with pq.ParquetFile(path) as file:
            missing = set(_schema(stream).names) - set(file.schema_arrow.names)
            if missing:
                raise InvalidLogError(path.name, f"lacks the column {min(missing)}: export the log again")
            if file.metadata.num_rows != expected.rows:
                rows = file.metadata.num_rows
                raise InvalidLogError(path.name, f"has {rows} rows where the manifest says {expected.rows}")
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from (_read(stream, row) for row in batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise InvalidLogError(path.name, f"cannot be read: {error}") from error


def _read(stream: str, row: Mapping[str, Any]) -> Row:
    """Maps come as pairs."""
    mapped = {column.name for column in columns_of(stream) if column.kind in (Kind.TEXT_BY_NAME, Kind.NUMBER_BY_NAME)}
    return {name: dict(value) if name in mapped and value is not None else value for name, value in row.items()}


def _written(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value


def _schema(stream: str) -> Any:
    return pa.schema(
        [pa.field(column.name, _TYPES[column.kind], metadata={"about": column.about}) for column in columns_of(stream)],
        metadata={"format": FORMAT},
    )
