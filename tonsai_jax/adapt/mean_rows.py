"""New rows as the mean of the old pieces' rows: the text of a new token is encoded with the old tokenizer.

Every way to make rows from old rows is a matrix of weights: it is applied to the embedding and, where it is a table of its own,
to the output head.
"""

import numpy as np
import scipy.sparse

from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer, is_text
from tonsai_jax.tokenizer.loading import Tokenizer


def mean_weights(old: Tokenizer, new: Tokenizer, ids: np.ndarray, old_size: int) -> scipy.sparse.csr_array:
    """The weights of the old rows in each new row: float32 (len(ids), old_size); each row adds up to 1.

    A token that is no whole character is the mean of its bytes. One that stands for no text (a special token without a role in
    the old tokenizer) is the mean of all old rows: nothing is known about it.

    Args:
      ids: the new ids whose rows are made, int (n,).
      old_size: number of old ids that have a row.
    """
    byte_ids = {piece: id for id, piece in enumerate(old.pieces) if len(piece) == 1}
    real = [id for id, kind in enumerate(AnyTokenizer.from_path(old.folder).kinds[:old_size]) if kind]
    rows, columns, values = [], [], []
    for row, id in enumerate(ids.tolist()):
        piece = new.pieces[id]
        if not piece:
            parts = real
        elif is_text(piece):
            parts = _old_pieces(old, piece.decode())
        else:
            parts = [byte_ids[bytes([byte])] for byte in piece]
        rows += [row] * len(parts)
        columns += parts
        values += [1 / len(parts)] * len(parts)
    shape = (len(ids), old_size)
    return scipy.sparse.coo_array((np.array(values, np.float32), (rows, columns)), shape=shape).tocsr()


def _old_pieces(old: Tokenizer, text: str) -> list[int]:
    """The ids of a text that stands inside another one, where the tokenizer puts nothing before it."""
    if old.prefix and text.startswith(old.prefix) and text != old.prefix:
        return old.encode(text.removeprefix(old.prefix))
    ids = old.encode(text)
    return ids[1:] if len(ids) > 1 and old.prefix and old.pieces[ids[0]] == old.prefix.encode() else ids
