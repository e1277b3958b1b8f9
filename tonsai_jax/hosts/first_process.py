"""Work that only the first process of a run does, such as an export, while the others wait for it."""

from collections.abc import Callable
from itertools import count
from typing import Any

import jax

from tonsai_jax.errors import EXIT_TEMPORARY, TemporaryError, UserError, exit_code
from tonsai_jax.hosts.key_values import key_value_store

_POLL_MILLISECONDS = 10_000
_calls = count()  # names each call; all processes make the same calls in the same order
_works_alone = False


def works_alone() -> bool:
    """Whether this process is inside `on_first_process`: what it calls must not wait for the other processes."""
    return _works_alone


def on_first_process(work: Callable[[], None]) -> None:
    """Does `work` on the first process while the others wait; all must call it together.

    There is no limit here; in a trainer, that of its watchdog holds for all of them (`hosts.pause_seconds`).

    The others wait without a collective, so their devices are free and nothing times out. What `work` computes must be on
    devices of its own process.

    Raises what `work` raised, and on the other processes a `UserError` with the same message (a `TemporaryError` where it was
    one, or where the first process has died).
    """
    if jax.process_count() == 1:
        work()
        return
    client = key_value_store()
    name = f"tonsai_jax/on_first_process/{next(_calls)}"
    if jax.process_index() != 0:
        _wait(client, name)
        return
    try:
        _work_alone(work)
    except BaseException as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        client.key_value_set(name, f"{exit_code(error)} the first process ended: {what}")
        raise
    client.key_value_set(name, "0 done")


def _work_alone(work: Callable[[], None]) -> None:
    global _works_alone
    _works_alone = True
    try:
        work()
    finally:
        _works_alone = False


def _wait(client: Any, name: str) -> None:
    """Returns when the first process has set the key to "0 done"; raises what else it says."""
    while True:
        try:
            code, _, message = client.blocking_key_value_get(name, _POLL_MILLISECONDS).partition(" ")
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise TemporaryError(
                    f"the first process cannot be reached any more ({str(error).splitlines()[0]})"
                ) from error
    if code != "0":
        raise (TemporaryError if int(code) == EXIT_TEMPORARY else UserError)(message)
