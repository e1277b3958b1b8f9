"""Flipped bits, drawn from a seed, and what a reader must say of them."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tonsai_jax.errors import UserError


def with_a_flipped_bit(content: bytes, chance: random.Random) -> bytes:
    """The same bytes but for one bit."""
    flipped = bytearray(content)
    flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def assert_no_flip_is_silent(path: Path, read: Callable[[], object], *, flips: int) -> None:
    """Asserts that `read` names `path` in one line for each of many flipped bits in it, and reads it again afterwards."""
    whole, chance = path.read_bytes(), random.Random(15)
    for _ in range(flips):
        path.write_bytes(with_a_flipped_bit(whole, chance))
        with pytest.raises(UserError) as raised:
            read()
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    read()
