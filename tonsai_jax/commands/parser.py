"""The parser of a command's flags: a mistake in them is one line, as every other mistake."""

import argparse
from typing import NoReturn

from tonsai_jax.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of its texts, and raises `UserError` where argparse would print its usage."""

    def __init__(self, *, description: str | None, epilog: str, allow_abbrev: bool = True) -> None:
        super().__init__(
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=allow_abbrev,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")
