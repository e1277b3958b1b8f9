"""Reading texts from datasets on the Hugging Face Hub."""

import contextlib
from collections.abc import Iterator

from tonsai_jax.corpus.readers import Faults, as_text, no_such_column
from tonsai_jax.errors import UserError


def read_huggingface(
    name: str, *, subset: str | None, split: str, streaming: bool, text_column: str, faults: Faults
) -> Iterator[str]:
    """Gives the texts of one split of a dataset on the Hub, or in a local folder that `datasets` can load.

    `streaming` reads over the network without storing the dataset first. Raises `UserError`, in one line,
    where the dataset, subset, split or column is not there or the Hub cannot be reached.
    """
    with _library_errors(name):
        import datasets  # takes seconds to import, and local files do not need it
        from huggingface_hub.utils import logging as hub_logging

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        hub_logging.set_verbosity_error()
        dataset = datasets.load_dataset(name, name=subset, split=split, streaming=streaming)
    where = f"Hugging Face dataset {name}"
    columns = dataset.column_names  # None where a streamed dataset does not know before its first row
    if columns is not None:
        if text_column not in columns:
            no_such_column(where, text_column, columns)
        dataset = dataset.select_columns([text_column])
    records, row = iter(dataset), 0
    while True:
        with _library_errors(name):
            record = next(records, None)
        if record is None:
            return
        row += 1
        if row == 1 and text_column not in record:
            no_such_column(where, text_column, record)
        yield from as_text(record.get(text_column), f"{where}: row {row}", text_column, faults)


@contextlib.contextmanager
def _library_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a library that speaks to a network raises anything; one line of it is of use
        reason = " ".join(str(error).split())[:300] or error.__class__.__name__
        raise UserError(
            f"Hugging Face dataset {name}: {reason}; check the id, `subset`, `split`, the network; "
            "a dataset that asks for access needs `hf auth login`; if you meant a local path, there is none"
        ) from error
