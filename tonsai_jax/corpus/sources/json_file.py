"""The records of a .json file, one at a time: a file is never in memory as a whole, however long its array is."""

import io
import json
from collections.abc import Iterator
from typing import IO, Any

_CHUNK = 1 << 20  # characters
_LONGEST_WORD = 12  # of JSON: where less is left of the text, a word such as `false` may go on in the next chunk


class BrokenJsonError(Exception):
    """The file is not JSON from some place on; what comes later cannot be found."""


class LongValueError(Exception):
    """A record is longer than the limit; `size` is the number of bytes of it that were read."""

    def __init__(self, size: int):
        self.size = size


def json_values(stream: IO[bytes], limit: int) -> Iterator[tuple[Any, str]]:
    """Gives (value, its JSON text) for each element of an array, or for each of several values in a row, as jsonl has them.

    Bytes that are not UTF-8 become lone surrogates in the text (`surrogateescape`). `limit` is the greatest number of characters
    of a value. Raises `BrokenJsonError` and `LongValueError`, after the values before that place.
    """
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    decode = json.JSONDecoder().raw_decode
    buffer, at, in_array = "", 0, False

    def has_more() -> bool:
        nonlocal buffer, at
        # At least as much again as there is of the value: then it is decoded a few times only, however long it is.
        more = text.read(max(_CHUNK, len(buffer) - at))
        if more:
            buffer, at = buffer[at:] + more, 0
        return bool(more)

    is_first = True
    while True:
        while at < len(buffer) and (buffer[at].isspace() or (in_array and buffer[at] == ",")):
            at += 1
        if at == len(buffer):
            if has_more():
                continue
            if in_array:
                raise BrokenJsonError("the file ends before its array does")
            return
        if is_first and buffer[at] == "[":
            in_array, is_first, at = True, False, at + 1
            continue
        is_first = False
        if in_array and buffer[at] == "]":
            return
        try:
            value, end = decode(buffer, at)
        except RecursionError as error:
            raise BrokenJsonError("too many brackets inside each other") from error
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos > len(buffer) - _LONGEST_WORD
            if is_cut and len(buffer) - at <= limit and has_more():
                continue
            if is_cut and len(buffer) - at > limit:
                raise LongValueError(len(buffer[at:].encode("utf-8", "surrogateescape"))) from error
            raise BrokenJsonError(error.msg) from error
        if end == len(buffer) and has_more():  # a number may go on
            continue
        yield value, buffer[at:end]
        at = end
