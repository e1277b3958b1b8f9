"""Reads the values of a manifest by name and type, and says which one is wrong."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError


class Fields:
    """One group of `key: value` of a manifest.

    Every method raises `UserError`, which names the file and the key, for a value that is missing or of a wrong type.

    Args:
      value: the group, as JSON gives it.
      path: the file.
      where: the keys that lead to the group, such as "sources.khmer.".
    """

    def __init__(self, value: Any, path: Path, where: str = "") -> None:
        self.path = path
        self._where = where
        if not isinstance(value, dict):
            raise self._damaged(f"{where.rstrip('.') or 'it'} is {value!r}, not a group of keys")
        self.value: dict[str, Any] = value

    def whole(self, key: str, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        found = self._get(key)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            raise self.wrong(key, f"a whole number of at least {least}")
        return found

    def number(self, key: str) -> float:
        """A number, which may be negative, infinite or NaN."""
        found = self._get(key)
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self.wrong(key, "a number")
        try:
            return float(found)
        except OverflowError:
            return math.inf

    def text(self, key: str, among: Iterable[str] = ()) -> str:
        """A text that is not empty; one of `among` if there are any."""
        found, known = self._get(key), tuple(among)
        if not isinstance(found, str) or not found or (known and found not in known):
            raise self.wrong(key, f"one of {', '.join(known)}" if known else "text")
        return found

    def text_or_none(self, key: str) -> str | None:
        """A text, or None where there is none."""
        return None if self.value.get(key) is None else self.text(key)

    def sha256(self, key: str) -> str:
        """A SHA-256 in hex."""
        found = self.text(key)
        if not re.fullmatch("[0-9a-f]{64}", found):
            raise self.wrong(key, "a SHA-256 of 64 hex digits")
        return found

    def group(self, key: str) -> "Fields":
        """A group in this one."""
        return Fields(self._get(key), self.path, f"{self._where}{key}.")

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        found = self._get(key)
        if not isinstance(found, list):
            raise self.wrong(key, "a list")
        return found

    def groups(self, key: str) -> list["Fields"]:
        """A list of groups."""
        return [
            Fields(each, self.path, f"{self._where}{key}[{number}].") for number, each in enumerate(self.items(key))
        ]

    def no_others(self, known: Iterable[str]) -> None:
        """Raises `UserError` for a key that is not known."""
        for key in self.value.keys() - set(known):
            raise self._damaged(f"unknown key {self._where}{key}")

    def wrong(self, key: str, wanted: str) -> UserError:
        """The error for a value that is not what it should be."""
        return self._damaged(f"{self._where}{key} is {self.value[key]!r}, not {wanted}")

    def _get(self, key: str) -> Any:
        if key not in self.value:
            raise self._damaged(f"no {self._where}{key}")
        return self.value[key]

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: damaged manifest ({what}); make it again with the command that wrote it")
