"""Gives new rows of the output the frequency of their tokens, without training.

Rows that are means of other rows know nothing of how often their tokens occur: after text in the new language the model gives
nearly everything to its old tokens. That the output layer of a trained model holds the frequencies of words is known (Kobayashi
et al. 2023, https://arxiv.org/abs/2305.18294); here they are put in. Two means of hidden states are taken, before new tokens and
before old ones, and each new row is moved along a direction in their plane, so that at the first mean the new tokens get their
frequencies, and at the second one, where the model speaks its old language, no logit changes. Where input and output are tied,
the model also reads the moved rows, so its states after new tokens are no longer quite those that were averaged.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tonsai_jax.errors import UserError
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import output_table
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.training.state import model_graph

TOKENS = 32_768  # of the text, whose hidden states are averaged
WINDOW = 256  # the longest sequence that the model reads there
BATCH_SIZE = 16
SHARE = 0.95  # of the probability that all new tokens together get at the mean of the hidden states before them


def calibrate(
    config: ModelConfig,
    params: Mapping[str, Any],
    ids: np.ndarray,
    stream: np.ndarray,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The parameters with the output rows of `ids` moved; where input and output are tied, these are the embedding's rows.

    Args:
      config: of the model, in its new vocabulary.
      params: nested dict of float32 arrays.
      ids: the new ids, int (n,).
      stream: the ids of text in the new language, and better also in the old one, each text after an end-of-text id.
      seed: of the choice of windows.
      progress: show the progress on stderr.

    Raises `UserError` if the text has no new tokens, or nothing else.
    """
    is_new_V = np.zeros(config.vocab_size, bool)
    is_new_V[ids] = True
    means_2xD = _mean_states(config, params, is_new_V, stream, seed, progress)
    direction_D = np.linalg.pinv(means_2xD) @ np.array([1.0, 0.0])  # 1 along the first mean, 0 along the second
    table = np.array(output_table(dict(params)))  # float64 would double the memory of the largest array
    old_logits = (table[: config.vocab_size] @ means_2xD[0].astype(np.float32))[~is_new_V].astype(np.float64)
    all_old = np.logaddexp.reduce(old_logits)
    # Half a token more: one that the text lacks is rare, not impossible.
    counts = np.bincount(stream, minlength=config.vocab_size)[ids] + 0.5
    wanted = np.log(counts / counts.sum()) + all_old + np.log(SHARE / (1 - SHARE))
    rows = table[ids].astype(np.float64)
    table[ids] = rows + np.outer(wanted - rows @ means_2xD[0], direction_D)
    name = "token_embedding" if config.tie_embeddings else "head"
    return dict(params) | {name: jnp.asarray(table)}


def _mean_states(
    config: ModelConfig, params: Mapping[str, Any], is_new_V: np.ndarray, stream: np.ndarray, seed: int, progress: bool
) -> np.ndarray:
    """The mean of the hidden states before new tokens and of those before old ones, float64 (2, D)."""
    T = min(WINDOW, config.context_length, len(stream) - 1)
    count = (len(stream) - 1) // max(T, 1)
    chosen = np.random.default_rng(seed).permutation(count)[: max(TOKENS // max(T, 1), 1)]
    graph = model_graph(config, choose_attention_backend(config, jax.default_backend())[0])

    @jax.jit
    def sums(params: Any, ids_BxT: jax.Array, before_2xBxT: jax.Array) -> jax.Array:
        states_BxTxD = nnx.merge(graph, params)(ids_BxT)[0].astype(jnp.float32)
        return jnp.sum(states_BxTxD, axis=(1, 2), where=before_2xBxT[..., None])

    sums_2xD, counts_2 = np.zeros((2, config.d_model)), np.zeros(2)
    with progress_bar("reading text", unit=" windows", total=len(chosen), wanted=progress) as bar:
        for first in range(0, len(chosen), BATCH_SIZE):
            windows = np.stack([stream[n * T : (n + 1) * T + 1] for n in chosen[first : first + BATCH_SIZE]])
            B = len(windows)
            ids_BxT = np.zeros((BATCH_SIZE, T), np.int32)  # always one shape, so that it compiles once
            before_2xBxT = np.zeros((2, BATCH_SIZE, T), bool)
            ids_BxT[:B] = windows[:, :-1]
            is_new_BxT = is_new_V[windows[:, 1:]]
            before_2xBxT[:, :B] = is_new_BxT, ~is_new_BxT
            sums_2xD += np.asarray(sums(dict(params), ids_BxT, before_2xBxT), np.float64)
            counts_2 += before_2xBxT.sum(axis=(1, 2))
            bar.update(B)
    if not counts_2.all():
        raise UserError(
            "the documents must have new tokens and old ones; give text of the new language and of the old one"
        )
    return sums_2xD / counts_2[:, None]
