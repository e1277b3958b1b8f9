"""Decoding with a KV cache: continues sequences of ids, several at once.

Two compiled functions do the work. `_prefill` reads all prompts at once and fills a cache of keys and values; `_step` adds one
token to each sequence. Prompts of different lengths share a batch: each sequence has its own length in the cache, so its ids
do not depend on the other sequences. Array names: B sequences, T prompt positions, V vocabulary, K kept ids, D model width.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import KVCache, Transformer, output_table, split_layers
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.sampling import Sampling
from tonsai_jax.training.state import model_graph

SHORTEST_BUCKET = 16  # lengths are rounded up to powers of two, at least this one, so that few shapes are compiled


def sample(logits_BxV: jax.Array, key_B: jax.Array, sampling: Sampling, seen_BxV: jax.Array | None = None) -> jax.Array:
    """Draws one id per sequence, int32 [B]; see `scores` for the arguments. `key_B` is a random key per sequence."""
    score_BxK, id_BxK = scores(logits_BxV, sampling, seen_BxV)
    if sampling.temperature == 0:
        return jnp.argmax(score_BxK, axis=-1).astype(jnp.int32)
    choice_B = jax.vmap(jax.random.categorical)(key_B, score_BxK)
    if id_BxK is not None:
        choice_B = jnp.take_along_axis(id_BxK, choice_B[:, None], axis=-1)[:, 0]
    return choice_B.astype(jnp.int32)


def scores(
    logits_BxV: jax.Array, sampling: Sampling, seen_BxV: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """The logits after repetition penalty, temperature, top-k, top-p and min-p, in this order.

    Args:
      logits_BxV: float [B, V].
      sampling: the settings. Greedy decoding takes the best logit after the repetition penalty.
      seen_BxV: bool [B, V], the ids that a sequence already has; only a repetition penalty needs them.

    Returns:
      (scores [B, K], -inf where an id is not drawn; the ids that they belong to, int [B, K], or None where K is V).
    """
    if sampling.repetition_penalty != 1:
        assert seen_BxV is not None
        penalty = sampling.repetition_penalty
        lowered_BxV = jnp.where(logits_BxV > 0, logits_BxV / penalty, logits_BxV * penalty)
        logits_BxV = jnp.where(seen_BxV, lowered_BxV, logits_BxV)
    if sampling.temperature == 0:
        return logits_BxV, None
    score_BxK, id_BxK = logits_BxV / sampling.temperature, None
    if sampling.top_k or sampling.top_p < 1:
        vocab_size = logits_BxV.shape[-1]
        score_BxK, id_BxK = jax.lax.top_k(score_BxK, min(sampling.top_k or vocab_size, vocab_size))
    if sampling.top_p < 1:
        probability_BxK = jax.nn.softmax(score_BxK, axis=-1)
        likelier_BxK = jnp.cumsum(probability_BxK, axis=-1) - probability_BxK
        score_BxK = jnp.where(likelier_BxK < sampling.top_p, score_BxK, -jnp.inf)
    if sampling.min_p > 0:
        least_Bx1 = score_BxK.max(axis=-1, keepdims=True) + math.log(sampling.min_p)
        score_BxK = jnp.where(score_BxK >= least_Bx1, score_BxK, -jnp.inf)
    return score_BxK, id_BxK


class Decoder:
    """A model made ready for decoding; make it once and use it for many batches.

    Each layer gets weights of its own, cast to the compute dtype. In the stack of all layers, as in training, a step would
    copy the weights of a layer before it multiplies with them, which takes longer than the product. Next to the given
    parameters this takes the memory of the layers and of the output table once more.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays, on any devices.
      num_ids: only ids below this are drawn, because the model's table can be larger than the vocabulary.
    """

    def __init__(self, model_config: ModelConfig, params: dict[str, Any], num_ids: int) -> None:
        self.context_length = model_config.context_length
        params = jax.tree.map(jnp.asarray, params)
        sharding = jax.tree.leaves(params)[0].sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        # The output table is an array of its own, also where the model ties it to the token embedding.
        untied = dataclasses.replace(model_config, tie_embeddings=False)
        self._model = _Model(untied, model_graph(untied, "xla"), mesh)
        self._params = _decoding_params(params, model_config.dtype, num_ids)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: Collection[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        first_number: int = 0,
    ) -> Iterator[list[int | None]]:
        """Continues one batch of sequences: yields after every step the new id of each sequence, or None if it has ended.

        Args:
          prompts: the ids of each sequence, at least one.
          end_ids: each of them ends a sequence; it is not yielded.
          max_new_tokens: the most ids per sequence.
          sampling: how ids are drawn; `stop` is for texts, and nothing here reads it.
          seed: for the random numbers.
          first_number: the number of the first sequence. The random numbers of a sequence depend on `seed` and its number.

        Raises `UserError` for a prompt that fills the model's context.
        """
        for number, ids in enumerate(prompts, start=first_number + 1):
            if len(ids) >= self.context_length:
                raise UserError(
                    f"prompt {number} has {count_of(len(ids), 'token')} and leaves no room in the model's context_length="
                    f"{self.context_length}; use a shorter prompt"
                )
        limits = [min(max_new_tokens, self.context_length - len(ids)) for ids in prompts]
        most = max(limits)
        if most < 1:
            return
        lengths = [len(ids) for ids in prompts]
        tokens_BxT = np.zeros((len(prompts), _bucket(max(lengths), self.context_length)), np.int32)
        for number, ids in enumerate(prompts):
            tokens_BxT[number, : len(ids)] = ids
        cache_length = _bucket(max(lengths) + most, self.context_length)
        random = (np.uint32(seed % 2**32), np.arange(first_number, first_number + len(prompts), dtype=np.uint32))
        static = (self._model, dataclasses.replace(sampling, stop=()))

        token_B, state = _prefill(*static, self._params, tokens_BxT, np.array(lengths, np.int32), random, cache_length)
        going = [True] * len(prompts)
        for count in range(most):
            ready_B = token_B
            if count + 1 < most:  # dispatched first, so that the device works while the host reads the ids
                token_B, state = _step(*static, self._params, token_B, state, random)
            ids_B = np.asarray(ready_B.addressable_data(0)).tolist()
            going = [
                on and count < limit and id not in end_ids for on, limit, id in zip(going, limits, ids_B, strict=True)
            ]
            if not any(going):
                return
            yield [id if on else None for on, id in zip(going, ids_B, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Model:
    """The model without its arrays, a static argument of the compiled functions."""

    config: ModelConfig
    graph: nnx.GraphDef
    mesh: Mesh | AbstractMesh | None

    def decode(self, params: "_Params", tokens_BxT: jax.Array, cache: KVCache) -> tuple[Transformer, Any, KVCache]:
        # `decode` takes the layers from `params.layers`; the first of them only tells nnx what a layer is made of.
        model = nnx.merge(self.graph, {**params.others, "blocks": params.layers[0]})
        return model, *model.decode(tokens_BxT, cache, params.layers)

    def on_all_devices(self, token_B: jax.Array) -> jax.Array:
        """The tokens, replicated, so that every host can read them."""
        if self.mesh is None:
            return token_B
        return jax.lax.with_sharding_constraint(token_B, NamedSharding(self.mesh, PartitionSpec()))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Params:
    layers: list[Any]
    others: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """What a step leaves for the next one: the cache, and with a repetition penalty the ids that each sequence has."""

    cache: KVCache
    seen_BxV: jax.Array | None


@partial(jax.jit, static_argnames=("dtype", "num_ids"))
def _decoding_params(params: Any, dtype: str, num_ids: int) -> _Params:
    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return leaf.astype(dtype) if names[-1] == "kernel" and "router" not in names else leaf  # a router is float32

    layers = jax.tree_util.tree_map_with_path(cast, split_layers(params["blocks"]))
    head = output_table(params)[:num_ids].astype(dtype)
    return _Params(layers, {name: leaf for name, leaf in params.items() if name != "blocks"} | {"head": head})


@partial(jax.jit, static_argnames=("model", "sampling", "cache_length"))
def _prefill(
    model: _Model,
    sampling: Sampling,
    params: _Params,
    tokens_BxT: jax.Array,
    length_B: jax.Array,
    random: Any,
    cache_length: int,
) -> tuple[jax.Array, _State]:
    B, T = tokens_BxT.shape
    empty = KVCache.empty(model.config, B, cache_length)
    transformer, x_BxTxD, cache = model.decode(params, tokens_BxT, empty)
    cache = dataclasses.replace(cache, length_B=length_B)  # later tokens overwrite the padding
    seen_BxV = None
    if sampling.repetition_penalty != 1:
        num_ids = params.others["head"].shape[0]
        id_BxT = jnp.where(jnp.arange(T) < length_B[:, None], tokens_BxT, num_ids)  # padding is out of range: dropped
        seen_BxV = jnp.zeros((B, num_ids), bool).at[jnp.arange(B)[:, None], id_BxT].set(True, mode="drop")
    last_BxD = x_BxTxD[jnp.arange(B), length_B - 1]
    return _draw(model, sampling, transformer, last_BxD, random, _State(cache, seen_BxV))


@partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames="state")
def _step(
    model: _Model, sampling: Sampling, params: _Params, token_B: jax.Array, state: _State, random: Any
) -> tuple[jax.Array, _State]:
    # Sequences that have ended are still computed with the others, even past their context: nobody reads their ids.
    transformer, x_Bx1xD, cache = model.decode(params, token_B[:, None], state.cache)
    return _draw(model, sampling, transformer, x_Bx1xD[:, 0], random, _State(cache, state.seen_BxV))


def _draw(
    model: _Model, sampling: Sampling, transformer: Transformer, x_BxD: jax.Array, random: Any, state: _State
) -> tuple[jax.Array, _State]:
    logits_BxV = transformer.logits(x_BxD[:, None])[:, 0]
    seed, number_B = random
    key_B = jax.vmap(partial(_key, seed))(number_B, state.cache.length_B)
    token_B = model.on_all_devices(sample(logits_BxV, key_B, sampling, state.seen_BxV))
    if state.seen_BxV is not None:
        seen_BxV = state.seen_BxV.at[jnp.arange(token_B.shape[0]), token_B].set(True)
        state = dataclasses.replace(state, seen_BxV=seen_BxV)
    return token_B, state


def _key(seed: jax.Array, number: jax.Array, position: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), position)


def _bucket(length: int, longest: int) -> int:
    """`length` rounded up to a power of two, but at most `longest`."""
    return min(longest, max(SHORTEST_BUCKET, 1 << (int(length) - 1).bit_length()))
