"""Language identification by a fastText model. `text/scripts.py` has the simpler way, by the script of a text."""

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tonsai_jax.errors import UserError
from tonsai_jax.text.scripts import SHORT_TAGS

_MODEL_CHARACTERS = 10_000  # of a text, given to the model
_MAGIC = 793712314  # the first four bytes of a fastText model, as an int32


@dataclass(frozen=True)
class LanguageModel:
    """A fastText model for language identification, such as GlotLID or lid.176 (.bin or .ftz).

    It can be pickled: each process loads the file at `path` once, when it first predicts. Raises `UserError` if the file is
    missing, damaged or not such a model, or if fastText is not installed.
    """

    path: str

    def __post_init__(self) -> None:
        _check_model(self.path)
        _fasttext(self.path)

    def predict(self, text: str) -> tuple[str, float]:
        """The most likely language of a text and its probability, 0 to 1; ("und", 0.0) for a text without content.

        The language is a tag like those of sources: `km` for the labels `__label__khm_Khmr` and `__label__km`; the first part
        of the label if the language has no two-letter tag. Only the first 10,000 characters are used.
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
            f"{path}: a language model needs fastText, which is not installed; install it with: uv sync --inexact --extra langid "
            "(without `language_model`, the script of the text is used)"
        ) from error
    return fasttext


def _damaged(reason: str) -> str:
    return f"not a fastText model, or damaged ({reason}); download it again"


def _check_model(path: str) -> None:
    """Raises `UserError` if a file is not a model or is truncated. fastText loads a truncated file and predicts nonsense.

    The file ends with a matrix of one row per label and `dim` columns. Its shape is stored before its values, so it must be at
    the place that follows from the size of the file. Layout: https://github.com/facebookresearch/fastText, src/matrix.
    """
    try:
        with Path(path).open("rb") as file:
            header = file.read(76)
            size = file.seek(0, 2)
            if len(header) < 76 or struct.unpack_from("<i", header)[0] != _MAGIC:
                raise UserError(f"{path}: {_damaged('it does not begin like a model')}")
            dim, labels = struct.unpack_from("<i", header, 8)[0], struct.unpack_from("<i", header, 72)[0]
            # Quantized: a code per two columns, 256 centroids of dim values; optionally norms, a code per row.
            codes = 4 + labels * -(-dim // 2) + 16 + 256 * dim * 4
            for values in (labels * dim * 4, codes, codes + labels + 16 + 256 * 4):
                if size >= 76 + 16 + values:
                    file.seek(size - values - 16)
                    if file.read(16) == struct.pack("<qq", labels, dim):
                        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    raise UserError(f"{path}: {_damaged(f'it is truncated at {size:,} bytes')}")
