"""A signal is a request first; only a second Ctrl-C ends the process at once."""

import signal
from collections.abc import Iterator

import pytest

from tonsai_jax.runtime.signals import StopRequest


@pytest.fixture
def request_to_stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_by_its_name(request_to_stop: StopRequest, number: signal.Signals) -> None:
    assert request_to_stop.name is None
    signal.raise_signal(number)
    assert request_to_stop.name == number.name


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(request_to_stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
