"""Marks: for each token of a row of conversations, whether it is learned and whether a segment begins there.

ANSWER: the token is part of an answer. Only such tokens are learned as targets.
BEGIN: a segment begins, which is a conversation or the padding at the end of a row. No token attends to another segment.
"""

from collections.abc import Sequence

import numpy as np

ANSWER, BEGIN = np.uint8(1), np.uint8(2)


def marks_of(answers: Sequence[bool]) -> np.ndarray:
    """The marks of one conversation: uint8, as long as `answers`."""
    marks = np.array(answers, np.uint8) * ANSWER
    marks[0] |= BEGIN
    return marks


def marks_of_text(ids: np.ndarray, end_of_text_id: int | None) -> np.ndarray:
    """The marks of a window of plain text, in a batch together with conversations: every token is learned.

    Args:
      end_of_text_id: begins a segment, as in `document_mask`; None where documents are not kept apart.
    """
    marks = np.full(ids.shape, ANSWER, np.uint8)
    if end_of_text_id is not None:
        marks[ids == end_of_text_id] |= BEGIN
    return marks
