"""Which tokens of a new vocabulary the old one has too: their embeddings are carried over as they are."""

import numpy as np

from tonsai_jax.tokenizer.any_tokenizer import BYTES, SPECIAL, AnyTokenizer
from tonsai_jax.tokenizer.loading import Tokenizer


def carried_over(old: Tokenizer, new: Tokenizer) -> np.ndarray:
    """For every new id the old id that it continues, or -1: int32 (new.vocab_size,).

    A token continues the old token with the same bytes, however the two tokenizers spell it; where several have them (the letter
    A and the byte 0x41 of a byte fallback), the one of the same kind, and the same id if that is one of them. A special token
    continues the one of the same name, or else of the same role: end of text, padding.
    """
    of_old, of_new = AnyTokenizer.from_path(old.folder), AnyTokenizer.from_path(new.folder)
    by_bytes: dict[tuple[bytes, bool], int] = {}
    by_name: dict[str, int] = {}
    for id, (piece, kind) in enumerate(zip(of_old.pieces, of_old.kinds, strict=True)):
        if kind == SPECIAL:
            by_name[of_old.token(id)] = id
        elif piece:
            by_bytes.setdefault((piece, kind == BYTES), id)
    roles = {new.end_of_text_id: old.end_of_text_id}
    roles.setdefault(new.pad_id, old.pad_id)
    sources = np.full(new.vocab_size, -1, np.int32)
    for id, (piece, kind) in enumerate(zip(of_new.pieces, of_new.kinds, strict=True)):
        if kind == SPECIAL:
            sources[id] = by_name.get(of_new.token(id), roles.get(id, -1))
        elif piece and id < len(of_old.pieces) and (of_old.pieces[id], of_old.kinds[id]) == (piece, kind):
            sources[id] = id
        elif piece:
            is_byte = kind == BYTES
            sources[id] = by_bytes.get((piece, is_byte), by_bytes.get((piece, not is_byte), -1))
    return sources
