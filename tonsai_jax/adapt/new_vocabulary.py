"""Moves a model to another vocabulary: its tables get one row for each new id, all other parameters stay as they are."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from tonsai_jax.adapt.calibrated_rows import calibrate
from tonsai_jax.adapt.carried import carried_over
from tonsai_jax.adapt.distilled_rows import DistillSettings, Model, distill
from tonsai_jax.adapt.mean_rows import mean_weights
from tonsai_jax.adapt.similar_rows import similar_weights, static_embeddings
from tonsai_jax.errors import UserError, unknown_name
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer

INITS = ("mean", "similar", "calibrated", "distilled", "random")
LEARN_FROM_TEXT = ("similar", "calibrated", "distilled")


def check_init(init: str, has_text: bool) -> None:
    """Raises `UserError` for a way that is not known, and for one that needs text where there is none."""
    if init not in INITS:
        raise unknown_name("init", init, INITS)
    if init in LEARN_FROM_TEXT and not has_text:
        raise UserError(
            f"init={init} learns from text in the new language; give documents (--dataset-dir or --input), or use mean"
        )


@dataclasses.dataclass(frozen=True)
class Moved:
    """A model in its new vocabulary.

    Attributes:
      config, params: of the model; the parameters are float32.
      carried: number of ids whose row is an old row.
      made: number of ids whose row is new.
      curve: the losses of the distillation, step by step; empty for other rows.
    """

    config: ModelConfig
    params: dict[str, Any]
    carried: int
    made: int
    curve: list[dict[str, float]]


def with_new_vocabulary(
    old: Model,
    tokenizer: Tokenizer,
    *,
    init: str,
    texts: Sequence[str] = (),
    settings: DistillSettings | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Moved:
    """Gives a model the vocabulary of another tokenizer.

    The row of a token that the old vocabulary has too is carried over, bit for bit. The others are made, in the embedding and in
    an output head of its own:

    "mean": the mean of the rows of the old pieces (`mean_rows.py`).
    "similar": a weighted mean of the rows of similar tokens (`similar_rows.py`); needs `texts`.
    "calibrated": as "similar", then with the frequencies of the new tokens (`calibrated_rows.py`); needs `texts`.
    "distilled": as "similar", then fitted while the model is frozen (`distilled_rows.py`); needs `texts`.
    "random": normal, with the mean and the standard deviation that each column of the old table has.

    Args:
      old: the model with its tokenizer; parameters float32.
      tokenizer: the new one.
      init: how the new rows are made.
      texts: documents in the new language; for "calibrated" also in the old one.
      settings: of the distillation.
      seed: of random rows and of the order of the texts.
      progress: show the progress on stderr.

    Raises `UserError` for another `init`, for missing texts and those that teach nothing, if the old tokenizer has more ids than
    the model, and if the two vocabularies have no token in common.
    """
    check_init(init, any(texts))
    if old.tokenizer.required_rows > old.config.vocab_size:
        raise UserError(
            f"{old.tokenizer.folder}: this tokenizer has {old.tokenizer.required_rows} ids, but the model has only "
            f"{old.config.vocab_size}; it does not belong to the model"
        )
    old_size = min(old.tokenizer.vocab_size, old.config.vocab_size)
    sources_V = carried_over(old.tokenizer, tokenizer)
    sources_V[sources_V >= old_size] = -1  # a special token for which the old model has no row
    ids = np.flatnonzero(sources_V < 0)
    if len(ids) == len(sources_V):
        raise UserError(f"{tokenizer.folder}: has no token that the model's tokenizer has; it is of an unknown kind")
    config = dataclasses.replace(old.config, vocab_size=tokenizer.vocab_size)
    encoded = tokenizer.encode_batch([text for text in texts if text]) if init in LEARN_FROM_TEXT else []
    weights = None if init == "random" else mean_weights(old.tokenizer, tokenizer, ids, old_size)
    if weights is not None and encoded:
        embeddings_VxK = static_embeddings(encoded, tokenizer.vocab_size, seed)
        weights = similar_weights(embeddings_VxK, sources_V, ids, old_size, weights)
    rng = np.random.default_rng(seed)
    params = dict(old.params)
    for name in ("token_embedding", "head"):
        if name in params:
            params[name] = _table(np.asarray(params[name]), old_size, config, sources_V, weights, rng)
    if init == "calibrated" and len(ids):
        stream = np.concatenate([np.array((tokenizer.end_of_text_id, *text), np.int32) for text in encoded])
        params = calibrate(config, params, ids, stream, seed=seed, progress=progress)
    curve: list[dict[str, float]] = []
    if init == "distilled" and len(ids):
        new = Model(config, params, tokenizer)
        params, curve = distill(old, new, ids, texts, settings or DistillSettings(), seed=seed, progress=progress)
    return Moved(config, params, len(sources_V) - len(ids), len(ids), curve)


def _table(
    old_VxD: np.ndarray,
    old_size: int,
    config: ModelConfig,
    sources_V: np.ndarray,
    weights: scipy.sparse.csr_array | None,
    rng: np.random.Generator,
) -> Any:
    """A new table, float32 [padded_vocab_size, D]; its padding rows are 0. Without weights the new rows are random."""
    known_VxD = old_VxD[:old_size]
    new_VxD = np.zeros((config.padded_vocab_size, old_VxD.shape[1]), np.float32)
    carried = np.flatnonzero(sources_V >= 0)
    made = np.flatnonzero(sources_V < 0)
    new_VxD[carried] = known_VxD[sources_V[carried]]
    if weights is None:
        noise = rng.standard_normal((len(made), old_VxD.shape[1]), np.float32)
        new_VxD[made] = known_VxD.mean(axis=0) + noise * known_VxD.std(axis=0)
    else:
        new_VxD[made] = weights @ known_VxD
    return jnp.asarray(new_VxD)
