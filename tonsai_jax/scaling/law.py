"""The scaling law: bits per byte of a language from the size of the model, the text that it reads, and how often it reads it.

    bits_per_byte = E + A * N^-alpha + B * (D0 + D)^-beta

N is the number of parameters in the layers, in millions, and D the effective text of the language, in MB (10^6 bytes of UTF-8).
So E is what no model gets below, and A what a model of 1 M parameters adds to it. The form is that of arXiv:2203.15556, but for
D0: without it the score of a model that has read nothing would be infinite, and runs of minutes lie in the bend before the power
law (docs/plan.md). Text is counted in bytes and not in tokens, because bytes do not depend on the tokenizer.

    D = own / (1 + P * (epochs - 1)^2 * (N / U)^0.5) + transfer * others

The language has U MB of text, and the run reads it so many epochs long. `own` and `others` are the effective text of the
language and of the other ones: each repetition counts less than the one before it (arXiv:2305.16264). Text of the other
languages counts at a rate of exchange, the transfer (the idea is that of arXiv:2102.01293, in the simplest form). P is
overfitting: a model memorizes a text that it reads again and again, earlier the larger it is for the text, and from then on
each reading raises the bits per byte of held-out text. The form and the powers of this term were chosen on measured runs
(docs/plan.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = float | NDArray[np.float64]

MILLION = 1e6
REPETITION = 15.4  # R* of arXiv:2305.16264: a text is worth at most 1 + R* times itself, however often it is read


class Text(NamedTuple):
    """What is read of a language, in UTF-8 bytes; numbers, or arrays [runs].

    Attributes:
      unique: bytes of the text, each counted once.
      read: bytes that the run reads, repetitions included; read / unique are the epochs.
    """

    unique: Numbers
    read: Numbers


@dataclass(frozen=True)
class Law:
    """The law of one language; the attributes are the letters of the formula above.

    Attributes:
      floor, size_factor, size_power, text_factor, text_power, text_start: E, A, alpha, B, beta and D0.
      transfer: bytes of this language that a byte of another language is worth.
      overfitting: P, how soon a text that is read again and again is memorized.
      most_others: text of other languages counts up to this multiple of the own; more helps by an amount that no run has shown.
    """

    floor: float
    size_factor: float
    size_power: float
    text_factor: float
    text_power: float
    text_start: float
    transfer: float
    overfitting: float
    most_others: float = math.inf

    def bits_per_byte(self, layer_parameters: Numbers, language: str, texts: Mapping[str, Text]) -> NDArray[np.float64]:
        """The prediction, for numbers or arrays [runs].

        Args:
          layer_parameters: of the model, without embeddings.
          language: whose law this is, one of `texts`.
          texts: what is read, by language.
        """
        text, size = texts[language], np.asarray(layer_parameters)
        own = effective_bytes(text)
        others = [effective_bytes(text) for name, text in texts.items() if name != language]
        counted = np.minimum(sum(others, np.zeros(())), self.most_others * own)
        memorized = self.overfitting * repetitions(text) ** 2 * np.sqrt(size / np.maximum(text.unique, 1.0))
        megabytes = (own / (1.0 + memorized) + self.transfer * counted) / MILLION
        of_size = self.size_factor * (size / MILLION) ** -self.size_power
        return self.floor + of_size + self.text_factor * (self.text_start + megabytes) ** -self.text_power


def repetitions(text: Text) -> NDArray[np.float64]:
    """The epochs after the first one."""
    return np.maximum(text.read / np.maximum(text.unique, 1.0) - 1.0, 0.0)


def effective_bytes(text: Text) -> NDArray[np.float64]:
    """Bytes of new text that are worth as much as `text` with its repetitions (arXiv:2305.16264, equation 5).

    U + U * R * (1 - exp(-(epochs - 1) / R)): up to a few epochs nearly what is read, in the end (1 + R) * U.
    """
    unique, read = np.asarray(text.unique, np.float64), np.asarray(text.read, np.float64)
    return np.minimum(unique, read) + unique * REPETITION * -np.expm1(-repetitions(text) / REPETITION)
