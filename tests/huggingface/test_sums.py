"""The checksums of an export: `sha256sum` reads them, and every flipped bit is noticed."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.checkpoints.test_damage import flip
from tests.support.console import tonsai
from tonsai_jax.files import write_json
from tonsai_jax.huggingface.export import EDITABLE, seal
from tonsai_jax.huggingface.sums import SUMS_FILE, damage_of_export, edited_files


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder that was sealed as exports are, with files of one and of several blocks."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(random.Random(0).randbytes(100_000))
    for name in ("config.json", "tokenizer.json", *EDITABLE):
        write_json(folder / name, {"name": name})
    seal(folder, tmp_path / "nothing earlier", {"format": "tonsai_jax/export"})
    return folder


def test_sha256sum_reads_them(exported: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS_FILE], cwd=exported, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_every_flipped_bit_is_noticed(exported: Path) -> None:
    draw = random.Random(1)
    files = [path for path in sorted(exported.iterdir()) if path.name not in EDITABLE]
    flips = [(file, draw.randrange(8 * file.stat().st_size)) for file in files for _ in range(15)]
    ends = [place for place, byte in enumerate((exported / SUMS_FILE).read_bytes()) if byte == ord("\n")]
    flips += [(exported / SUMS_FILE, 8 * place + bit) for place in ends for bit in range(8)]  # may still end a line
    assert len(flips) >= 60
    for file, bit in flips:
        flip(file, bit)
        assert damage_of_export(exported) is not None, (file, bit)
        flip(file, bit)
    assert damage_of_export(exported) is None


def test_a_file_that_a_person_may_edit_is_named_but_is_no_damage(exported: Path) -> None:
    (exported / "README.md").write_text("my words")
    assert edited_files(exported) == ["README.md"]
    code, out, _ = tonsai("checkpoints", "verify", "--export", str(exported))
    assert (code, out.splitlines()[0]) == (0, f"{exported}: whole")
    assert "README.md is not what was exported; a person has edited it, or it is damaged" in out


def test_a_lost_file_and_an_export_without_sums(exported: Path) -> None:
    (exported / "config.json").unlink()
    code, _, err = tonsai("checkpoints", "verify", "--export", str(exported))
    assert (code, err) == (1, f"error: {exported}: damaged (config.json: is missing)\n")
    (exported / SUMS_FILE).unlink()
    assert "cannot be verified; export again" in tonsai("checkpoints", "verify", "--export", str(exported))[2]
