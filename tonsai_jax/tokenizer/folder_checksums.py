"""The checksums of a tokenizer's files, which lie next to them; `tokenizer.json` alone would not show a changed config."""

from pathlib import Path

from tonsai_jax.checksums import check_sha256s, write_sha256s

CHECKSUMS = "tokenizer_checksums.json"
# What belongs to a tokenizer: the files of ours, and more in the folder of an open model.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "report.json",
    "chat_template.jinja",
    "spm.model",
)
FILES_OF_OPEN_MODELS = (
    *FILES,
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
)


def write_tokenizer_checksums(folder: Path) -> None:
    """Writes the checksums of the files of the tokenizer in `folder`. Call it last."""
    write_sha256s(folder / CHECKSUMS, [path for name in FILES_OF_OPEN_MODELS if (path := folder / name).is_file()])


def check_tokenizer_files(folder: Path) -> None:
    """Raises `UserError` where a file of a tokenizer that our commands wrote is missing or has changed since."""
    check_sha256s(folder / CHECKSUMS, "copy the tokenizer again, or make it again")
