"""Checks an export against the model that it was made from, with `transformers` itself: ids, logits and a greedy continuation."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tonsai_jax.errors import UserError
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

TEXTS = (
    "ប្រទេសកម្ពុជាមានរាជធានីភ្នំពេញ។ កុមារទៅសាលារៀនរាល់ថ្ងៃ។",
    "The children walk to school every day, and the teacher reads them a story.",
)
RANDOM_ROWS = 2
LENGTH = 48  # tokens of a row, if the context has as many
NEW_TOKENS = 16
# Of the largest logit. Both compute in float32, from the weights as they are stored, so it is the same for bfloat16 weights.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
      version: of transformers.
      tokens: number of positions whose logits were compared.
      difference: the largest one between two logits, divided by the largest logit.
      new_tokens: number of tokens of the greedy continuations.
    """

    version: str
    tokens: int
    difference: float
    new_tokens: int

    def __str__(self) -> str:
        return (
            f"transformers {self.version} gives the same ids for {len(TEXTS)} texts, the same {self.new_tokens} greedy tokens, "
            f"and logits that differ by at most {self.difference:.1e} of the largest one, at {self.tokens} positions "
            f"(limit {TOLERANCE:g})"
        )


def verify(
    folder: Path, model_config: ModelConfig, params: Mapping[str, Any], tokenizer: Tokenizer, dtype: str
) -> Comparison:
    """Loads the export with `transformers` and compares it with our model.

    Args:
      folder: the export.
      model_config: of the model.
      params: nested dict of float32 arrays.
      tokenizer: that the model was trained with.
      dtype: of the weights in the export.

    Raises `UserError` if the two differ, or if `transformers` and PyTorch are not installed.
    """
    torch, transformers = _libraries()
    texts = _compare_ids(transformers, folder, tokenizer)
    rows_NxT = _rows(texts, model_config)
    ours = _OurModel(model_config, params, dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours_NxTxV = ours.logits(rows_NxT)
    with torch.no_grad():
        theirs_NxTxV = theirs(torch.from_numpy(rows_NxT.astype(np.int64))).logits.float().numpy()
    if ours_NxTxV.shape != theirs_NxTxV.shape:
        raise UserError(f"{folder}: differs from the run: {theirs_NxTxV.shape[-1]} ids, not {ours_NxTxV.shape[-1]}")
    scale = float(np.abs(theirs_NxTxV).max())
    difference = float(np.abs(ours_NxTxV - theirs_NxTxV).max()) / scale
    if not difference <= TOLERANCE:
        raise UserError(
            f"{folder}: differs from the run: in transformers {transformers.__version__} the logits are up to "
            f"{difference:.1e} of the largest one away from ours (limit {TOLERANCE:g}); do not share this export"
        )
    new_tokens = sum(
        _compare_greedy(torch, folder, ours, theirs, row, tokenizer.end_ids, TOLERANCE * scale)
        for row in rows_NxT[: len(texts)]
    )
    return Comparison(transformers.__version__, rows_NxT.size, difference, new_tokens)


def check_libraries() -> None:
    """Raises `UserError` unless `verify` can run here."""
    _libraries()


def _libraries() -> tuple[Any, Any]:
    """PyTorch and transformers. Not by `import`: nothing in this package needs them, but this check of the result."""
    try:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"--verify needs transformers and PyTorch ({error}); install them with `uv sync --extra hf`, or leave it out"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def _compare_ids(transformers: Any, folder: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of the texts, as training rows have them; raises `UserError` where the exported tokenizer gives others."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in map(tokenizer.normalize_prompt, TEXTS):
        ids = tokenizer.encode(text)
        if theirs(text, add_special_tokens=False)["input_ids"] != ids:
            raise UserError(f"{folder}: differs from the run: its tokenizer gives other ids for {text[:20]!r}")
        rows.append([tokenizer.end_of_text_id, *ids])
    return rows


def _rows(texts: list[list[int]], model_config: ModelConfig) -> np.ndarray:
    """int32 [N, T]: the texts, repeated or cut to one length, and rows of random ids."""
    length = min(LENGTH, model_config.context_length)
    rows = [(ids * length)[:length] for ids in texts]
    random = np.random.default_rng(0).integers(0, model_config.vocab_size, (RANDOM_ROWS, length))
    return np.concatenate([np.array(rows), random]).astype(np.int32)


class _OurModel:
    """Our model in float32, with the weights as they are in the export."""

    def __init__(self, model_config: ModelConfig, params: Mapping[str, Any], dtype: str) -> None:
        graph = model_graph(dataclasses.replace(model_config, dtype="float32"), "xla")

        @jax.jit
        def logits(params: Any, ids_NxT: jax.Array) -> jax.Array:
            stored = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), params)
            model = nnx.merge(graph, stored)
            return model.logits(model(ids_NxT)[0])

        self._logits, self._params, self._vocab_size = logits, params, model_config.vocab_size

    def logits(self, ids_NxT: np.ndarray) -> np.ndarray:
        """float32 [N, T, V]."""
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._logits(self._params, ids_NxT))[..., : self._vocab_size]


def _compare_greedy(
    torch: Any, folder: Path, ours: _OurModel, theirs: Any, row_T: np.ndarray, end_ids: tuple[int, ...], tie: float
) -> int:
    """Continues the first half of a row with `generate` of transformers; returns how many tokens it gives.

    Raises `UserError` where one of them is not our most likely token, nor one whose logit is within `tie` of it.
    """
    prompt = row_T[: len(row_T) // 2]
    count = min(NEW_TOKENS, len(row_T) - len(prompt))
    with torch.no_grad():
        inputs = torch.from_numpy(prompt[None].astype(np.int64))
        mask = torch.ones_like(inputs)
        ids = theirs.generate(inputs, attention_mask=mask, max_new_tokens=count, do_sample=False)[0].numpy()
    new = ids[len(prompt) :]
    # Tokens after a position do not change its logits, so one pass over a whole row checks every step.
    logits_TxV = ours.logits(np.resize(ids, row_T.shape)[None].astype(np.int32))[0, len(prompt) - 1 : len(ids) - 1]
    behind_T = logits_TxV.max(axis=-1) - logits_TxV[np.arange(len(new)), new]
    if (behind_T > tie).any():
        raise UserError(f"{folder}: differs from the run: a greedy continuation in transformers is not ours")
    if len(new) < count and new[-1] not in end_ids:
        raise UserError(f"{folder}: differs from the run: in transformers the id {new[-1]} ends a text")
    return len(new)
