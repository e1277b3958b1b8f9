"""Fits new rows so that the frozen model reads the new tokens as it read the old pieces: token distillation.

Dobler, Elliott and de Melo (2025), https://arxiv.org/abs/2505.20133: the hidden states after a text in new tokens should be
those after the same text in old pieces. That trains what the model reads. What it predicts (the output head, or the same rows
where both are tied) has no part in it, so the loss on the next token is added, as a variant in that paper does.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tonsai_jax.errors import UserError
from tonsai_jax.model.attention import choose_attention_backend
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.transformer import output_table
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.tokenizer.encoding import cut_where_words_end
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.loss import chunk_length, cross_entropy
from tonsai_jax.training.state import model_graph

CHUNK_TOKENS = 512  # whose logits are in memory at once


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """How new rows are fitted.

    Attributes:
      steps: number of updates.
      batch_size: texts in a step.
      seq_len: tokens of a text, old and new, at most the model's context; longer texts are cut.
      rate: the learning rate of Adam at the start, as a share of the root mean square of the old rows; it falls to 0 linearly.
    """

    steps: int = 300
    batch_size: int = 16
    seq_len: int = 256
    rate: float = 0.2


@dataclasses.dataclass(frozen=True)
class Model:
    """A model's config, its parameters and its tokenizer."""

    config: ModelConfig
    params: Mapping[str, Any]
    tokenizer: Tokenizer


def distill(
    old: Model,
    new: Model,
    ids: np.ndarray,
    texts: Sequence[str],
    settings: DistillSettings,
    *,
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Fits the rows of `ids` in `new`; all other parameters stay as they are.

    Args:
      old: the model as it was.
      new: the same model with the new tables.
      ids: the new ids whose rows are fitted, int (n,).
      texts: texts in the new language; those without a new token teach nothing and are left out.
      settings: of the training.
      seed: of the order of the texts.
      progress: show the loss on stderr.

    Returns:
      (the parameters of the new model, the losses of every step: "hidden", the squared difference of the hidden states divided by
      the mean square of the old ones, and "next_token", in nats).

    Raises `UserError` if no text has a new token.
    """
    seq_len = min(settings.seq_len, old.config.context_length)
    rng = np.random.default_rng(seed)
    shuffled = [texts[index] for index in rng.permutation(len(texts))]
    enough = settings.steps * settings.batch_size
    pairs = list(islice(_pairs(shuffled, old.tokenizer, new.tokenizer, ids, seq_len), enough))
    if not pairs:
        raise UserError("no text has a new token, so there is nothing to distill from; give other documents")
    tables = [name for name in ("token_embedding", "head") if name in new.params]
    rows = {name: jnp.asarray(new.params[name])[ids] for name in tables}
    known = {
        name: jnp.sqrt(jnp.mean(jnp.square(jnp.asarray(old.params[name])[: old.config.vocab_size]))) for name in tables
    }
    optimizer = optax.adam(optax.linear_schedule(settings.rate, 0.0, settings.steps))
    state = optimizer.init(rows)
    backend = choose_attention_backend(old.config, jax.default_backend())[0]
    old_graph, new_graph = model_graph(old.config, backend), model_graph(new.config, backend)
    width = max(len(pair.new) for pair in pairs)
    chunk = chunk_length(settings.batch_size, width - 1, CHUNK_TOKENS)

    def loss_of(rows: dict[str, jax.Array], params: Any, batch: dict[str, jax.Array], target_BxTxD: jax.Array) -> Any:
        params = params | {name: jnp.asarray(params[name]).at[ids].set(rows[name]) for name in tables}
        x_BxSxD, _ = nnx.merge(new_graph, params)(batch["new"][:, :-1])
        place_BxS = batch["place"]
        found_BxS = place_BxS >= 0
        wanted_BxSxD = jnp.take_along_axis(target_BxTxD, jnp.maximum(place_BxS, 0)[..., None], axis=1)
        error = jnp.sum(jnp.square((x_BxSxD - wanted_BxSxD).astype(jnp.float32)), axis=-1, where=found_BxS[..., None])
        size = jnp.sum(jnp.square(wanted_BxSxD.astype(jnp.float32)), axis=-1, where=found_BxS[..., None])
        hidden = jnp.sum(error) / jnp.maximum(jnp.sum(size), 1e-9)
        weights_BxS = batch["real"] / jnp.maximum(jnp.sum(batch["real"]), 1)
        table = output_table(params)
        loss, nll = cross_entropy(x_BxSxD, table, batch["new"][:, 1:], weights_BxS, new.config.vocab_size, chunk)
        return hidden + loss, {"hidden": hidden, "next_token": nll}

    @jax.jit
    def step(rows: Any, state: Any, old_params: Any, new_params: Any, batch: dict[str, jax.Array]) -> Any:
        target_BxTxD, _ = nnx.merge(old_graph, old_params)(batch["old"])
        gradients, losses = jax.grad(loss_of, has_aux=True)(rows, new_params, batch, target_BxTxD)
        updates, state = optimizer.update(gradients, state)
        rows = {name: rows[name] + known[name] * updates[name] for name in tables}
        return rows, state, losses

    curve = []
    old_params, new_params = dict(old.params), dict(new.params)
    with progress_bar("distilling new tokens", unit=" steps", total=settings.steps, wanted=progress) as bar:
        for batch in _batches(pairs, settings, (seq_len, width), rng):
            rows, state, losses = step(rows, state, old_params, new_params, batch)
            curve.append({name: float(value) for name, value in losses.items()})
            bar.set_postfix_str(f"loss {curve[-1]['hidden']:.3f} hidden, {curve[-1]['next_token']:.3f} next token")
            bar.update(1)
    return dict(new.params) | {name: jnp.asarray(new.params[name]).at[ids].set(rows[name]) for name in tables}, curve


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A text in old and in new tokens, each after an end-of-text token.

    Attributes:
      old, new: ids.
      place: for each new token the position of the old token that ends at the same byte, or -1. Also -1 before the first new
        token of the vocabulary, where nothing differs.
    """

    old: list[int]
    new: list[int]
    place: np.ndarray


def _pairs(texts: Iterable[str], old: Tokenizer, new: Tokenizer, ids: np.ndarray, seq_len: int) -> Iterator[_Pair]:
    """The texts in parts of at most about `seq_len` new tokens; parts without a new token are left out."""
    old_bytes, new_bytes, is_new = old.token_bytes(), new.token_bytes(), np.isin(np.arange(new.vocab_size), ids)
    for text in texts:
        # A part has between this number of characters and twice as many, so that its new tokens fill the sequence. Of the old
        # ones, the last may be missing: there the loss on the next token remains.
        characters = max(1, len(text) * seq_len // (2 * max(len(new.encode(text)), 1)))
        for part in cut_where_words_end(text, characters):
            old_ids, new_ids = old.encode(part)[: seq_len - 1], new.encode(part)[: seq_len - 1]
            of_new = is_new[new_ids]
            if not of_new.any():
                continue
            _, at_old, at_new = np.intersect1d(
                np.cumsum(old_bytes[old_ids]) - len(old.prefix),
                np.cumsum(new_bytes[new_ids]) - len(new.prefix),
                return_indices=True,
            )
            place = np.full(len(new_ids) + 1, -1, np.int32)
            place[at_new + 1] = at_old + 1
            place[: of_new.argmax() + 1] = -1
            yield _Pair([old.end_of_text_id, *old_ids], [new.end_of_text_id, *new_ids], place)


def _batches(
    pairs: Sequence[_Pair], settings: DistillSettings, widths: tuple[int, int], rng: np.random.Generator
) -> Iterator[dict[str, np.ndarray]]:
    order: list[int] = []
    old_width, new_width = widths
    for _ in range(settings.steps):
        while len(order) < settings.batch_size:
            order += rng.permutation(len(pairs)).tolist()
        chosen, order = [pairs[index] for index in order[: settings.batch_size]], order[settings.batch_size :]
        batch = {
            "old": np.zeros((settings.batch_size, old_width), np.int32),
            "new": np.zeros((settings.batch_size, new_width), np.int32),
            "place": np.full((settings.batch_size, new_width - 1), -1, np.int32),
            "real": np.zeros((settings.batch_size, new_width - 1), np.float32),
        }
        for row, pair in enumerate(chosen):
            batch["old"][row, : len(pair.old)] = pair.old
            batch["new"][row, : len(pair.new)] = pair.new
            places = pair.place[: new_width - 1]
            batch["place"][row, : len(places)] = places
            batch["real"][row, : len(pair.new) - 1] = 1
        yield batch
