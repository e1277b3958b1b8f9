"""Sources files beyond their sources: how text is cleaned and where; what is refused."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.engine import Executor
from tonsai_jax.corpus.normalize import Normalization
from tonsai_jax.corpus.recipe import load_recipe
from tonsai_jax.errors import UserError

SOURCES = "sources: [{name: a, language: km, path: a.txt}]\n"


def recipe_of(tmp_path: Path, keys: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(SOURCES + keys, encoding="utf-8")
    return path


def test_what_is_not_said_is_at_its_default(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_of(tmp_path, ""))
    assert (recipe.normalize, recipe.executor) == (Normalization(), Executor())


def test_keys_of_the_engine_go_on_to_it(tmp_path: Path) -> None:
    keys = "normalize: {zwsp: keep}\nexecutor: {kind: slurm, workers: 9, partition: cpu, time: '1:00'}"
    recipe = load_recipe(recipe_of(tmp_path, keys))
    assert recipe.normalize == Normalization(zwsp="keep")
    assert recipe.executor == Executor("slurm", 9, {"partition": "cpu", "time": "1:00"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("normalise: {zwsp: keep}", "unknown key 'normalise'; did you mean 'normalize'?"),
        ("normalize: {zwps: keep}", "normalize: unknown key 'zwps'; did you mean 'zwsp'?"),
        ("normalize: {zwsp: drop}", "normalize: zwsp is 'drop'; it must be one of: strip, keep"),
        ("deduplicate: {exact: 1}", "deduplicate: exact is 1; it must be true or false"),
        ("deduplicate: {near: true}", "deduplicate: unknown key 'near'"),
        ("normalize: keep", "normalize must be a group"),
        ("executor: {kind: slurm, time: '1:00'}", "executor: slurm needs 'partition'"),
        ("executor: {workers: many}", "executor: workers 'many' must be a whole number"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, keys: str, message: str) -> None:
    path = recipe_of(tmp_path, keys)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
