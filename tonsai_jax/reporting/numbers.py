"""Numbers as people read them."""


def format_seconds(seconds: float) -> str:
    """'45s', '3m 05s', '2h 10m', '4d 03h'."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def count_of(number: int, noun: str) -> str:
    """'1 step', '1,200 steps': the number with its noun, which takes an s in the plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_count(count: float) -> str:
    """'853', '9.4k', '124M', '1.5B'."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.0f}{unit}" if count >= 100 * size else f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def format_known(value: float | None, spec: str) -> str:
    """`format(value, spec)`, or '-' for a value that is not known."""
    return "-" if value is None else format(value, spec)
