"""What the first process of a run does alone: the others wait for it, and learn how it ended."""

import errno
import time

import jax
import pytest

from tests.support.eight_devices import run_on_two_processes_of_four_devices
from tonsai_jax.errors import TemporaryError, UserError
from tonsai_jax.hosts.first_process import on_first_process, works_alone
from tonsai_jax.hosts.processes import hosts_of_devices


def fail(error: Exception) -> None:
    raise error


def check_two_processes() -> None:
    assert hosts_of_devices() == [0] * 8
    is_first, done = jax.process_index() == 0, []

    def work() -> None:
        assert works_alone()
        time.sleep(1)
        done.append(jax.jit(lambda x: x + 1)(1))  # on a device of its own

    began = time.monotonic()
    on_first_process(work)
    assert time.monotonic() - began >= 0.9
    assert len(done) == is_first
    assert not works_alone()

    for error, wanted in (
        (UserError("the disk is full"), UserError),
        (TemporaryError("the storage is away"), TemporaryError),
        (OSError(errno.EIO, "Input/output error"), OSError if is_first else TemporaryError),
        (KeyError("a bug"), KeyError if is_first else UserError),
    ):
        with pytest.raises(wanted) as raised:
            on_first_process(lambda error=error: fail(error))  # type: ignore[misc]
        assert type(raised.value) is wanted
        assert str(error) in str(raised.value)


@pytest.mark.full
def test_the_others_wait_for_the_first_process_and_fail_with_it() -> None:
    run_on_two_processes_of_four_devices(check_two_processes)


def test_in_a_run_of_one_process_it_is_only_called() -> None:
    done: list[bool] = []
    on_first_process(lambda: done.append(works_alone()))
    assert done == [False]
