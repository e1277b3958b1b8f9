"""New rows with the frequency of their tokens: the closed form holds exactly, and text that cannot give it is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from tests.adapt.bases import ENGLISH_TEXT, KHMER_TEXT, make_base
from tests.support.console import tonsai, without_progress
from tests.support.tiny_model import config_with, random_params
from tonsai_jax.adapt.calibrated_rows import SHARE, calibrate
from tonsai_jax.adapt.distilled_rows import Model
from tonsai_jax.adapt.extend import extend_tokenizer
from tonsai_jax.adapt.new_vocabulary import with_new_vocabulary
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.model.presets import preset
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

OLD_SIZE, NEW_SIZE = 400, 500
NEW_IDS = np.arange(OLD_SIZE, NEW_SIZE)


# The closed form


@pytest.fixture(scope="module", params=["tied", "untied", "experts, bfloat16"])
def calibrated(request: pytest.FixtureRequest) -> tuple[dict, dict, np.ndarray, np.ndarray]:
    """(parameters before, after, the mean states before new and before old tokens (2, D), the stream of ids)."""
    changes = {
        "tied": {"tie_embeddings": True},
        "untied": {"tie_embeddings": False},
        "experts, bfloat16": {**preset("mixtral"), "num_experts": 4, "dtype": "bfloat16"},
    }[request.param]
    config = config_with(vocab_size=NEW_SIZE, **changes)
    before = random_params(config)
    rng = np.random.default_rng(1)
    # 20 windows, more than a batch, and a rest that is too short; new ids stand mostly after new ids.
    of_new = np.repeat(rng.random(200) < 0.5, 7)[: 20 * config.context_length + 30]
    stream = np.where(of_new, OLD_SIZE + rng.zipf(1.5, len(of_new)) % 90, rng.integers(1, OLD_SIZE, len(of_new)))
    after = calibrate(config, before, NEW_IDS, stream.astype(np.int32))
    rows = stream[: 20 * config.context_length].reshape(20, -1)
    states = np.asarray(nnx.merge(model_graph(config, "xla"), before)(rows)[0], np.float64).reshape(-1, config.d_model)
    next_is_new = stream[1 : 20 * config.context_length + 1] >= OLD_SIZE
    means = np.stack([states[next_is_new].mean(axis=0), states[~next_is_new].mean(axis=0)])
    return before, after, means, stream


def output_rows(params: dict) -> np.ndarray:
    return np.asarray(params.get("head", params["token_embedding"]), np.float64)[:NEW_SIZE]


def test_before_new_tokens_their_logits_are_their_log_frequencies_and_one_constant(calibrated) -> None:
    _, after, means, stream = calibrated
    counts = np.bincount(stream, minlength=NEW_SIZE)[OLD_SIZE:] + 0.5
    assert (counts == 0.5).any()  # some new tokens do not occur
    constants = output_rows(after)[OLD_SIZE:] @ means[0] - np.log(counts)
    np.testing.assert_allclose(constants, constants.mean(), atol=2e-3)


def test_before_new_tokens_all_new_ones_together_have_their_share(calibrated) -> None:
    _, after, means, _ = calibrated
    logits = output_rows(after) @ means[0]
    probabilities = np.exp(logits - np.logaddexp.reduce(logits))
    assert probabilities[OLD_SIZE:].sum() == pytest.approx(SHARE, abs=1e-3)


def test_before_old_tokens_no_logit_changes(calibrated) -> None:
    before, after, means, _ = calibrated
    moved = output_rows(after) - output_rows(before)
    assert np.abs(moved[OLD_SIZE:] @ means[0]).min() > 0.1
    np.testing.assert_allclose(moved @ means[1], 0, atol=2e-3)


def test_only_the_output_rows_of_new_tokens_move(calibrated) -> None:
    before, after, _, _ = calibrated
    name = "head" if "head" in before else "token_embedding"
    assert (np.asarray(after[name])[NEW_IDS] != np.asarray(before[name])[NEW_IDS]).any(axis=1).all()
    for rows in (slice(0, OLD_SIZE), slice(NEW_SIZE, None)):
        np.testing.assert_array_equal(after[name][rows], before[name][rows])
    assert after.keys() == before.keys()
    for other in before.keys() - {name}:
        jax.tree.map(np.testing.assert_array_equal, after[other], before[other])


# Text that cannot give it, and the command


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = make_base("ours", tmp_path_factory.mktemp("tokenizers") / "ours")
    config = config_with(**preset("llama"), vocab_size=OLD_SIZE)
    return Model(config, random_params(config), Tokenizer.from_folder(folder))


@pytest.fixture(scope="module")
def extended(old: Model) -> Tokenizer:
    folder = old.tokenizer.folder.with_name("extended")
    khmer = (Example(text, "km") for text in KHMER_TEXT)
    extend_tokenizer(old.tokenizer.folder, khmer, new_tokens=100, language="km", output_dir=folder)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def exported(old: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(old.config, old.params, old.tokenizer, tmp_path_factory.mktemp("model") / "old")


REFUSED = "the documents must have new tokens and old ones; give text of the new language and of the old one"


@pytest.mark.parametrize(
    "texts", [pytest.param(ENGLISH_TEXT, id="no new token"), pytest.param(["ខ្មែ"], id="no old token")]
)
def test_text_of_one_kind_of_tokens_is_refused(texts: list[str], old: Model, extended: Tokenizer) -> None:
    with pytest.raises(UserError, match=REFUSED):
        with_new_vocabulary(old, extended, init="calibrated", texts=texts)


@pytest.mark.full
def test_the_command_refuses_it_in_one_line(exported: Path, extended: Tokenizer, tmp_path: Path) -> None:
    code, out, err = called(exported, extended, tmp_path, ENGLISH_TEXT)
    assert (code, out, without_progress(err)) == (1, "", f"error: {REFUSED}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("texts", "init"),
    [(None, "mean"), pytest.param(KHMER_TEXT[:30] + ENGLISH_TEXT[:30], "calibrated", marks=pytest.mark.full)],
)
def test_new_rows_are_calibrated_where_there_are_documents_and_means_elsewhere(
    texts, init: str, exported: Path, extended: Tokenizer, tmp_path: Path
) -> None:
    code, out, err = called(exported, extended, tmp_path, texts)
    assert (code, without_progress(err)) == (0, "")
    assert f"400 rows carried over, 100 new rows ({init})" in out


def called(model: Path, tokenizer: Tokenizer, folder: Path, texts: list[str] | None) -> tuple[int, str, str]:
    """The command without --init, with documents or without."""
    words = ["--model", str(model), "--tokenizer-dir", str(tokenizer.folder), "--output-dir", str(folder / "out")]
    if texts is not None:
        (folder / "texts.txt").write_text("\n".join(texts))
        words += ["--input", str(folder / "texts.txt")]
    return tonsai("new-vocabulary", *words)
