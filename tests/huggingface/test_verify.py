"""`--verify`: the export is loaded with `transformers`, and any difference from the run is an error."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.open_tokenizers import KINDS
from tests.support.tiny_model import CONFIG, config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.verify import TOLERANCE, check_libraries, verify
from tonsai_jax.model.presets import preset
from tonsai_jax.tokenizer.loading import Tokenizer

PARAMS = random_params(CONFIG)


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason="PyTorch and transformers are not installed; `uv sync --extra hf` brings them")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    return export(CONFIG, PARAMS, tokenizer, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_the_run(dtype, tokenizer, tmp_path) -> None:
    folder = export(CONFIG, PARAMS, tokenizer, tmp_path / "out", dtype=dtype)
    compared = verify(folder, CONFIG, PARAMS, tokenizer, dtype)
    assert compared.difference < TOLERANCE / 10
    assert compared.tokens == 4 * 48
    assert compared.new_tokens > 0
    assert f"at {compared.tokens} positions" in str(compared)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) for name in KINDS if name != "llama2"] + ["llama2"]
)
def test_an_export_with_the_tokenizer_of_an_open_model_is_the_run(name, tmp_path) -> None:
    tokenizer = Tokenizer.from_folder(KINDS[name](tmp_path / "model"))
    config = config_with(**preset("llama"), vocab_size=tokenizer.vocab_size + 7, context_length=20)
    params = random_params(config)
    folder = export(config, params, tokenizer, tmp_path / "out")
    assert verify(folder, config, params, tokenizer, "float32").difference < TOLERANCE / 10


def test_other_weights_are_an_error(folder, tokenizer) -> None:
    weights = dict(load_file(folder / "model.safetensors"))
    weights["transformer.h.1.mlp.c_fc.weight"] = weights["transformer.h.1.mlp.c_fc.weight"] * np.float32(1.01)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"differs from the run: .*do not share this export") as caught:
        verify(folder, CONFIG, PARAMS, tokenizer, "float32")
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_logits_that_are_not_finite_are_an_error(tokenizer, tmp_path) -> None:
    broken = PARAMS | {"token_embedding": PARAMS["token_embedding"].at[5].set(jnp.nan)}
    folder = export(CONFIG, broken, tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match="differs from the run"):
        verify(folder, CONFIG, broken, tokenizer, "float32")


def test_another_tokenizer_is_an_error(folder, tokenizer) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer gives other ids for"):
        verify(folder, CONFIG, PARAMS, tokenizer, "float32")


def test_a_text_that_ends_elsewhere_is_an_error(folder, tokenizer) -> None:
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = list(range(1, CONFIG.vocab_size))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(UserError, match=r"in transformers the id .* ends a text"):
        verify(folder, CONFIG, PARAMS, tokenizer, "float32")


def test_without_transformers_the_command_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UserError, match=r"--verify needs transformers and PyTorch .*`uv sync --extra hf`, or leave it out"
    ):
        check_libraries()
