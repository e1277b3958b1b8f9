"""The tensors of a GGUF file, made from those of the Hugging Face model: their names, their order of values, their dtypes.

The table of a family is `huggingface/names.py`; the names in GGUF are looked up in the `gguf` package. Three things differ from
the Hugging Face model. Its `Conv1D` weights are [in, out], all weights in GGUF are [out, in]. The experts of a layer are one
tensor. And for Llama and Mixtral, llama.cpp rotates neighboring pairs of a head, where Hugging Face rotates its halves.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np

from tonsai_jax.huggingface.names import Tensor, family_of, tensors
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.model.rope import frequencies

ARCHITECTURES = {
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "mixtral": gguf.MODEL_ARCH.LLAMA,  # Llama with experts
}
ROPE_FACTORS = "rope_freqs.weight"
_EXPERT = re.compile(r"(?<=\.experts)\.\d+(?=\.)")
# As in llama.cpp's own converter: small, and sensitive to rounding.
_FLOAT32 = ("position_embd.weight", "ffn_gate_inp.weight")


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """One tensor of the file.

    Attributes:
      name: its name in the file.
      parts: the Hugging Face tensors that it is stacked from, one for each expert; most have one part.
      heads: for queries and keys whose pairs are rearranged, the number of heads; else 0.
      is_transposed: whether the Hugging Face tensor is [in, out].
    """

    name: str
    parts: tuple[Tensor, ...]
    heads: int = 0
    is_transposed: bool = False

    def of(self, by_path: Mapping[str, Any]) -> Any:
        """The values, a float32 array, taken from the parameters by their paths."""
        values = [self._part(part.of(by_path[part.path])) for part in self.parts]
        return jnp.stack(values) if _is_expert(self.parts[0]) else values[0]

    def _part(self, value: Any) -> Any:
        if self.is_transposed:
            value = value.T
        if self.heads:
            half = value.shape[0] // self.heads // 2
            value = value.reshape(self.heads, 2, half, -1).swapaxes(1, 2).reshape(value.shape)
        return value


def gguf_tensors(model_config: ModelConfig) -> Iterator[GGUFTensor]:
    """All tensors of the file that hold parameters. Raises `UserError` if no family fits the model."""
    family = family_of(model_config)
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], model_config.num_layers)
    parts: dict[str, list[Tensor]] = {}
    for tensor in tensors(model_config):
        name = names.get_name(_EXPERT.sub("", tensor.name), try_suffixes=(".weight", ".bias"))
        if name is None:
            raise KeyError(f"{tensor.name}: the gguf package has no name for it in {family}")
        parts.setdefault(name, []).append(tensor)
    rotated = {} if family in ("gpt2", "qwen3") else {"attn_q": model_config.num_heads, "attn_k": model_config.kv_heads}
    for name, stacked in parts.items():
        is_conv1d = family == "gpt2" and stacked[0].path.endswith(".kernel")
        yield GGUFTensor(name, tuple(stacked), rotated.get(name.split(".")[-2], 0), is_conv1d)


def rope_factors(model_config: ModelConfig) -> np.ndarray:
    """By how much llama.cpp divides the frequency of each pair, float32 [P]: how "llama3" is stored."""
    pairs = np.arange(model_config.head_dim // 2)
    plain = model_config.rope_theta ** (-2.0 * pairs / model_config.head_dim)
    return (plain / frequencies(model_config)[0]).astype(np.float32)


def dtype_of(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """The dtype of a tensor in a file of this dtype: llama.cpp computes with vectors in float32 only."""
    return "float32" if len(shape) == 1 or name.endswith(_FLOAT32) else dtype


def _is_expert(part: Tensor) -> bool:
    return _EXPERT.search(part.name) is not None
