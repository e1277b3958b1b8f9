"""Reads the weights of a model in Hugging Face format into our parameters, one tensor at a time.

It is the way back of the export: the table of `names.tensors` says which part of which parameter a tensor is. A tensor is sent
to all devices in the dtype in which it is stored; there it becomes float32, or what is asked for, and each device writes its
own part of it into its place. So the host holds one tensor at a time, and a device its part of the model and one tensor.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, refuse_lfs_pointer, sha256_file
from tonsai_jax.huggingface.names import Tensor, flat, tensors
from tonsai_jax.model.config import ModelConfig
from tonsai_jax.names import file_inside
from tonsai_jax.training.state import init_params

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Tensors of a file that are no parameters: masks and frequencies that older versions of transformers saved. And the parts of a
# model of pictures and text that a text does not need.
_NO_PARAMETER = re.compile(
    r"(attn\.(masked_)?bias|rotary_emb\.inv_freq)$|^(model\.)?(vision_tower|multi_modal_projector)\."
)


class Weights:
    """The tensors of a model's folder, by name. Opening it reads the table of contents of each file, and no tensor.

    Attributes:
      folder: the model's folder.
      dtype: in which most of the elements are stored: "float32", "bfloat16" or "float16".
    """

    def __init__(self, folder: Path) -> None:
        """Raises `UserError` where there are no weights that can be read, or a file is missing or damaged."""
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        self._kind_of: dict[str, tuple[str, tuple[int, ...]]] = {}
        for file, names in _files(folder).items():
            with _opened(file) as contents:
                there = set(contents.keys())
                if missing := sorted(names - there):
                    raise UserError(f"{file}: has no tensor {missing[0]}, which {INDEX} says; download it again")
                for name in names or there:
                    self._file_of[name] = file
                    described = contents.get_slice(name)
                    self._kind_of[name] = described.get_dtype(), tuple(described.get_shape())
        if not self._kind_of:
            raise UserError(f"{folder}: its weights have no tensors; download them again")
        sizes: dict[str, int] = {}
        for kind, shape in self._kind_of.values():
            sizes[kind] = sizes.get(kind, 0) + int(np.prod(shape))
        most = max(sizes, key=lambda kind: sizes[kind])
        self.dtype = DTYPES.get(most, "float32")

    def sha256(self) -> str:
        """The identity of the weights: SHA-256 of the names and the bytes of their files, in hex."""
        files = {file.name: sha256_file(file) for file in set(self._file_of.values())}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def params(self, model_config: ModelConfig, wanted: Any = None) -> dict[str, Any]:
        """The parameters, a nested dict of arrays; rows that pad the vocabulary are 0.

        Args:
          model_config: of the model, from its config.json.
          wanted: tree like the parameters, the shape, dtype and `NamedSharding` of each; None is float32 on the default device.

        Raises `UserError` for a tensor that is missing, has another shape or dtype, or has no place in the model.
        """
        shapes = flat(jax.eval_shape(lambda: init_params(model_config, 0)) if wanted is None else wanted)
        matched = self._matched(model_config, shapes)
        arrays: dict[str, Any] = {}
        for path, leaf in shapes.items():
            make = jax.jit(partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=leaf.sharding)
            arrays[path] = make()
        for tensor, name in matched:
            sharding = shapes[tensor.path].sharding
            arrays[tensor.path] = _write(
                arrays[tensor.path],
                _on_devices(self._read(name), sharding),
                np.array(tensor.index, np.int32),
                sharding=sharding,
                start=tensor.columns.start if tensor.columns else 0,
                is_transposed=tensor.is_transposed,
                factor=tensor.factor,
            ).block_until_ready()  # else the host reads on, and holds many tensors
        return unflatten_dict(arrays, sep=".")

    def _matched(self, model_config: ModelConfig, shapes: Mapping[str, Any]) -> list[tuple[Tensor, str]]:
        """Each tensor of the model with its name in the files."""
        wanted: list[tuple[Tensor, str]] = []
        for tensor in tensors(model_config):
            name = next((name for name in _spellings(tensor.name) if name in self._kind_of), None)
            if name is None:
                raise UserError(
                    f"{self.folder}: has no tensor {tensor.name}, which its config.json asks for; download the model again"
                )
            kind, shape = self._kind_of[name]
            expected = jax.eval_shape(tensor.of, shapes[tensor.path]).shape
            if shape != expected:
                raise UserError(
                    f"{self._file_of[name]}: tensor {name} is {list(shape)}, but config.json makes it {list(expected)}; "
                    "the two files do not belong together"
                )
            if kind not in DTYPES:
                raise UserError(
                    f"{self._file_of[name]}: tensor {name} is stored as {kind}, which cannot be read; use a model that is "
                    f"stored in {', '.join(DTYPES.values())}, and not a quantized one"
                )
            wanted.append((tensor, name))
        read = {name for _, name in wanted}
        tied = set(_spellings("lm_head.weight")) if model_config.tie_embeddings else set()
        unknown = sorted(name for name in self._kind_of.keys() - read - tied if not _NO_PARAMETER.search(name))
        if unknown:
            raise UserError(
                f"{self._file_of[unknown[0]]}: tensor {unknown[0]} has no place in the model that config.json describes "
                f"({len(unknown)} such tensors); this kind of model is not supported"
            )
        return wanted

    def _read(self, name: str) -> np.ndarray:
        # Opened anew for each tensor: the memory into which a file is mapped is given back in between.
        with _opened(self._file_of[name]) as contents:
            return contents.get_tensor(name)


def _files(folder: Path) -> dict[Path, set[str]]:
    """The files with weights, and the names of the tensors that the index says are in them; none without an index."""
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{folder / INDEX}: has no weight_map; download it again")
        files: dict[Path, set[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(file_inside(folder, file, folder / INDEX), set()).add(name)
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(
                f"{missing[0]}: this file of the model is missing ({len(missing)} of {len(files)} are); download it again"
            )
        return files
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: set()}
    if pickles := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            f"{pickles[0]}: weights in this format can run programs when they are opened, so they are not read. Write them as "
            f'safetensors, in an environment with transformers: python -c "from transformers import AutoModelForCausalLM as '
            f"M; M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
        )
    raise UserError(f"{folder}: has no weights ({SINGLE}); download them next to its config.json")


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        refuse_lfs_pointer(file)
        raise UserError(f"{file}: not a whole safetensors file ({error}); download it again") from None


def _spellings(name: str) -> list[str]:
    """How the files of different versions name a tensor: with the prefix of the head's model or without, or inside a model of
    pictures and text."""
    bare = name.removeprefix("transformer.").removeprefix("model.")
    return [name, bare, f"language_model.{name}", f"model.language_model.{bare}"]


def _on_devices(value: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    if sharding is None:
        return jnp.asarray(value)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.make_array_from_callback(value.shape, everywhere, lambda index: value[index])


@partial(jax.jit, static_argnames=("sharding", "start", "is_transposed", "factor"), donate_argnums=0)
def _write(
    param: jax.Array,
    value: jax.Array,
    index: jax.Array,
    *,
    sharding: NamedSharding | None,
    start: int,
    is_transposed: bool,
    factor: float,
) -> jax.Array:
    """The way back of `Tensor.of`: `param` with the value at its place."""
    value = (value.T if is_transposed else value).astype(jnp.float32)
    if factor != 1.0:
        value = value / factor
    value = value.astype(param.dtype).reshape((1,) * len(index) + value.shape)
    column = [0] * (param.ndim - len(index) - 1) + [start]
    param = jax.lax.dynamic_update_slice(param, value, (*index, *map(jnp.int32, column)))
    return param if sharding is None else jax.lax.with_sharding_constraint(param, sharding)
