"""The SHA-256 of an export's files, in a file that `sha256sum --check` reads too."""

from collections.abc import Iterable
from pathlib import Path

from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, sha256_file

SUMS_FILE = "SHA256SUMS"


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes `folder/SHA256SUMS` for these of its files."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def damage_of_export(folder: Path) -> str | None:
    """What is damaged in an export, as "model.safetensors: its bytes are not those that were written"; None where nothing is.

    Raises `UserError` where the folder is no export, or one of an earlier version, which has no sums.
    """
    path = folder / SUMS_FILE
    if not (folder / "export.json").is_file() and not path.is_file():
        raise UserError(f"{folder}: no export here (no export.json)")
    if not path.is_file():
        raise UserError(f"{path}: no such file, so the export cannot be verified; export again")
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
        sums = {name: sha256 for sha256, name in pairs}
    except ValueError:
        return f"{SUMS_FILE}: does not hold checksums"
    for name, sha256 in sums.items():
        if not (folder / name).is_file():
            return f"{name}: is missing"
        if sha256_file(folder / name) != sha256:
            return f"{name}: its bytes are not those that were written"
    return None


def edited_files(folder: Path) -> list[str]:
    """The files that a person may edit in an export, such as its card, that are not what was written."""
    written = read_json(folder / "export.json").get("sha256", {})
    return [
        name for name, sha256 in written.items() if (folder / name).is_file() and sha256_file(folder / name) != sha256
    ]
