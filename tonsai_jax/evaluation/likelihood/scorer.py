"""Log-likelihoods of continuations: how probable a model finds a text after another one.

Requests that begin alike, as the choices of a question do, share a row of tokens in which their common beginning is computed
once (`prefix_rows.py`). Array names: B rows, T row length, D model width, N scored tokens, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.likelihood.prefix_rows import PrefixRows, prefix_rows
from tonsai_jax.evaluation.likelihood.requests import LogLikelihood, Request
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.transformer import Transformer, output_table
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.training.state import model_graph

_BATCH_TOKENS = {"cpu": 2048, "gpu": 16_384, "tpu": 16_384}  # of a batch of rows, by JAX's backend
_MOST_LOGITS = 1 << 26  # at once: 256 MiB
_FEWEST_SCORED = 64  # tokens scored at once; powers of two from here on are compiled

_logger = logging.getLogger(__name__)


class Scorer:
    """A model made ready to score continuations; make it once and use it often.

    Log-likelihoods are computed in the model's compute dtype, their sums in float64. Programs are compiled for few shapes:
    of rows (`prefix_rows`), of batches, and of the tokens that are scored at once, both powers of two.
    """

    def __init__(self, model: LanguageModel) -> None:
        config = model.model_config
        self._context_length = config.context_length
        self._backend = jax.default_backend()
        attention_backend, _ = choose_attention_backend(config, self._backend, [2])  # rows have an even length
        self._graph = model_graph(config, attention_backend)
        self._params = jax.tree.map(jnp.asarray, model.params)
        self._head = _head(self._params, config.vocab_size, config.dtype)
        self._most_scored = max(_FEWEST_SCORED, 1 << ((_MOST_LOGITS // config.vocab_size).bit_length() - 1))

    def log_likelihoods(self, requests: Sequence[Request], *, name: str = "") -> list[LogLikelihood]:
        """The score of each request, in their order.

        A context that does not fit before its continuation into the model's context loses its beginning, as in lm-eval; the log
        says how many did.

        Args:
          name: of the progress that is shown on stderr; "" shows none.

        Raises `UserError` for a continuation that is longer than the model's context.
        """
        sequences = [self._sequence(number, request) for number, request in enumerate(requests, start=1)]
        if cut := sum(len(context) + len(rest) > self._context_length + 1 for context, rest in requests):
            _logger.warning(
                f"{name + ': ' if name else ''}{cut:,} of {count_of(len(requests), 'context')} do not fit into the model's "
                f"context of {self._context_length} tokens and lost their beginning"
            )
        results = [LogLikelihood(0.0, True, 0)] * len(requests)
        wanted = [number for number, request in enumerate(requests) if request.continuation_ids]
        if not wanted:
            return results
        targets = [np.asarray(requests[number].continuation_ids, np.int32) for number in wanted]
        rows = prefix_rows([sequences[number] for number in wanted], list(map(len, targets)))
        with progress_bar(name, unit=" continuations", total=len(wanted), wanted=bool(name)) as progress:
            for index, logp, likeliest in self._scores(rows, targets):
                nats = float(logp.sum(dtype=np.float64))
                results[wanted[index]] = LogLikelihood(nats, bool(likeliest.all()), len(logp))
                progress.update(1)
        return results

    def _sequence(self, number: int, request: Request) -> tuple[int, ...]:
        """What the model reads: all ids but the last one, as many as fit."""
        if len(request.continuation_ids) > self._context_length:
            raise UserError(
                f"continuation {number} has {count_of(len(request.continuation_ids), 'token')}, more than the model's "
                f"context_length={self._context_length}; use shorter texts"
            )
        return (*request.context_ids, *request.continuation_ids)[-self._context_length - 1 : -1]

    def _scores(self, rows: PrefixRows, targets: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each sequence its number, the log-probability of each of its targets, and whether the target is the likeliest."""
        R, T = rows.tokens_RxT.shape
        batch_size = max(1, _BATCH_TOKENS[self._backend] // T)
        of_row: list[list[int]] = [[] for _ in range(R)]
        for index, row in enumerate(rows.row_of):
            of_row[row].append(index)
        waiting: tuple[list[int], list[Any]] | None = None
        for start in range(0, R, batch_size):
            count = min(batch_size, R - start)
            padding = ((0, min(batch_size, 1 << (count - 1).bit_length()) - count), (0, 0))
            tokens_BxT = np.pad(rows.tokens_RxT[start : start + count], padding)
            ends_BxT = np.pad(rows.ends_RxT[start : start + count], padding, mode="edge")
            indices = [index for row in range(start, start + count) for index in of_row[row]]
            slot_N = np.concatenate([(rows.row_of[index] - start) * T + rows.slots_of[index] for index in indices])
            target_N = np.concatenate([targets[index] for index in indices])
            x_BxTxD = _hidden_states(self._graph, self._params, tokens_BxT, ends_BxT)
            ready, waiting = waiting, (indices, self._token_scores(x_BxTxD, slot_N, target_N))
            if ready:  # read when the next batch is on its way, so that the device does not wait
                yield from _by_sequence(*ready, targets)
        if waiting:
            yield from _by_sequence(*waiting, targets)

    def _token_scores(self, x_BxTxD: jax.Array, slot_N: np.ndarray, target_N: np.ndarray) -> list[Any]:
        """(log-probabilities, likeliest or not) of parts of the tokens; the last part can be padded."""
        parts = []
        start = 0
        while start < len(slot_N):
            filled = 1 << ((len(slot_N) - start).bit_length() - 1)
            size = min(self._most_scored, max(_FEWEST_SCORED, filled))
            slot, target = slot_N[start : start + size], target_N[start : start + size]
            padding = (0, size - len(slot))
            parts.append(_log_probabilities(self._head, x_BxTxD, np.pad(slot, padding), np.pad(target, padding)))
            start += size
        return parts


def _by_sequence(
    indices: Sequence[int], parts: Sequence[Any], targets: Sequence[np.ndarray]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    logp_N, likeliest_N = (np.concatenate([np.asarray(part) for part in each]) for each in zip(*parts, strict=True))
    start = 0
    for index in indices:
        end = start + len(targets[index])
        yield index, logp_N[start:end], likeliest_N[start:end]
        start = end


@partial(jax.jit, static_argnames="graph")
def _hidden_states(graph: nnx.GraphDef, params: Any, tokens_BxT: jax.Array, ends_BxT: jax.Array) -> jax.Array:
    model: Transformer = nnx.merge(graph, params)
    return model(tokens_BxT, subtree_ends_BxT=ends_BxT)[0]


@partial(jax.jit, static_argnames=("vocab_size", "dtype"))
def _head(params: Any, vocab_size: int, dtype: str) -> jax.Array:
    """The output table [V, D] without its padding, an array of its own: cut out in each call, it would be copied each time."""
    return output_table(params)[:vocab_size].astype(dtype)


@jax.jit
def _log_probabilities(
    head_VxD: jax.Array, x_BxTxD: jax.Array, slot_N: jax.Array, target_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_NxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])[slot_N]
    logits_NxV = jnp.einsum("nd,vd->nv", x_NxD, head_VxD, preferred_element_type=jnp.float32)
    target_logit_N = jnp.take_along_axis(logits_NxV, target_N[:, None], axis=-1)[:, 0]
    logp_N = target_logit_N - jax.nn.logsumexp(logits_NxV, axis=-1)
    return logp_N, target_logit_N == logits_NxV.max(axis=-1)  # argmax takes several times as long on a CPU
