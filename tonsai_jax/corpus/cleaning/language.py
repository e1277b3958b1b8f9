"""Which language a text is in, as a fastText model says; `text/scripts.py` tells languages apart by their script alone."""

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.text.scripts import SHORT_TAGS

_MODEL_CHARACTERS = 10_000  # of a text that a model looks at
_MAGIC = 793712314  # what a fastText model begins with


@dataclass(frozen=True)
class LanguageModel:
    """A fastText model that tells languages apart, such as GlotLID or lid.176 (.bin or .ftz).

    It can be pickled: each process opens the file at `path` once, when it first asks. Raises `UserError` at once where
    the file is missing, damaged or no such model, or where fastText is not installed.
    """

    path: str

    def __post_init__(self) -> None:
        _check_model(self.path)
        _fasttext(self.path)

    def predict(self, text: str) -> tuple[str, float]:
        """The most likely language of a text and its probability; ("und", 0.0) where there is nothing to go by.

        The language is a tag as sources have it: `km` for the labels `__label__khm_Khmr` and `__label__km`, the first
        part of the label where it has no shorter name. Only the first 10,000 characters are looked at.
        """
        line = text[:_MODEL_CHARACTERS].replace("\n", " ").encode("utf-8", "ignore").decode("utf-8")
        labels, probabilities = _opened(self.path).predict(line)
        if not labels or not line.strip():
            return "und", 0.0
        return _tag(labels[0]), min(float(probabilities[0]), 1.0)  # rounding can take it a little above 1


def _tag(label: str) -> str:
    name = label.removeprefix("__label__").replace("-", "_").split("_")[0]
    return SHORT_TAGS.get(name, name)


@functools.cache
def _opened(path: str) -> Any:
    try:
        return _fasttext(path).load_model(path)
    except (ValueError, MemoryError, RuntimeError) as error:
        raise UserError(f"{path}: {_damaged(f'{error.__class__.__name__}: {error}')}") from error


def _fasttext(path: str) -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise UserError(
            f"{path}: a language model needs fastText, which is not installed; uv sync --extra langid "
            "(without a model the script of the text is looked at)"
        ) from error
    return fasttext


def _damaged(reason: str) -> str:
    return f"not a fastText model, or damaged ({reason}); download it again"


def _check_model(path: str) -> None:
    """Raises `UserError` for a file that is no model or was cut off: fastText opens the latter and tells nonsense.

    At the end of the file stands a matrix with one row for each label and `dim` columns; its shape, before its values,
    must be where the size of the file says it is. Layout: https://github.com/facebookresearch/fastText, src/matrix.
    """
    try:
        with Path(path).open("rb") as file:
            header = file.read(76)
            size = file.seek(0, 2)
            if len(header) < 76 or struct.unpack_from("<i", header)[0] != _MAGIC:
                raise UserError(f"{path}: {_damaged('it does not begin like one')}")
            dim, labels = struct.unpack_from("<i", header, 8)[0], struct.unpack_from("<i", header, 72)[0]
            # Quantized: two columns a code, 256 centroids of dim values; perhaps norms too, one code a row.
            codes = 4 + labels * -(-dim // 2) + 16 + 256 * dim * 4
            for values in (labels * dim * 4, codes, codes + labels + 16 + 256 * 4):
                if size >= 76 + 16 + values:
                    file.seek(size - values - 16)
                    if file.read(16) == struct.pack("<qq", labels, dim):
                        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    raise UserError(f"{path}: {_damaged(f'cut off at {size:,} bytes')}")
