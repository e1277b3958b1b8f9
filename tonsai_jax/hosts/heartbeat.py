"""`WORKDIR/heartbeats/process-<i>.json`: a sign of life that anything outside of the run can read."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITE_SECONDS = 10.0


class HeartbeatFile:
    """Writes what `beat` returns at once and each 10 seconds, in a thread, and a last time at `close`.

    The file is replaced whole. Where it cannot be written (a full disk, a storage that hangs), the run goes on without it.
    """

    def __init__(self, path: Path, beat: Callable[[], dict[str, Any]]) -> None:
        self._path, self._beat = path, beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        partial = self._path.with_name(f".{self._path.name}.partial")
        while True:
            is_last = self._ended.is_set()
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                partial.write_text(json.dumps(self._beat(), ensure_ascii=False) + "\n", encoding="utf-8")
                partial.replace(self._path)
            if is_last:
                return
            self._ended.wait(WRITE_SECONDS)
