"""Bits per byte on held-out text, per source and per language.

Bits per byte is the model's loss on a text, in bits, divided by the UTF-8 bytes of the text. Lower is better. It can be
compared between models with different tokenizers. Perplexity cannot: it is per token, and the same text has more tokens
in one tokenizer than in another.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tonsai_jax.data.manifest import RowsManifest
from tonsai_jax.data.rows import open_rows, read_window, window_count
from tonsai_jax.hosts.processes import on_every_process
from tonsai_jax.stages import Stage
from tonsai_jax.training.mesh import put_batch

_PADDING = -1  # the number of a window that only fills a batch
_PIECE_TOKENS = 2**24  # that a process reads at once: 32 or 64 MiB


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
    max_tokens: int,
    leave_out: Collection[str] = (),
) -> Evaluation:
    """Scores the validation split of every source that has one. All processes together read each window once.

    The windows depend on nothing but the rows, `seq_len` and `max_tokens`: not on the devices, the processes or the batch.

    Args:
      eval_step: the function that `make_eval_step` returns.
      params: the model's parameters, as `eval_step` takes them.
      manifest: the token rows.
      mesh: the devices.
      seq_len: tokens in a window; must divide the rows' row_tokens.
      batch_size: windows in a batch over all devices; must be divisible by the number of processes.
      max_tokens: in the windows of all sources together, see `held_out_windows`; 0 means all.
      leave_out: sources that are not scored.

    Raises:
      UserError: seq_len does not divide row_tokens, or a file is missing or damaged. On several processes each of them raises,
        also where one alone could not read a file.
    """
    from tonsai_jax.reporting.progress_bar import progress_bar  # here: a training run starts without it

    sources: dict[str, Score] = {}
    languages: dict[str, Score] = {}
    chosen = held_out_windows(manifest, seq_len, max_tokens, leave_out)
    with progress_bar(
        "evaluating", unit=" windows", total=sum(map(len, chosen.values())), wanted=jax.process_index() == 0
    ) as bar:
        for name, numbers in chosen.items():
            total = Score()
            for sums, windows in _sums(eval_step, params, manifest, name, numbers, mesh, seq_len, batch_size):
                total += Score(float(sums["nats"]), int(sums["tokens"]), int(sums["bytes"]))
                bar.update(windows)
            if total.bytes:
                sources[name] = total
                language = manifest.sources[name].language
                languages[language] = languages.get(language, Score()) + total
    return Evaluation(sources, languages)


def held_out_windows(
    manifest: RowsManifest, seq_len: int, max_tokens: int, leave_out: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The numbers of the windows of each source that are scored, by `share_windows`; the arguments are those of `evaluate`."""
    counts = {name: _window_count(manifest, name, seq_len) for name in manifest.sources if name not in leave_out}
    return share_windows(counts, max_tokens, seq_len)


def share_windows(counts: Mapping[str, int], max_tokens: int, seq_len: int) -> dict[str, np.ndarray]:
    """The windows of each source that a budget of tokens pays for, spread evenly over the source.

    Every source gets the same share, and at least one window; what a small source leaves goes to the others.

    Args:
      counts: the windows that each source has.
      max_tokens: of all chosen windows together; 0 chooses every window.
      seq_len: tokens in a window.

    Returns the numbers of the windows by source, rising int64 arrays.
    """
    left, chosen = max_tokens // seq_len, {}
    for place, name in enumerate(
        sorted(counts, key=lambda name: counts[name])
    ):  # what the small ones leave is known first
        share = counts[name] if not max_tokens else min(counts[name], max(1, left // (len(counts) - place)))
        left -= share
        chosen[name] = np.arange(share)
        if share < counts[name]:
            chosen[name] = np.linspace(0, counts[name] - 1, share).astype(np.int64)
    return {name: chosen[name] for name in counts}


def conversations_for_others(manifest: RowsManifest, stages: Sequence[Stage]) -> set[str]:
    """Packed sources that no stage reads: they lie next to the text of this run, and their scores say nothing about it."""
    return {name for name, source in manifest.sources.items() if source.is_packed} - manifest.read_by(stages)


def scored_sources(manifest: RowsManifest, seq_lens: Iterable[int]) -> list[str]:
    """The sources that have something to score in windows of one of these lengths."""
    return [name for name in manifest.sources if any(_window_count(manifest, name, seq_len) for seq_len in seq_lens)]


def _window_count(manifest: RowsManifest, source: str, seq_len: int) -> int:
    """The windows of a source that can be scored."""
    if manifest.sources[source].kind == "pairs":
        return 0  # a rejected answer is not what a model should say
    if manifest.sources[source].is_packed and seq_len != manifest.row_tokens:
        return 0  # packed rows are not cut: they are scored in stages that train on whole rows
    return window_count(open_rows(manifest, source, "validation"), seq_len)


def _sums(
    eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
    params: Any,
    manifest: RowsManifest,
    source: str,
    numbers: np.ndarray,
    mesh: Mesh,
    seq_len: int,
    batch_size: int,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields the sums of each batch of windows, and how many windows are in it.

    The windows are read in pieces before the devices get them, so that all processes stop together where one cannot read its own.
    """
    local = batch_size // jax.process_count()
    padded = np.full(-(-len(numbers) // batch_size) * batch_size, _PADDING)
    padded[: len(numbers)] = numbers
    own = padded.reshape(-1, jax.process_count(), local)[:, jax.process_index()]
    batches_in_piece = max(1, _PIECE_TOKENS // (local * seq_len))
    waiting = None  # its batch was dispatched; it is read when the next one is too, so that the devices never wait
    for first in range(0, len(own), batches_in_piece):
        piece = on_every_process(
            partial(_read, manifest, source, own[first : first + batches_in_piece].ravel(), seq_len)
        )
        for start in range(0, len(piece["valid"]), local):
            batch = {name: array[start : start + local] for name, array in piece.items()}
            sums = eval_step(params, put_batch(batch, mesh))
            if waiting is not None:
                yield jax.device_get(waiting), batch_size
            waiting = sums
    if waiting is not None:
        yield jax.device_get(waiting), (len(numbers) - 1) % batch_size + 1


def _read(manifest: RowsManifest, source: str, numbers: np.ndarray, seq_len: int) -> dict[str, np.ndarray]:
    """These windows as a batch of the loader; a window numbered `_PADDING` has no target."""
    rows, is_packed = open_rows(manifest, source, "validation"), manifest.sources[source].is_packed
    windows = {
        "tokens": np.zeros((len(numbers), seq_len + 1), manifest.dtype),
        "valid": np.zeros(len(numbers), np.int32),
    }
    if is_packed:
        windows["marks"] = np.zeros((len(numbers), seq_len + 1), np.uint8)
    for place, number in enumerate(numbers.tolist()):
        if number == _PADDING:
            continue
        if is_packed:
            windows["tokens"][place], windows["marks"][place] = rows.packed_window(number)
            windows["valid"][place] = seq_len
        else:
            windows["tokens"][place], windows["valid"][place] = read_window(rows, number, seq_len)
    return windows
