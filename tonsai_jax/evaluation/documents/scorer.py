"""Scores documents with any model: nats, tokens and bytes of each, from which bits per byte and perplexity are made."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from itertools import chain

import jax
import numpy as np

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.bits_per_byte import Score
from tonsai_jax.evaluation.documents.windows import Window, batch_of, pack_windows, scored_sums, windows_of
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.text.normalize import Normalization, normalize
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.ensemble import make_ensemble_score_step
from tonsai_jax.training.mesh import one_device_mesh, put_batch
from tonsai_jax.training.reference import ScoreStep
from tonsai_jax.training.state import model_graph

LONGEST_DEFAULT = 8192  # the context of some models is so long that attention over it does not fit in memory
_BUFFER_BATCHES = 32  # documents of so many batches are sorted by length
_CHUNK_DOCUMENTS, _CHUNK_CHARACTERS = 512, 1_000_000  # encoded at once
_Rows = list[list[Window]]
# The text as it is. Lone surrogates are removed all the same: they have no UTF-8.
_UNKNOWN = Normalization(khmer=False, mojibake=False, controls=False, whitespace=False, nfc=False)


def score_documents(
    model: LanguageModel, documents: Iterable[str], *, seq_len: int | None = None, stride: int | None = None
) -> list[Score]:
    """The score of each document, in the order given; one without text has a score of zeros.

    A text is normalized as the tokenizer's training text was, where that is known. The model reads the end-of-text id before it,
    as in training. The bytes are those of the normalized text in UTF-8.

    Args:
      seq_len, stride: see `DocumentScorer`.

    Raises the errors of `DocumentScorer`.
    """
    found = dict(DocumentScorer(model, seq_len=seq_len, stride=stride).scores(documents))
    return [found[number] for number in range(len(found))]


class DocumentScorer:
    """Scores documents of any number and length; short ones share the rows of a batch, but do not see each other.

    It computes as `LanguageModel.for_scoring` says.

    Args:
      others: more models with the same tokenizer; then the mean of all is scored, see `training.ensemble`.
      seq_len: the most tokens that the model reads at once; None is its context, but at most 8,192.
      stride: a longer document is read in windows, and each but the first scores this many tokens after `seq_len - stride`
        tokens of context; None is `seq_len`, so that windows are those of token rows.
      batch_size: sequences of `seq_len` in a batch; None is as many as have 1,024 tokens on a CPU, 16,384 elsewhere. Shorter
        sequences are put into batches of as many tokens.

    Raises `UserError` for a `seq_len` that the model cannot take, and for a `stride` out of range.
    """

    def __init__(
        self,
        model: LanguageModel,
        *others: LanguageModel,
        seq_len: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        models = [each.for_scoring() for each in (model, *others)]
        configs = tuple(each.model_config for each in models)
        context = min(config.context_length for config in configs)
        self.seq_len = min(context, LONGEST_DEFAULT) if seq_len is None else seq_len
        if not 1 <= self.seq_len <= context:
            raise UserError(f"seq_len {seq_len} must be between 1 and the model's context of {context} tokens")
        self.stride = self.seq_len if stride is None else stride
        if not 1 <= self.stride <= self.seq_len:
            raise UserError(f"stride {stride} must be between 1 and the sequence length of {self.seq_len} tokens")
        on_cpu = jax.default_backend() == "cpu"
        self._batch_tokens = batch_size * self.seq_len if batch_size else 1024 if on_cpu else 16_384
        self._tokenizer = model.tokenizer
        self._params = [each.params for each in models]
        self.dtype = configs[0].dtype
        self._mesh = one_device_mesh()
        self._step = _score_step(configs, self.seq_len, model.tokenizer.end_of_text_id, 512 if on_cpu else 4096)

    def scores(self, documents: Iterable[str]) -> Iterator[tuple[int, Score]]:
        """Yields (number of the document, its score) as they are ready, not in order; keeps a bounded number of documents."""
        unfinished: dict[int, _Unfinished] = {}
        dispatched: tuple[_Rows, jax.Array] | None = None
        for rows, batch in self._batches(documents, unfinished):
            logp_BxT = self._step(self._params, put_batch(batch, self._mesh))
            # The device works on this batch while the host adds up the one before.
            if dispatched is not None:
                yield from _finished(*dispatched, unfinished)
            dispatched = rows, logp_BxT
        if dispatched is not None:
            yield from _finished(*dispatched, unfinished)
        yield from ((number, document.score) for number, document in unfinished.items())  # those without text

    def _batches(
        self, documents: Iterable[str], unfinished: dict[int, "_Unfinished"]
    ) -> Iterator[tuple[_Rows, dict[str, np.ndarray]]]:
        """Cuts documents into windows, collects these, and makes batches of windows of about the same length."""
        collected: list[Window] = []
        groups: dict[int, _Rows] = {}  # rows of one width
        tokens = 0
        for number, (ids, size) in enumerate(_encoded(self._tokenizer, documents)):
            unfinished[number] = _Unfinished(len(ids) - 1, Score(0.0, len(ids) - 1, size))
            for window in windows_of(number, ids, self.seq_len, self.stride):
                collected.append(window)
                tokens += len(window.ids)
                if tokens >= _BUFFER_BATCHES * self._batch_tokens:
                    yield from self._full_batches(collected, groups)
                    collected, tokens = [], 0
        yield from self._full_batches(collected, groups)
        for width, rows in groups.items():
            if rows:
                yield rows, batch_of(rows, width, self._rows_of_batch(width))

    def _full_batches(
        self, windows: list[Window], groups: dict[int, _Rows]
    ) -> Iterator[tuple[_Rows, dict[str, np.ndarray]]]:
        """Packs windows into rows; adds these to `groups`, from which it takes all full batches."""
        for width, row in pack_windows(windows, self.seq_len):
            rows = groups.setdefault(width, [])
            rows.append(row)
            if len(rows) == self._rows_of_batch(width):
                yield rows, batch_of(rows, width, len(rows))
                groups[width] = []

    def _rows_of_batch(self, width: int) -> int:
        return max(1, self._batch_tokens // width)


@dataclasses.dataclass
class _Unfinished:
    """A document of which `targets` are still to be scored; `score` has the nats of the others."""

    targets: int
    score: Score


def _finished(rows: _Rows, logp_BxT: jax.Array, unfinished: dict[int, _Unfinished]) -> Iterator[tuple[int, Score]]:
    """Adds the nats of a batch to its documents; yields those that are complete."""
    for number, targets, nats in scored_sums(np.asarray(logp_BxT), rows):
        document = unfinished[number]
        document.targets -= targets
        document.score += Score(nats)
        if not document.targets:
            del unfinished[number]
            yield number, document.score


def _encoded(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields for each document its ids, int32, the end-of-text id first, and the UTF-8 bytes of its normalized text."""
    normalization = tokenizer.normalization or _UNKNOWN
    first = [tokenizer.end_of_text_id]
    for texts in _chunks(normalize(text, normalization) for text in documents):
        if len(texts) == 1:  # it may be very long
            all_ids: list[Iterable[int]] = [chain.from_iterable(tokenizer.encode_in_parts(texts[0]))]
        else:
            all_ids = [*tokenizer.encode_batch(texts)]
        for text, ids in zip(texts, all_ids, strict=True):
            yield np.fromiter(chain(first, ids), np.int32), len(text.encode())


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == _CHUNK_DOCUMENTS or characters + len(text) > _CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


@functools.lru_cache(maxsize=8)
def _score_step(configs: tuple[ModelConfig, ...], seq_len: int, end_of_text_id: int, chunk_tokens: int) -> ScoreStep:
    """The compiled step; kept, since scoring a second list of documents should not compile it again."""
    backends = [choose_attention_backend(config, jax.default_backend(), [seq_len])[0] for config in configs]
    return make_ensemble_score_step(
        [model_graph(config, backend) for config, backend in zip(configs, backends, strict=True)],
        vocab_size=configs[0].vocab_size,
        chunk_tokens=chunk_tokens,
        end_of_text_id=end_of_text_id,
    )
