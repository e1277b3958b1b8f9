"""A run's metrics.jsonl as one series of numbers for each name; lines that are broken are counted, not fatal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_ROWS_AT_ONCE = 4096  # that are kept as Python objects
_NUMBERS = {int, float, type(None)}  # None: a value that was not finite
_LARGEST = 1e300  # larger values are not measured, and distances between them on a chart would not be finite
_LARGEST_STEP = 2**53  # float64 holds every integer up to it
_BROKEN_NAMED = 3  # in the note; the others are counted


class Series(NamedTuple):
    """The values of one name: float64 arrays of the same length, in the order of the steps; values are finite, below 1e300."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float | None:
        return float(self.values[-1]) if len(self.values) else None

    @property
    def first(self) -> float | None:
        return float(self.values[0]) if len(self.values) else None


_EMPTY = Series(np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class Metrics:
    """What a metrics.jsonl holds.

    Attributes:
      series: by name, without "step".
      last_step: the largest step of any row; 0 without rows.
      notes: what was left out, as sentences.
      ended_in_nan: whether the last training loss was not finite.
    """

    series: dict[str, Series] = field(default_factory=dict)
    last_step: int = 0
    notes: tuple[str, ...] = ()
    ended_in_nan: bool = False

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, _EMPTY)

    def under(self, prefix: str) -> dict[str, Series]:
        """The series whose names begin with `prefix`, by the rest of the name, in order of their first row."""
        return {name.removeprefix(prefix): of for name, of in self.series.items() if name.startswith(prefix)}

    def at(self, name: str, steps: np.ndarray) -> np.ndarray:
        """The value of a growing count, such as progress/tokens, at each of some steps; it is 0 at step 0."""
        known = self[name]
        return np.interp(steps, np.insert(known.steps, 0, 0.0), np.insert(known.values, 0, 0.0))


def read_metrics(path: Path) -> Metrics:
    """Reads the file. A missing file, and lines that are not JSON objects of numbers with a step, become notes."""
    if not path.is_file():
        return Metrics(notes=(f"{path.name}: no such file, so there are no curves",))
    blocks: dict[tuple[str, ...], list[np.ndarray]] = {}
    waiting: dict[tuple[str, ...], list[tuple[int, tuple[float | None, ...]]]] = {}
    broken: list[int] = []

    def put_away() -> None:
        for names, rows in waiting.items():
            blocks.setdefault(names, []).append(_table(rows, broken))
        waiting.clear()

    count = 0
    for number, row in _rows(path, broken):
        try:
            names, values = tuple(row), tuple(row.values())
            if (
                not _NUMBERS.issuperset(map(type, values))
                or type(row["step"]) is not int
                or not 0 <= row["step"] < _LARGEST_STEP
            ):
                raise TypeError
        except (KeyError, TypeError):
            broken.append(number)
            continue
        waiting.setdefault(names, []).append((number, values))
        count += 1
        if count % _ROWS_AT_ONCE == 0:
            put_away()
    put_away()
    tables = {names: np.concatenate(arrays) for names, arrays in blocks.items() if sum(map(len, arrays))}
    notes = [] if not broken else [_broken_note(path, sorted(broken))]
    if not tables:
        notes.append(f"{path.name}: no rows yet, so there are no curves")
    last_step = max((int(table[:, names.index("step")].max()) for names, table in tables.items()), default=0)
    series, ended_in_nan = _series(tables)
    return Metrics(series, last_step, tuple(notes), ended_in_nan)


def _table(rows: list[tuple[int, tuple[float | None, ...]]], broken: list[int]) -> np.ndarray:
    """(line, values) of some rows as an array; lines with an integer that is too large for a float are added to `broken`."""
    try:
        return np.array([values for _, values in rows], dtype=np.float64)
    except OverflowError:
        pass
    kept = []
    for number, values in rows:
        try:
            kept.append(np.array(values, dtype=np.float64))
        except OverflowError:
            broken.append(number)
    return np.array(kept).reshape(len(kept), len(rows[0][1]))


def _rows(path: Path, broken: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError):  # also an integer of too many digits, and a line of a million brackets
                if line.strip():
                    broken.append(number)
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                broken.append(number)


def _broken_note(path: Path, lines: list[int]) -> str:
    named = ", ".join(map(str, lines[:_BROKEN_NAMED]))
    if len(lines) == 1:
        return f"{path.name} line {named}: not a row of metrics, left out"
    more = f" and {len(lines) - _BROKEN_NAMED} more" if len(lines) > _BROKEN_NAMED else ""
    return f"{path.name} lines {named}{more}: not rows of metrics, left out"


def _series(tables: dict[tuple[str, ...], np.ndarray]) -> tuple[dict[str, Series], bool]:
    """One series for each name, and whether the last training loss was not finite."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for names, table in tables.items():
        steps = table[:, names.index("step")]
        for column, name in enumerate(names):
            if name != "step":
                parts.setdefault(name, []).append((steps, table[:, column]))
    series, ended_in_nan = {}, False
    for name, found in parts.items():
        steps = np.concatenate([steps for steps, _ in found])
        values = np.concatenate([values for _, values in found])
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        finite = np.abs(values) < _LARGEST
        if name == "train/loss" and len(finite):
            ended_in_nan = not finite[-1]
        series[name] = Series(steps[finite], values[finite])
    return series, ended_in_nan
