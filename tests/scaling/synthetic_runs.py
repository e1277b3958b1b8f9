"""Runs whose scores follow a known law, with a little noise that is the same at each call."""

import itertools

import numpy as np

from tonsai_jax.scaling.law import Law, Text
from tonsai_jax.scaling.runs import MeasuredRun

LAWS = {
    "en": Law(0.5, 0.35, 0.35, 1.6, 0.22, 0.2, 0.1, 0.02),
    "km": Law(0.25, 0.12, 0.3, 0.6, 0.25, 1.0, 0.3, 0.03),
}
UNIQUE = {"en": 25e6, "km": 1e6}
BYTES_PER_TOKEN = {"en": 3.6, "km": 10.0}
SIZES = (2e5, 8e5, 1.8e6)
TOKENS = (5e5, 1.5e6, 4.6e6)
KHMER_SHARES = (0.2, 0.5, 0.8)


def run_of(size: float, tokens: float, khmer_share: float, *, noise: float = 0.0, level: float = 1.0) -> MeasuredRun:
    shares = {"en": 1 - khmer_share, "km": khmer_share}
    texts = {name: Text(UNIQUE[name], tokens * shares[name] * BYTES_PER_TOKEN[name]) for name in LAWS}
    scores = {
        name: level * float(law.bits_per_byte(size, name, texts)) * float(np.exp(noise)) for name, law in LAWS.items()
    }
    return MeasuredRun(
        f"runs/{size:g}_{tokens:g}_{khmer_share}", int(size), texts, BYTES_PER_TOKEN, 8000, "muon", 0.0, scores
    )


def grid(sizes: tuple[float, ...] = SIZES, *, noise: float = 0.003, seed: int = 7) -> list[MeasuredRun]:
    """A run for each size, length and share of Khmer; `noise` is the standard deviation of log bits per byte."""
    rng = np.random.default_rng(seed)
    return [
        run_of(*each, noise=noise * float(rng.standard_normal()))
        for each in itertools.product(sizes, TOKENS, KHMER_SHARES)
    ]
