"""A tokenizer's folder says what its files were when they were written."""

import random
import shutil
from pathlib import Path

import pytest

from tests.support.flips import with_a_flipped_bit
from tonsai_jax.errors import UserError
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.any_tokenizer import AnyTokenizer
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.folder_checksums import CHECKSUMS
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    train_tokenizer([Example(text, "km") for text in stories("km", 20, seed=1)], vocab_size=400, output_dir=folder)
    return folder


def test_no_flipped_bit_of_a_tokenizer_is_silent(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "t"))
    files = sorted(file for file in folder.iterdir() if file.suffix != ".html")
    assert len(files) == 6
    chance = random.Random(15)
    for number in range(60):
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(with_a_flipped_bit(whole, chance))
        with pytest.raises(UserError) as raised:
            Tokenizer.from_folder(folder)
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)
        file.write_bytes(whole)
    Tokenizer.from_folder(folder)


def test_a_change_on_purpose_says_how_it_is_kept(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "t"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    message = rf"{template}: damaged, or changed since .* if you changed it on purpose, remove {CHECKSUMS}"
    for open_folder in (Tokenizer.from_folder, AnyTokenizer.from_path):
        with pytest.raises(UserError, match=message):
            open_folder(folder)
    (folder / CHECKSUMS).unlink()
    Tokenizer.from_folder(folder)


def test_a_missing_file_is_named_and_a_further_one_is_no_fault(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "t"))
    (folder / "notes.txt").write_text("mine")
    Tokenizer.from_folder(folder)
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(UserError, match=rf"special_tokens_map\.json: no such file, but {CHECKSUMS} names it"):
        Tokenizer.from_folder(folder)
