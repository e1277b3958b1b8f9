"""Text that is shown while it is generated: what of it can be shown already, and where a stop text ends it."""

import re
from collections.abc import Sequence

from tonsai_jax.text.syllables import OPEN_SYLLABLE
from tonsai_jax.tokenizer.loading import Tokenizer

CUT_CHARACTER = "\ufffd"  # decoded from bytes that are not a whole character

# Emoji that may go on: a flag is two regional indicators; other emoji take modifiers, and others after a zero-width joiner.
_FLAG = "[\U0001f1e6-\U0001f1ff]+"
_PICTOGRAPH = (
    "[\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u27bf\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_MODIFIER = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_OPEN_EMOJI = f"{_FLAG}|{_PICTOGRAPH}{_MODIFIER}*(?:\u200d(?:{_PICTOGRAPH}{_MODIFIER}*)?)*"
_OPEN_END = re.compile(f"(?:{OPEN_SYLLABLE}|{_OPEN_EMOJI})\\Z")


class TextStream:
    """Turns ids into text piece by piece; the pieces joined are the whole text, up to the first stop text.

    A piece ends between two orthographic syllables of Khmer and between two emoji: the last one is held back until the next
    character shows that it is complete, as is text that may be the beginning of a stop text.

    Args:
      stop: texts that end this one; of several, the one that is complete first.
      prefix: left out if the text begins with it.

    Attributes:
      stopped: whether a stop text was found; then no more text follows.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), prefix: str = "") -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._prefix = prefix
        self._ids: list[int] = []  # decoded together until they end with a whole character
        self._decoded = 0  # number of characters of these ids that are in `_held` or were returned
        self._held = ""

    def add(self, id: int) -> str:
        """The text that can be shown after this id, often empty."""
        if self.stopped:
            return ""
        text = self._decode(id)
        if text and self._prefix:
            text, self._prefix = text.removeprefix(self._prefix), ""
        self._held += text
        ends = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._take(min(ends)[1])
        undecided = min((_start_of_beginning(self._held, stop) for stop in self._stop), default=len(self._held))
        # The character after the decided text shows whether a syllable ends there.
        match = _OPEN_END.search(self._held[: undecided + 1])
        assert match is not None  # it matches at the end of any text
        return self._take(min(undecided, match.start()))

    def finish(self) -> str:
        """What is still held back, at the end of the ids. A character that lacks bytes is left out."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, length: int) -> str:
        piece, self._held = self._held[:length], self._held[length:]
        return piece

    def _decode(self, id: int) -> str:
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids)
        whole = text.removesuffix(CUT_CHARACTER)  # the next bytes may complete the last character
        piece = whole[self._decoded :]
        self._decoded = len(whole)
        if whole == text:
            self._ids, self._decoded = [], 0
        return piece


def _start_of_beginning(text: str, stop: str) -> int:
    """Where the longest end of `text` begins that is a beginning of `stop`; the length of `text` where there is none."""
    return next(
        start for start in range(max(0, len(text) - len(stop) + 1), len(text) + 1) if stop.startswith(text[start:])
    )
