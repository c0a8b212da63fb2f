"""Reads back what wandb keeps of a run in offline mode, which wandb itself has no reader for.

A `.wandb` file is 7 bytes of header, then blocks of 32 KiB. A block holds parts, each with a header of 7 bytes (check
sum, length, type); a record is one part, or a first, middle ones and a last. Shorter rests of a block are padding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as wandb_messages

_BLOCK_BYTES, _HEADER_BYTES = 32 * 1024, 7
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass(frozen=True)
class OfflineRun:
    """One process's part of a run."""

    folder: Path
    records: tuple[Any, ...]

    @property
    def kinds(self) -> set[str]:
        """The types of record in the file."""
        return {record.WhichOneof("record_type") for record in self.records}

    @property
    def run(self) -> Any:
        """The record that begins the run."""
        return next(record.run for record in self.records if record.HasField("run"))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it was given."""
        return {name: value for name, value in _values(self.run.config.update).items() if name != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows in order, without the names that wandb adds."""
        rows = [_values(record.history.item) for record in self.records if record.HasField("history")]
        return [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of every figure."""
        return _values(item for record in self.records if record.HasField("summary") for item in record.summary.update)

    @property
    def exit_code(self) -> int:
        """0 for a run that ended well."""
        return int(next(record.exit.exit_code for record in self.records if record.HasField("exit")))


def read_offline_runs(out: Path) -> list[OfflineRun]:
    """Every part of the runs kept in `out/wandb`, oldest first."""
    files = sorted(out.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.parent.name)
    return [OfflineRun(file.parent / "files", tuple(_records(file.read_bytes()))) for file in files]


def _records(data: bytes) -> Iterator[Any]:
    place, content = _HEADER_BYTES, b""
    while place + _HEADER_BYTES <= len(data):
        rest = _BLOCK_BYTES - place % _BLOCK_BYTES
        if rest < _HEADER_BYTES:
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part = data[place + _HEADER_BYTES : place + _HEADER_BYTES + length]
        content = part if kind in {_FULL, _FIRST} else content + part
        place += _HEADER_BYTES + length
        if kind in {_FULL, _LAST}:
            yield wandb_messages.Record.FromString(content)  # type: ignore[attr-defined]  # made at run time


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Later values replace earlier ones; nested names become nested dictionaries."""
    values: dict[str, Any] = {}
    for item in items:
        *parents, name = item.nested_key or [item.key]
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)
    return values
