"""Bits per byte on held-out text, per source and per language.

Bits per byte is the model's loss on a text, in bits, divided by the UTF-8 bytes of the text. Lower is better. It can be
compared between models with different tokenizers. Perplexity cannot: it is per token, and the same text has more tokens
in one tokenizer than in another.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import open_rows, read_window, window_count
from tonsai_jax.training.mesh import put_batch


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over a text. End-of-text tokens do not count.

    Attributes:
      nats: loss, in nats.
      tokens: number of targets.
      bytes: UTF-8 bytes of these targets.
    """

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def bits_per_byte(self) -> float:
        """nats / ln(2) / bytes, or NaN without text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens), or NaN without text. An exponent over 700 counts as 700, so that exp does not overflow."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else math.nan


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of every source that has validation text, and of every language of these sources."""

    sources: dict[str, Score]
    languages: dict[str, Score]

    @property
    def bits_per_byte(self) -> float:
        """The mean over languages, all with the same weight, or NaN without text."""
        scores = [score.bits_per_byte for score in self.languages.values()]
        return sum(scores) / len(scores) if scores else math.nan

    @property
    def score(self) -> float:
        """The number by which checkpoints are compared; lower is better."""
        return self.bits_per_byte

    def scalars(self) -> dict[str, float]:
        """Returns the scores as metrics: eval/bits_per_byte, eval/bits_per_byte/km, eval/perplexity/source/wiki, ..."""
        if not self.sources:
            return {}
        values = {"eval/bits_per_byte": self.bits_per_byte}
        for prefix, scores in (("", self.languages), ("source/", self.sources)):
            for name, score in scores.items():
                values[f"eval/bits_per_byte/{prefix}{name}"] = score.bits_per_byte
                values[f"eval/perplexity/{prefix}{name}"] = score.perplexity
        return values

    def table(self) -> str:
        """The scores as a table for the terminal: a line for each source and for each language."""
        # Imported here: it loads a library that training does without.
        from tonsai_jax.reporting.tables import Table, as_text

        rows = [
            [
                f"{kind} {name}",
                f"{score.bits_per_byte:.4f}",
                f"{score.perplexity:.2f}",
                f"{score.tokens:,}",
                f"{score.bytes:,}",
            ]
            for kind, scores in (("source", self.sources), ("language", self.languages))
            for name, score in scores.items()
        ]
        return as_text(Table("", ["", "bits/byte", "perplexity", "tokens", "bytes"], rows, "lrrrr"))


def evaluate(
    eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
    params: Any,
    manifest: RowsManifest,
    mesh: Mesh,
    *,
    seq_len: int,
    batch_size: int,
    max_windows: int,
    leave_out: Collection[str] = (),
) -> Evaluation:
    """Scores the validation split of every source that has one. All processes together read each window once.

    Args:
      eval_step: the function that `make_eval_step` returns.
      params: the model's parameters, as `eval_step` takes them.
      manifest: the token rows.
      mesh: the devices.
      seq_len: tokens in a window; must divide the rows' row_tokens.
      batch_size: windows in a batch over all devices; must be divisible by the number of processes.
      max_windows: windows of each source, spread evenly over its validation text; 0 means all.
      leave_out: sources that are not scored.

    Raises:
      UserError: seq_len does not divide row_tokens, or a file is missing or damaged.
    """
    from tonsai_jax.reporting.progress_bar import progress_bar  # here: a training run starts without it

    sources: dict[str, Score] = {}
    languages: dict[str, Score] = {}
    chosen = {
        name: _windows(manifest, name, seq_len, max_windows) for name in manifest.sources if name not in leave_out
    }
    with progress_bar(
        "evaluating", unit=" windows", total=sum(map(len, chosen.values())), wanted=jax.process_index() == 0
    ) as bar:
        for name in chosen:
            total = Score()
            for number, batch in enumerate(_batches(manifest, name, chosen[name], seq_len, batch_size)):
                sums = jax.device_get(eval_step(params, put_batch(batch, mesh)))
                total += Score(float(sums["nats"]), int(sums["tokens"]), int(sums["bytes"]))
                bar.update(min(batch_size, len(chosen[name]) - number * batch_size))
            if total.bytes:
                sources[name] = total
                language = manifest.sources[name].language
                languages[language] = languages.get(language, Score()) + total
    return Evaluation(sources, languages)


def _windows(manifest: RowsManifest, source: str, seq_len: int, max_windows: int) -> np.ndarray:
    """The numbers of the windows of a source that are scored; (windows,) int64."""
    if manifest.sources[source].kind == "pairs":
        return np.arange(0)  # a rejected answer is not what a model should say
    if manifest.sources[source].is_packed and seq_len != manifest.row_tokens:
        return np.arange(0)  # packed rows are not cut: they are scored in stages that train on whole rows
    count = window_count(open_rows(manifest, source, "validation"), seq_len)
    if max_windows and count > max_windows:
        return np.linspace(0, count - 1, max_windows).astype(np.int64)
    return np.arange(count)


def _batches(
    manifest: RowsManifest, source: str, numbers: np.ndarray, seq_len: int, batch_size: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields this process's part of each batch of windows. Windows without a target fill the last batch."""
    rows = open_rows(manifest, source, "validation")
    local = batch_size // jax.process_count()
    empty = (np.zeros(seq_len + 1, manifest.dtype), 0)
    for start in range(0, len(numbers), batch_size):
        first = start + jax.process_index() * local
        chosen = numbers[first : first + local]
        missing = local - len(chosen)
        if manifest.sources[source].is_packed:
            packed = [rows.packed_window(int(number)) for number in chosen] + [
                (empty[0], empty[0].astype(np.uint8))
            ] * missing
            yield {
                "tokens": np.stack([tokens for tokens, _ in packed]),
                "valid": np.full(local, seq_len, np.int32),
                "marks": np.stack([marks for _, marks in packed]),
            }
            continue
        windows = [read_window(rows, int(number), seq_len) for number in chosen] + [empty] * missing
        yield {
            "tokens": np.stack([tokens for tokens, _ in windows]),
            "valid": np.array([valid for _, valid in windows], np.int32),
        }
