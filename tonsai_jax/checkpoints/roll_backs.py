"""The times that a run went back to an earlier checkpoint and jumped over rows, in WORKDIR/roll_backs.jsonl.

A line is written after the later checkpoints are deleted, and it is what makes the jump last: a run that goes on from the
checkpoint of `to_step` takes the order of rows in the line, not that in the checkpoint. Killed before the line is written, the
run takes the same steps again, and goes back again. A line decides which rows are learned, so it has a checksum.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from tonsai_jax.checksums import check_checksum, with_checksum
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json_lines

ROLL_BACKS_FILE = "roll_backs.jsonl"


class RollBacks:
    """The times that a run which now goes on from `step` went back.

    Of a run that a person set back to an earlier step, later ones do not count: their steps are taken again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._path = workdir / ROLL_BACKS_FILE
        found = _read(self._path)
        # A later step before one that holds was given up by the run itself, and counts; one after it by a person.
        kept = max((number for number, record in enumerate(found, 1) if record["to_step"] <= step), default=0)
        self._records = found[:kept]
        self._has_later = len(self._records) < len(found)

    def __len__(self) -> int:
        return len(self._records)

    def data_at(self, step: int) -> Mapping[str, Any] | None:
        """The data state with which the run goes on from the checkpoint of `step`; None where that in the checkpoint holds."""
        # Where the run went back further after it went back to `step`, it has saved `step` again, after other rows.
        last = next((record for record in reversed(self._records) if record["to_step"] <= step), None)
        return last["data"] if last is not None and last["to_step"] == step else None

    def drop_later(self) -> None:
        """Drops the later ones from the file, too. Else they would come back when the run has saved their steps again."""
        if self._has_later and jax.process_index() == 0:
            write_json_lines(self._path, self._records)

    def gave_up(self, step: int, seconds: float) -> bool:
        """Whether the run went back behind the checkpoint of `step` after that was saved, `seconds` after 1970."""
        return any(record["to_step"] < step and seconds < record.get("time", 0.0) for record in self._records)

    def add(self, to_step: int, data: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        """Records that the run goes back to `to_step`, and on from there with the data state `data`."""
        record = {"number": len(self) + 1, "to_step": to_step, **details, "data": data}
        self._records = [*self._records, with_checksum(record)]
        if jax.process_index() == 0:
            write_json_lines(self._path, self._records)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    way_out = "delete it, and a run that has saved no checkpoint since it went back goes back once more"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records:
            check_checksum(path, record, way_out)
        return [record for record in records if isinstance(record["to_step"], int) and record["data"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; {way_out}") from None
