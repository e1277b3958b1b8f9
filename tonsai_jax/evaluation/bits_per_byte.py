"""Bits per byte on held-out text, per source and per language: a number that two tokenizers can be compared by.

Perplexity is per token, and a token of one tokenizer is not a token of another (a Khmer character alone is three bytes).
Bits per byte divides the same loss, in bits, by the UTF-8 bytes of the text. Lower is better.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.config import stages_of
from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import open_rows, read_window, window_count
from tonsai_jax.errors import UserError
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.reporting.tables import Table, as_text
from tonsai_jax.training.mesh import one_device_mesh, put_batch
from tonsai_jax.training.run import Run
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over some text: loss in nats, tokens and UTF-8 bytes, end-of-text not counted."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else math.nan


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of every source that has validation text, and of every language."""

    sources: dict[str, Score]
    languages: dict[str, Score]

    @property
    def bits_per_byte(self) -> float:
        """The mean over languages, each counting alike: the number checkpoints are compared by. NaN without text."""
        scores = [score.bits_per_byte for score in self.languages.values()]
        return sum(scores) / len(scores) if scores else math.nan

    def scalars(self) -> dict[str, float]:
        """Flat names for metrics: eval/bits_per_byte, eval/bits_per_byte/km, eval/bits_per_byte/source/wiki, ..."""
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
) -> Evaluation:
    """Scores the validation split of every source that has one, the same text on any number of hosts.

    Args:
      eval_step: from `make_eval_step`.
      batch_size: windows at a time, over all devices.
      max_windows: of each source, spread evenly over its validation text; 0 is all of it.
    """
    sources: dict[str, Score] = {}
    languages: dict[str, Score] = {}
    for name, source in manifest.sources.items():
        total = Score()
        for batch in _batches(manifest, name, seq_len, batch_size, max_windows):
            sums = jax.device_get(eval_step(params, put_batch(batch, mesh)))
            total += Score(float(sums["nats"]), int(sums["tokens"]), int(sums["bytes"]))
        if total.bytes:
            sources[name] = total
            languages[source.language] = languages.get(source.language, Score()) + total
    return Evaluation(sources, languages)


def evaluate_run(
    run: Run, manifest: RowsManifest, *, seq_len: int | None, batch_size: int, max_batches: int
) -> Evaluation:
    """Scores a run's checkpoint on one device.

    Args:
      manifest: rows written with the run's tokenizer, its own or others.
      seq_len: tokens the model sees at a time; None takes the longest of the run's stages.

    Raises `UserError` where the rows are of another tokenizer or hold no validation text, or `seq_len` is too long.
    """
    seq_len = seq_len or max(stage.seq_len for stage in stages_of(run.config))
    if seq_len > run.model_config.context_length:
        raise UserError(f"seq_len {seq_len} is longer than the model's context of {run.model_config.context_length}")
    if manifest.tokenizer_hash != run.tokenizer.hash:
        raise UserError(
            f"{manifest.directory}: these rows were made with another tokenizer than the run's; tokenize the text again "
            f"with --tokenizer-dir {run.workdir / 'tokenizer'}"
        )
    mesh = one_device_mesh()
    kernel, _ = choose_attention_backend(run.model_config, jax.default_backend(), [seq_len])
    eval_step = make_eval_step(
        model_graph(run.model_config, kernel),
        mesh,
        loss=LossSettings(run.config.loss.chunk_tokens, 0.0),
        end_of_text_id=manifest.end_of_text_id,
        token_bytes=jnp.asarray(run.tokenizer.token_bytes()),
    )
    evaluation = evaluate(
        eval_step,
        run.params,
        manifest,
        mesh,
        seq_len=seq_len,
        batch_size=batch_size,
        max_windows=max_batches * batch_size,
    )
    if not evaluation.sources:
        raise UserError(f"{manifest.directory}: no validation rows; tokenize again with --val-ratio above 0")
    return evaluation


def _batches(
    manifest: RowsManifest, source: str, seq_len: int, batch_size: int, max_windows: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """This process's rows of each batch; the last batch is filled up with windows that have no real target."""
    rows = open_rows(manifest, source, "validation")
    count = window_count(rows, seq_len)
    numbers = np.arange(count)
    if max_windows and count > max_windows:
        numbers = np.linspace(0, count - 1, max_windows).astype(np.int64)
    local = batch_size // jax.process_count()
    empty = (np.zeros(seq_len + 1, manifest.dtype), 0)
    for start in range(0, len(numbers), batch_size):
        first = start + jax.process_index() * local
        windows = [read_window(rows, int(number), seq_len) for number in numbers[first : first + local]]
        windows += [empty] * (local - len(windows))
        yield {
            "tokens": np.stack([tokens for tokens, _ in windows]),
            "valid": np.array([valid for _, valid in windows], np.int32),
        }
