"""Numbers as people read them."""

import pytest

from tonsai_jax.reporting.numbers import count_of


@pytest.mark.parametrize(("number", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1200, "1,200 steps")])
def test_one_is_singular(number: int, text: str) -> None:
    assert count_of(number, "step") == text
