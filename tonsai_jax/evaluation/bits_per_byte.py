"""Bits per byte on held-out text, per source and per language.

Bits per byte is the model's loss on a text, in bits, divided by the UTF-8 bytes of the text. Lower is better. It can be
compared between models with different tokenizers. Perplexity cannot: it is per token, and the same text has more tokens
in one tokenizer than in another.
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
        """The mean over languages, all with the same weight, or NaN without text. Checkpoints are compared by it."""
        scores = [score.bits_per_byte for score in self.languages.values()]
        return sum(scores) / len(scores) if scores else math.nan

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
    """Scores the validation split of every source that has one. All processes together read each window once.

    Args:
      eval_step: the function that `make_eval_step` returns.
      params: the model's parameters, as `eval_step` takes them.
      manifest: the token rows.
      mesh: the devices.
      seq_len: tokens in a window; must divide the rows' row_tokens.
      batch_size: windows in a batch over all devices; must be divisible by the number of processes.
      max_windows: windows of each source, spread evenly over its validation text; 0 means all.

    Raises:
      UserError: seq_len does not divide row_tokens, or a file is missing or damaged.
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
    """Scores a checkpoint of a run on one device.

    Args:
      run: the opened checkpoint.
      manifest: any token rows that were made with the run's tokenizer.
      seq_len: tokens in a window; None means the longest sequence length of the run's stages.
      batch_size: windows in a batch.
      max_batches: batches of each source, spread evenly over its validation text; 0 means all.

    Raises:
      UserError: the rows were made with another tokenizer or have no validation text; seq_len does not divide row_tokens
        or is longer than the model's context.
    """
    seq_len = seq_len or max(stage.seq_len for stage in stages_of(run.config))
    if seq_len > run.model_config.context_length:
        raise UserError(
            f"seq_len {seq_len} is longer than the model's context of {run.model_config.context_length} tokens; "
            f"choose {run.model_config.context_length} or less"
        )
    if manifest.tokenizer_hash != run.tokenizer.hash:
        raise UserError(
            f"{manifest.directory}: these rows were made with another tokenizer than the run's; tokenize the text again "
            f"with --tokenizer-dir {run.workdir / 'tokenizer'}"
        )
    mesh = one_device_mesh()
    attention_backend, _ = choose_attention_backend(run.model_config, jax.default_backend(), [seq_len])
    eval_step = make_eval_step(
        model_graph(run.model_config, attention_backend),
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
        raise UserError(f"{manifest.directory}: there are no validation rows; tokenize again with --val-ratio above 0")
    return evaluation


def _batches(
    manifest: RowsManifest, source: str, seq_len: int, batch_size: int, max_windows: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields this process's part of each batch. Windows without a target fill the last batch."""
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
