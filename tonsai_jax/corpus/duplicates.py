"""Exact duplicates: of documents that are equal after cleaning, the first one in the order of the sources stays."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tonsai_jax.errors import UserError
from tonsai_jax.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Deduplication:
    """What is done about duplicates, by the keys under `deduplicate:` in a sources file."""

    exact: bool = False  # documents that are equal after cleaning: keep the first, by the order of the sources

    def __post_init__(self) -> None:
        if not isinstance(self.exact, bool):
            raise UserError(f"deduplicate: exact is {self.exact!r}; it must be true or false")


def text_hash(encoded: bytes) -> int:
    """64 bits of a text's hash: among n texts some two share theirs by chance with n^2 / 2^65, 1 in 3,700 at 100 million."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def find_duplicates(keys: tuple[str, ...], path: Path) -> dict[str, Any]:
    """A task: which documents of the cleaned parts `keys`, in order, come for the first time.

    Writes `path`.npy, a bool for each document of all parts; reads the column `hash` (uint64) of each part. Takes some 25
    bytes of memory a document.
    """
    hashes = [
        pq.read_table(path.parent.parent / "clean" / f"{key}.parquet", columns=["hash"]).column("hash").to_numpy()
        for key in keys
    ]
    together = np.concatenate(hashes)
    first = np.zeros(len(together), np.bool_)
    first[np.unique(together, return_index=True)[1]] = True
    with atomic_write(path.with_suffix(".npy")) as partial, partial.open("wb") as file:
        np.save(file, first)
    starts = np.cumsum([0, *(len(part) for part in hashes)])
    return {"starts": starts[:-1].tolist(), "duplicates": int(len(first) - first.sum())}
