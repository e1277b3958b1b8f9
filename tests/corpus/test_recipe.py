"""Sources files beyond their sources: how text is cleaned and where; what is refused."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.recipe import load_recipe
from tonsai_jax.errors import UserError
from tonsai_jax.jobs.executor import Executor
from tonsai_jax.text.normalize import Normalization

SOURCES = "sources: [{name: a, language: km, path: a.txt}]\n"


def recipe_of(tmp_path: Path, keys: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(SOURCES + keys, encoding="utf-8")
    return path


def test_what_is_not_said_is_at_its_default(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_of(tmp_path, ""))
    assert (recipe.settings.normalize, recipe.settings.executor) == (Normalization(), Executor())


def test_keys_of_the_engine_go_on_to_it(tmp_path: Path) -> None:
    keys = "normalize: {zwsp: keep}\nexecutor: {kind: slurm, workers: 9, partition: cpu, time: '1:00'}"
    recipe = load_recipe(recipe_of(tmp_path, keys))
    assert recipe.settings.normalize == Normalization(zwsp="keep")
    assert recipe.settings.executor == Executor("slurm", 9, {"partition": "cpu", "time": "1:00"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("normalise: {zwsp: keep}", "unknown key 'normalise'; did you mean 'normalize'?"),
        ("normalize: {zwps: keep}", "normalize: unknown key 'zwps'; did you mean 'zwsp'?"),
        ("normalize: {zwsp: drop}", "normalize: zwsp is 'drop'; it must be one of: strip, keep"),
        ("deduplicate: {exact: 1}", "deduplicate: exact is 1; it must be true or false"),
        ("deduplicate: {nearly: true}", "deduplicate: unknown key 'nearly'; did you mean 'near'?"),
        ("deduplicate: {lines: 1}", "deduplicate: lines is 1; it must be a number of documents: 2 or more, or 0"),
        ("deduplicate: {similarity: 70}", "deduplicate: similarity is 70; it must be between 0.5 and 1"),
        ("quality: {preset: wep}", "quality: unknown preset 'wep'; did you mean 'web'?"),
        ("quality: {min_score: 2}", "quality: min_score is 2; it must be between 0 and 1"),
        (
            "quality: {rules: {km: {min_unit: 5}}}",
            "quality: rules: km: unknown key 'min_unit'; did you mean 'min_units'?",
        ),
        ("quality: {rules: {km: {min_units: few}}}", "quality: rules: km: min_units is 'few'; it must be a number"),
        ("quality: {rules: {km: {stop_words: the}}}", "quality: rules: km: stop_words is 'the'; it must be a list"),
        ("quality: {word_lists: {km: gone.txt}}", "quality: gone.txt: no such file"),
        ("quality: {language_model: gone.bin}", "quality: gone.bin: no such file"),
        ("decontaminate: {files: eval.txt}", "decontaminate: files is 'eval.txt'; it must be a list of files"),
        (
            "decontaminate: {files: [e.txt], words: 2}",
            "decontaminate: words is 2; it must be a whole number of at least 5",
        ),
        ("redact: {emails: true}", "redact: unknown key 'emails'; did you mean 'email'?"),
        ("on_error: strict", "on_error is 'strict'; it must be one of: stop, skip"),
        ("keep_dropped: 1", "keep_dropped is 1; it must be true or false"),
        ("normalize: keep", "normalize is 'keep'; it must be a mapping"),
        ("executor: {kind: slurm, time: '1:00'}", "executor: slurm needs 'partition'"),
        ("executor: {workers: many}", "executor: workers is 'many'; it must be a whole number"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, keys: str, message: str) -> None:
    path = recipe_of(tmp_path, keys)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
