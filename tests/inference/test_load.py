"""A model to evaluate is the same, wherever it comes from: a run, its export, or a folder of somebody else."""

import argparse
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support.made_once import MadeOnce
from tests.support.tiny_model import CONFIG, random_params, tiny_tokenizer
from tests.support.tiny_run import TinyRun
from tonsai_jax.commands.parser import CommandParser, open_model
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.load import LanguageModel, Run, load_model, load_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    params = random_params(CONFIG)
    params["token_embedding"] = params["token_embedding"].at[CONFIG.vocab_size :].set(0)  # rows that no export has
    return export(CONFIG, params, tokenizer, folder / "export")


@pytest.fixture(scope="module")
def workdir(made_once: MadeOnce, rows: Path) -> Path:
    return made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train()) / "run"


def words(*given: str) -> argparse.Namespace:
    parser = CommandParser(description=None, epilog="")
    parser.add_model()
    return parser.parse_args(given)


def test_an_exported_model_is_the_one_that_was_exported(exported: Path) -> None:
    model = load_model(str(exported))
    assert type(model) is LanguageModel
    assert model.name == str(exported)
    assert (model.model_config.context_length, model.model_config.vocab_size) == (64, 300)
    assert model.params["token_embedding"].dtype == np.float32
    np.testing.assert_array_equal(model.params["token_embedding"][:300], random_params(CONFIG)["token_embedding"][:300])
    assert model.tokenizer.normalization is not None, "the export says what the training text went through"


def test_a_run_and_its_export_are_the_same_model(workdir: Path, tmp_path: Path) -> None:
    run = load_run(workdir)
    again = load_model(str(export(run.model_config, run.params, run.tokenizer, tmp_path / "export")))
    used = run.model_config.vocab_size  # the rows after them pad the table, and are in no export
    ours, theirs = (
        model.params | {"token_embedding": model.params["token_embedding"][:used]} for model in (run, again)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert again.tokenizer.normalization == run.tokenizer.normalization
    assert again.tokenizer.end_of_text_id == run.tokenizer.end_of_text_id


def test_the_flags_open_a_run_at_its_step_or_a_model(workdir: Path, exported: Path) -> None:
    newest = open_model(words("--workdir", str(workdir)))
    earlier = open_model(words("--workdir", str(workdir), "--step", "16"))
    assert isinstance(newest, Run)
    assert isinstance(earlier, Run)
    assert (newest.step, earlier.step) == (24, 16)
    assert not np.array_equal(newest.params["token_embedding"], earlier.params["token_embedding"])
    assert open_model(words("--model", str(exported))).name == str(exported)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--model", "/nowhere"), "--model=/nowhere: no such folder"),
        (("--model", "gpt2/small"), "--model=gpt2/small: no such folder; for a model of the Hub write hf:gpt2/small"),
        (("--model", "x", "--step", "3"), "--step is a checkpoint of a run; give it with --workdir, not with --model"),
        (("--workdir", "/nowhere"), "/nowhere"),
        ((), "one of the arguments --workdir --model is required"),
        (("--model", "x", "--workdir", "y"), "not allowed with argument"),
    ],
)
def test_flags_that_name_no_model_end_in_one_line(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_model(words(*given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(exported / name)
    with pytest.raises(UserError, match=r"tokenizer") as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_config_of_a_run_is_one_line(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / "run")
    (copy / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: damaged, not the config of a run"):
        load_run(copy)
