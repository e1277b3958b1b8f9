"""A fastText model of a few words, small enough to be written by a test."""

import struct
from pathlib import Path

LABELS = ("__label__khm_Khmr", "__label__en", "__label__cmn_Hani", "__label__nds_Latn")
MODEL_WORDS = ("ខ្មែរ", "hello", "你好", "moin")


def write_model(path: Path, words: tuple[str, ...]) -> Path:
    """A model that knows a word for each label: written here, because the package that is needed cannot train.

    Layout: magic, version, 12 settings, the dictionary, then for each word a vector and for each label one.
    """
    dim = len(LABELS)
    settings = (dim, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # ..., softmax, supervised, no buckets, no n-grams
    content = struct.pack("<ii12id", 793712314, 12, *settings, 0.0)
    content += struct.pack("<iiiqq", len(words) + dim, len(words), dim, 100, -1)
    for kind, names in enumerate((words, LABELS)):
        for name in names:
            content += name.encode() + b"\0" + struct.pack("<qb", 10, kind)
    for rows, size in ((len(words), 10.0), (dim, 1.0)):
        content += struct.pack("<?qq", False, rows, dim)
        content += b"".join(struct.pack("<f", size * (row == column)) for row in range(rows) for column in range(dim))
    path.write_bytes(content)
    return path
