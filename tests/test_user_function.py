"""Tests of tonsai_jax/user_function.py; what a function gives is tested with rewards and toxicity."""

import pytest

from tonsai_jax.errors import UserError
from tonsai_jax.user_function import user_function


@pytest.mark.parametrize("name", ["mine", "mine:", ":score", ""])
def test_a_name_without_module_or_function_is_told_the_form(name: str) -> None:
    with pytest.raises(UserError, match=r"--reward=.*: write MODULE:FUNCTION"):
        user_function("--reward", name, "answer")
