"""What the processes of a run know of each other, through the key-value store that JAX keeps in process 0.

Every process writes a beat each second: where it is and what it does. Process 0 reads the beats of all, the others that of
process 0, so the traffic grows only with the number of processes. Whoever fails says so under a key that all read.
"""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax

from tonsai_jax.hosts.key_values import key_value_store

_NEVER_MS = 10**10
# Some of XLA's errors reach Python as a ValueError; they begin with their status.
_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_LOST = re.compile("gloo|nccl|(reset|closed) by peer|socket closed", re.IGNORECASE)
_BROKEN = re.compile("connection|unavailable|deadline_exceeded|aborted|cancelled|barrier", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why a process ends the run: the message names the process and its host; all end with its exit code."""

    process: int
    message: str
    code: int
    is_hang: bool = False  # then all leave the stacks of their threads


def name_of(process: int, host: str) -> str:
    """How messages name a process: "process 1 (node2)"."""
    return f"process {process} ({host})"


class Peers:
    """The other processes. `exchange` is called every second in a thread of its own, as a call can block where process 0 hangs.

    Args:
      beat: makes the beat of this process: a dictionary with `step` and `doing`, among others.
      now: a clock in seconds.

    Attributes:
      failure: of another process, as soon as it is known.
      all_done: set when every process has called `done`.
    """

    EXCHANGE_SECONDS = 1.0

    def __init__(self, beat: Callable[[], dict[str, Any]], now: Callable[[], float]) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self.name = name_of(self.index, socket.gethostname())
        self.failure: Failure | None = None
        self.all_done = threading.Event()
        self._client = key_value_store()
        self._beat, self._now = beat, now
        self._is_done = False
        watched = range(1, self.count) if self.index == 0 else (0,)
        self._last = {process: (now(), "") for process in watched}  # when its beat last changed, and the beat

    def exchange(self) -> None:
        """Writes the beat of this process and reads those of others; what cannot be read now counts as silence."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            beat = json.dumps(self._beat() | {"beat": time.time(), "done": self._is_done})
            self._client.key_value_set(f"tonsai/beats/{self.index}", beat, allow_overwrite=True)
            failed = self._client.key_value_dir_get("tonsai/failed/")
            for _, text in failed:
                failure = Failure(**json.loads(text))
                if failure.process != self.index:
                    self.failure = self.failure or failure
            if self.index == 0:
                beats = self._read_beats()
            else:
                beats = {0: self._try_get("tonsai/beats/0")}
            for process, text in beats.items():
                if process in self._last and text != self._last[process][1]:
                    self._last[process] = (self._now(), text)
            if self.index == 0 and self._is_done and all(_parsed(text).get("done") for _, text in self._last.values()):
                self._client.key_value_set("tonsai/all_done", "yes", allow_overwrite=True)
                self.all_done.set()
            elif self._is_done and self._try_get("tonsai/all_done"):
                self.all_done.set()

    def silent(self, seconds: float) -> str:
        """Names a process of which nothing was heard for so long, with what it did then; empty where there is none."""
        if self.all_done.is_set():
            return ""
        for process, (since, text) in self._last.items():
            beat = _parsed(text)
            if self._now() - since >= seconds and not beat.get("done"):
                name = name_of(process, beat["host"]) if beat else f"process {process}"
                return (
                    f"{name} has not been heard of for {seconds:g} s{_where(beat)}: it is dead, stopped or unreachable"
                )
        return ""

    def latest(self) -> str:
        """Names the process that is the least far, or that alone does something else than steps; empty where none stands out."""
        beats: list[dict[str, Any]] = []
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            beats = [_parsed(text) for text in self._read_beats().values()]
        places = [(beat["step"], beat["doing"] != "reading data") for beat in beats]
        if not beats or min(places) == max(places):
            return ""
        late = beats[places.index(min(places))]
        return f"{name_of(late['process'], late['host'])} is late{_where(late)}"

    def fail(self, message: str, code: int, *, is_hang: bool = False) -> None:
        """Tells all others that this process fails. Process 0 stays for a moment, since what it says is gone when it ends."""
        text = json.dumps(asdict(Failure(self.index, message, code, is_hang)))
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"tonsai/failed/{self.index}", text, allow_overwrite=True)
        if self.index == 0:
            time.sleep(2 * self.EXCHANGE_SECONDS)

    def done(self) -> None:
        """Says that this process has done its work: from now on its silence is no fault."""
        self._is_done = True

    def gather(self, name: str, value: Any) -> list[Any] | None:
        """Sends a JSON value of every process to process 0; returns them there, in order, and None elsewhere.

        It waits without end: where a process does not answer, `Watchdog` ends this one.
        """
        if self.index:
            self._client.key_value_set(f"tonsai/{name}/{self.index}", json.dumps(value))
            return None
        return [value, *(self._wait_for(f"tonsai/{name}/{process}") for process in range(1, self.count))]

    def broadcast(self, name: str, value: Any) -> Any:
        """Returns on every process the JSON value that process 0 gave; it waits as `gather` does."""
        if self.index:
            return self._wait_for(f"tonsai/{name}")
        self._client.key_value_set(f"tonsai/{name}", json.dumps(value))
        return value

    def _wait_for(self, key: str) -> Any:
        return json.loads(self._client.blocking_key_value_get(key, _NEVER_MS))

    def _try_get(self, key: str) -> str:
        """The value of a key; empty where it has none yet."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return str(self._client.key_value_try_get(key))
        return ""

    @staticmethod
    def is_lost_in(error: BaseException | None) -> bool:
        """Whether an error, or one that it comes from, is that of a collective or a barrier whose other side is gone."""
        seen: set[int] = set()  # an error can come from itself
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            # Orbax and others wrap them in errors of their own. The words alone say nothing: the Hub resets connections too.
            text, of_jax = str(error), isinstance(error, jax.errors.JaxRuntimeError)
            of_xla = of_jax or (isinstance(error, ValueError) and _STATUS.match(text))
            if (of_xla and _LOST.search(text)) or (of_jax and _BROKEN.search(text)):
                return True
            error = error.__cause__ or error.__context__
        return False

    def _read_beats(self) -> dict[int, str]:
        found = self._client.key_value_dir_get("tonsai/beats/")
        return {int(key.rpartition("/")[2]): text for key, text in found}


def _where(beat: dict[str, Any]) -> str:
    return f" (at step {beat['step']}, {beat['doing']})" if beat else ""


def _parsed(text: str) -> dict[str, Any]:
    return json.loads(text) if text else {}
