"""Generates text with a model: continues prompts, and gives the text piece by piece while it is generated.

Two compiled functions do the work. `_prefill` reads all prompts at once and fills a cache of keys and values; `_step` adds one
token to each sequence. Prompts of different lengths share a batch: each sequence has its own length in the cache, so its text
does not depend on the other sequences. Array names: B sequences, T prompt positions, V vocabulary, K kept ids, D model width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import KVCache, Transformer
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

BATCH_SIZE = 16  # prompts continued together; further prompts follow in the next batch
SHORTEST_BUCKET = 16  # lengths are rounded up to powers of two, at least this one, so that few shapes are compiled
CUT_CHARACTER = "\ufffd"  # decoded from bytes that are not a whole character


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Raises `UserError` for a value out of range.

    Attributes:
      temperature: divides the logits; 0 always takes the most likely token (greedy decoding).
      top_k: draws only from the k most likely tokens; 0 for no limit.
      top_p: draws only from the most likely tokens that together reach this probability (nucleus sampling,
        arXiv:1904.09751); 1 for no limit.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} must be at least 0; use 0 for greedy decoding")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k} must be at least 0; use 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be in (0, 1]; use 1 for no limit")


def sample(logits_BxV: jax.Array, key_B: jax.Array, sampling: Sampling) -> jax.Array:
    """Draws one id per sequence: applies the temperature, then top-k, then top-p.

    Args:
      logits_BxV: float [B, V].
      key_B: a random key per sequence, [B].
      sampling: the settings.

    Returns int32 [B].
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    draw = jax.vmap(jax.random.categorical)
    scaled_BxV = logits_BxV / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1:
        return draw(key_B, scaled_BxV).astype(jnp.int32)
    vocab_size = logits_BxV.shape[-1]
    kept_BxK, id_BxK = jax.lax.top_k(scaled_BxV, min(sampling.top_k or vocab_size, vocab_size))
    if sampling.top_p < 1:
        probability_BxK = jax.nn.softmax(kept_BxK, axis=-1)
        likelier_BxK = jnp.cumsum(probability_BxK, axis=-1) - probability_BxK
        kept_BxK = jnp.where(likelier_BxK < sampling.top_p, kept_BxK, -jnp.inf)
    choice_B = draw(key_B, kept_BxK)
    return jnp.take_along_axis(id_BxK, choice_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def generate_texts(
    model_config: ModelConfig,
    params: dict[str, Any],
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> list[str]:
    """Returns the continuation of each prompt, without the prompt; see `stream_texts` for arguments and errors."""
    sampling = Sampling(temperature, top_k, top_p)
    texts = [""] * len(prompts)
    for number, piece in stream_texts(
        model_config, params, tokenizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed
    ):
        texts[number] += piece
    return texts


def stream_texts(
    model_config: ModelConfig,
    params: dict[str, Any],
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[int, str]]:
    """Continues each prompt as the beginning of a document; yields (prompt index, text) for every new token.

    Prompts are normalized like the tokenizer's training text. The text of a token is the characters that it completes: it is
    empty while a character still lacks bytes, so it never holds half a character. An incomplete character at the end is left
    out. A continuation ends before the end-of-text token, after `max_new_tokens` tokens, or when the model's context is full. For
    an empty prompt the model starts a document of its own.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays, on any devices.
      tokenizer: the tokenizer that the model was trained with.
      prompts: the texts to continue.
      max_new_tokens: the most tokens per prompt.
      sampling: how tokens are drawn.
      seed: the same seed, prompts and settings give the same text.

    Raises:
      UserError: a prompt is not UTF-8, or it fills the model's context.
    """
    for number, prompt in enumerate(prompts, start=1):
        try:
            prompt.encode()
        except UnicodeEncodeError:  # Python turns bytes that are not UTF-8 on a command line into surrogates
            raise UserError(f"prompt {number} is not UTF-8 text; set the terminal or the file to UTF-8") from None
    # In training, documents follow an end-of-text token: after one, the model reads a prompt as the start of a document.
    normalized = [tokenizer.normalize_prompt(prompt) for prompt in prompts]
    prompt_ids = [[tokenizer.end_of_text_id, *ids] for ids in tokenizer.encode_batch(normalized)]
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = prompt_ids[start : start + BATCH_SIZE]
        texts = [_CharacterStream(tokenizer) for _ in batch]
        for step in generate_ids(
            model_config,
            params,
            batch,
            end_of_text_id=tokenizer.end_of_text_id,
            num_ids=min(tokenizer.vocab_size, model_config.vocab_size),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            first_number=start,
        ):
            for number, id in enumerate(step):
                if id is not None:
                    yield start + number, texts[number].add(id)


def generate_ids(
    model_config: ModelConfig,
    params: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text_id: int,
    num_ids: int,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    first_number: int = 0,
) -> Iterator[list[int | None]]:
    """Continues one batch of sequences: yields after every step the new id of each sequence, or None if it has ended.

    Args:
      model_config: of the model.
      params: nested dict of float32 arrays.
      prompts: the ids of each sequence, at least one.
      end_of_text_id: ends a sequence; it is not yielded.
      num_ids: only ids below this are drawn, because the model's table can be larger than the vocabulary.
      max_new_tokens: the most ids per sequence.
      sampling: how ids are drawn.
      seed: for the random numbers.
      first_number: the number of the first sequence. The random numbers of a sequence depend on `seed` and its number.

    Raises `UserError` for a prompt that fills the model's context.
    """
    room = [model_config.context_length - len(ids) for ids in prompts]
    for number, ids in enumerate(prompts, start=first_number + 1):
        if len(ids) >= model_config.context_length:
            raise UserError(
                f"prompt {number} has {count_of(len(ids), 'token')} and leaves no room in the model's context_length="
                f"{model_config.context_length}; use a shorter prompt"
            )
    limits = [min(max_new_tokens, rest) for rest in room]
    most = max(limits)
    if most < 1:
        return
    params = _ready(params, model_config.dtype)
    decoder = _Decoder(model_graph(model_config, "xla"), sampling, num_ids, _mesh_of(params))
    lengths = [len(ids) for ids in prompts]
    tokens_BxT = np.zeros((len(prompts), _bucket(max(lengths), model_config.context_length)), np.int32)
    for number, ids in enumerate(prompts):
        tokens_BxT[number, : len(ids)] = ids
    cache_length = _bucket(max(lengths) + most, model_config.context_length)
    random = (np.uint32(seed % 2**32), np.arange(first_number, first_number + len(prompts), dtype=np.uint32))

    token_B, cache = _prefill(decoder, params, tokens_BxT, np.array(lengths, np.int32), random, cache_length)
    going = [True] * len(prompts)
    for count in range(most):
        ready_B = token_B
        if count + 1 < most:  # dispatched first, so that the device works while the host reads the ids
            token_B, cache = _step(decoder, params, token_B, cache, random)
        ids_B = np.asarray(ready_B.addressable_data(0)).tolist()
        going = [
            on and count < limit and id != end_of_text_id for on, limit, id in zip(going, limits, ids_B, strict=True)
        ]
        if not any(going):
            return
        yield [id if on else None for on, id in zip(going, ids_B, strict=True)]


class _CharacterStream:
    """Decodes ids one by one into text that grows by whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # number of characters of these ids that were returned

    def add(self, id: int) -> str:
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids)
        whole = text.removesuffix(CUT_CHARACTER)  # the next bytes may complete the last character
        piece = whole[self._given :]
        self._given = len(whole)
        if whole == text:
            self._ids, self._given = [], 0
        return piece


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """The static arguments of the compiled functions."""

    graph: nnx.GraphDef
    sampling: Sampling
    num_ids: int
    mesh: Mesh | AbstractMesh | None

    def draw(self, model: Transformer, x_BxD: jax.Array, random: Any, position_B: jax.Array) -> jax.Array:
        """Draws the token for `position_B`, int32 [B], replicated on all devices so that every host can read it."""
        logits_BxV = model.logits(x_BxD[:, None])[:, 0, : self.num_ids]
        seed, number_B = random
        token_B = sample(logits_BxV, jax.vmap(partial(_key, seed))(number_B, position_B), self.sampling)
        if self.mesh is None:
            return token_B
        return jax.lax.with_sharding_constraint(token_B, NamedSharding(self.mesh, PartitionSpec()))


def _key(seed: jax.Array, number: jax.Array, position: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), position)


@partial(jax.jit, static_argnames=("decoder", "cache_length"))
def _prefill(
    decoder: _Decoder, params: Any, tokens_BxT: jax.Array, length_B: jax.Array, random: Any, cache_length: int
) -> tuple[jax.Array, KVCache]:
    model = nnx.merge(decoder.graph, params)
    B = tokens_BxT.shape[0]
    x_BxTxD, cache = model.decode(tokens_BxT, KVCache.empty(model.config, B, cache_length))
    token_B = decoder.draw(model, x_BxTxD[jnp.arange(B), length_B - 1], random, length_B)
    return token_B, dataclasses.replace(cache, length_B=length_B)  # later tokens overwrite the padding


@partial(jax.jit, static_argnames="decoder", donate_argnames="cache")
def _step(decoder: _Decoder, params: Any, token_B: jax.Array, cache: KVCache, random: Any) -> tuple[jax.Array, KVCache]:
    model = nnx.merge(decoder.graph, params)
    # Sequences that have ended are still computed with the others, even past their context: nobody reads their ids.
    x_Bx1xD, cache = model.decode(token_B[:, None], cache)
    return decoder.draw(model, x_Bx1xD[:, 0], random, cache.length_B), cache


@partial(jax.jit, static_argnames="dtype")
def _cast_kernels(params: Any, dtype: str) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.astype(dtype) if path[-1] == jax.tree_util.DictKey("kernel") else leaf, params
    )


def _ready(params: Any, dtype: str) -> Any:
    """Params on the device, with the weight matrices cast once to the dtype that every step computes in."""
    params = jax.tree.map(jnp.asarray, params)
    return params if dtype == "float32" else _cast_kernels(params, dtype)


def _mesh_of(params: Any) -> Mesh | AbstractMesh | None:
    sharding = jax.tree.leaves(params)[0].sharding
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _bucket(length: int, longest: int) -> int:
    """`length` rounded up to a power of two, but at most `longest`."""
    return min(longest, max(SHORTEST_BUCKET, 1 << (int(length) - 1).bit_length()))
