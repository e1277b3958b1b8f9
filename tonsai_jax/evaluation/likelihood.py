"""Log-likelihoods of continuations: how probable a model finds a text after another one.

Requests that begin alike, as the choices of a question do, share a row of tokens in which their common beginning is computed
once (`prefix_rows.py`). Array names: B rows, T row length, D model width, N scored tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.prefix_rows import PrefixRows, prefix_rows
from tonsai_jax.inference.load import LanguageModel
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.transformer import Transformer
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

_BATCH_TOKENS = {"cpu": 2048, "gpu": 16_384, "tpu": 16_384}  # of a batch of rows, by JAX's backend
_MOST_LOGITS = 1 << 26  # at once: 256 MiB
_FEWEST_SCORED = 64  # tokens scored at once; powers of two from here on are compiled


class Request(NamedTuple):
    """A continuation to score: the ids before it, at least one, and its own."""

    context_ids: Sequence[int]
    continuation_ids: Sequence[int]


class LogLikelihood(NamedTuple):
    """The score of a continuation.

    Attributes:
      nats: ln of its probability after the context.
      is_greedy: whether each of its tokens is the likeliest one.
      tokens: how many it has.
    """

    nats: float
    is_greedy: bool
    tokens: int


def encode_pairs(
    tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]], *, leading_end_of_text: bool = True
) -> list[Request]:
    """The ids of (context, continuation) pairs, split as lm-eval splits them, so that scores can be compared.

    Both are normalized as one text, like the tokenizer's training text. White space at the end of the context belongs to the
    continuation. The whole is encoded; what is longer than the ids of the context alone is the continuation.

    Args:
      leading_end_of_text: whether the end-of-text id comes before a context, as before every document in training. lm-eval puts
        it there only where the tokenizer itself does. Before an empty context it always stands.
    """
    texts: list[tuple[str, str]] = []
    for context, continuation in pairs:
        stripped = context.rstrip()
        texts.append((stripped, stripped + context[len(stripped) :] + continuation))
    distinct = list(dict.fromkeys(text for pair in texts for text in pair))
    encoded = tokenizer.encode_batch([tokenizer.normalize_prompt(text) for text in distinct])
    ids_of = dict(zip(distinct, encoded, strict=True))
    requests = []
    for context, whole in texts:
        lead = [tokenizer.end_of_text_id] if leading_end_of_text or not context else []
        requests.append(Request(lead + ids_of[context], ids_of[whole][len(ids_of[context]) :]))
    return requests


class Scorer:
    """A model made ready to score continuations; make it once and use it often.

    Log-likelihoods are computed in the model's compute dtype, their sums in float64. Programs are compiled for few shapes: a row
    length is a power of two, and so are the rows of a batch.
    """

    def __init__(self, model: LanguageModel) -> None:
        config = model.model_config
        self._context_length = config.context_length
        self._backend = jax.default_backend()
        attention_backend, _ = choose_attention_backend(config, self._backend, [2])  # rows have an even length
        self._graph = model_graph(config, attention_backend)
        self._params = jax.tree.map(jnp.asarray, model.params)
        self._most_scored = max(_FEWEST_SCORED, 1 << ((_MOST_LOGITS // config.vocab_size).bit_length() - 1))

    def log_likelihoods(
        self, requests: Sequence[Request], progress: Callable[[int], None] = lambda done: None
    ) -> list[LogLikelihood]:
        """The score of each request, in their order.

        A context that does not fit before its continuation into the model's context loses its beginning, as in lm-eval.

        Args:
          progress: called with the number of requests scored so far.

        Raises `UserError` for a continuation that is longer than the model's context.
        """
        sequences, scored = [], []
        for number, (context, continuation) in enumerate(requests, start=1):
            if len(continuation) > self._context_length:
                raise UserError(
                    f"continuation {number} has {count_of(len(continuation), 'token')}, more than the model's context_length="
                    f"{self._context_length}; use shorter texts"
                )
            fits = [*context, *continuation][-self._context_length - 1 : -1]
            sequences.append(tuple(fits) if continuation else ())
            scored.append(len(continuation))
        results = [LogLikelihood(0.0, True, 0)] * len(requests)
        wanted = [number for number, count in enumerate(scored) if count]
        if not wanted:
            return results
        rows = prefix_rows([sequences[number] for number in wanted], [scored[number] for number in wanted])
        targets = [np.asarray(requests[number].continuation_ids, np.int32) for number in wanted]
        for done, (index, logp, likeliest) in enumerate(self._scores(rows, targets), start=1):
            number = wanted[index]
            results[number] = LogLikelihood(float(logp.sum(dtype=np.float64)), bool(likeliest.all()), len(logp))
            progress(done)
        return results

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
        """(log-probabilities, likeliest or not) of parts of the tokens; the last part is padded."""
        parts = []
        for start in range(0, len(slot_N), self._most_scored):
            slot, target = slot_N[start : start + self._most_scored], target_N[start : start + self._most_scored]
            padding = (0, max(_FEWEST_SCORED, 1 << (len(slot) - 1).bit_length()) - len(slot))
            parts.append(
                _log_probabilities(self._graph, self._params, x_BxTxD, np.pad(slot, padding), np.pad(target, padding))
            )
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


@partial(jax.jit, static_argnames="graph")
def _log_probabilities(
    graph: nnx.GraphDef, params: Any, x_BxTxD: jax.Array, slot_N: jax.Array, target_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    model: Transformer = nnx.merge(graph, params)
    x_NxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])[slot_N]
    logits_NxV = model.logits(x_NxD[None])[0]
    target_logit_N = jnp.take_along_axis(logits_NxV, target_N[:, None], axis=-1)[:, 0]
    logp_N = target_logit_N - jax.nn.logsumexp(logits_NxV, axis=-1)
    return logp_N, jnp.argmax(logits_NxV, axis=-1) == target_N
