"""Gives new rows of the output the frequency of their tokens, without training.

Rows that are means of other rows know nothing of how often their tokens occur: after text in the new language the model gives
nearly everything to its old tokens. That the output layer of a trained model holds the frequencies of words is known (Kobayashi
et al. 2023, https://arxiv.org/abs/2305.18294); here they are put in. Two means of hidden states are taken, before new tokens and
before old ones, and each new row is moved along a direction in their plane, so that at the first mean the new tokens get their
frequencies, and at the second one, where the model speaks its old language, no logit changes.
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
from tonsai_jax.training.state import model_graph

WINDOWS, WINDOW = 512, 256  # how much text the means are taken from: windows, and tokens in one
BATCH_SIZE = 16
SHARE = 0.95  # of the probability that all new tokens together get at the mean of the hidden states before them


def calibrate(
    config: ModelConfig, params: Mapping[str, Any], ids: np.ndarray, stream: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """The parameters with the output rows of `ids` moved; where input and output are tied, these are the embedding's rows.

    Args:
      config: of the model, in its new vocabulary.
      params: nested dict of float32 arrays.
      ids: the new ids, int (n,).
      stream: the ids of text in the new language, and better also in the old one, each text after an end-of-text id.
      seed: of the choice of windows.

    Raises `UserError` if the text has no new tokens, or nothing else.
    """
    is_new_V = np.zeros(config.vocab_size, bool)
    is_new_V[ids] = True
    length = min(WINDOW, config.context_length, len(stream) - 1)
    count = (len(stream) - 1) // max(length, 1)
    chosen = np.random.default_rng(seed).permutation(count)[:WINDOWS]
    hidden_NxD, next_N = _hidden(config, params, stream, chosen * length, length)
    before_new_N = is_new_V[next_N]
    if before_new_N.all() or not before_new_N.any():
        raise UserError(
            "the documents must have new tokens and old ones; give text of the new language and of the old one"
        )
    means_2xD = np.stack([hidden_NxD[before_new_N].mean(axis=0), hidden_NxD[~before_new_N].mean(axis=0)])
    direction_D = np.linalg.pinv(means_2xD) @ np.array([1.0, 0.0])  # 1 along the first mean, 0 along the second
    table = np.array(output_table(dict(params)), np.float64)
    counts = (
        np.bincount(stream, minlength=config.vocab_size)[ids] + 0.5
    )  # a token that the text lacks is rare, not impossible
    old_logits = table[: config.vocab_size][~is_new_V] @ means_2xD[0]
    all_old = old_logits.max() + np.log(np.exp(old_logits - old_logits.max()).sum())
    wanted = np.log(counts / counts.sum()) + all_old + np.log(SHARE / (1 - SHARE))
    table[ids] += np.outer(wanted - table[ids] @ means_2xD[0], direction_D)
    name = "token_embedding" if config.tie_embeddings else "head"
    return dict(params) | {name: jnp.asarray(table, jnp.float32)}


def _hidden(
    config: ModelConfig, params: Mapping[str, Any], stream: np.ndarray, starts: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The hidden states in windows of a stream, float64 (N, D), and the id that follows each, (N,)."""
    graph = model_graph(config, choose_attention_backend(config, jax.default_backend())[0])

    @jax.jit
    def hidden(params: Any, ids_BxT: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(ids_BxT)[0]

    states, following = [], []
    for first in range(0, len(starts), BATCH_SIZE):
        rows = np.stack([stream[start : start + length + 1] for start in starts[first : first + BATCH_SIZE]])
        padded = np.zeros((BATCH_SIZE, length), rows.dtype)  # one shape, so that it compiles once
        padded[: len(rows)] = rows[:, :-1]
        states.append(np.asarray(hidden(dict(params), padded), np.float64)[: len(rows)].reshape(-1, config.d_model))
        following.append(rows[:, 1:].reshape(-1))
    return np.concatenate(states), np.concatenate(following)
