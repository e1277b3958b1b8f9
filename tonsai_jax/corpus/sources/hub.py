"""Texts from datasets on the Hugging Face Hub."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.records import Reading, Record, texts_of
from tonsai_jax.errors import UserError

RETRIES = 4  # in addition to those of the library for each request
RETRY_SECONDS = 5.0  # before the first retry; doubled before each further one
_NETWORK_LIBRARIES = ("aiohttp", "fsspec", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")


@dataclass(frozen=True)
class HubSplit:
    """One split of a dataset on the Hub, or of a local folder that `datasets` can load.

    `streaming` reads over the network and stores nothing. Without it, the dataset is downloaded first; an interrupted download
    continues where it stopped, also in the next run. A streamed split has one shard per file, a downloaded one has one shard.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    streaming: bool = True

    @property
    def where(self) -> str:
        return f"Hugging Face dataset {self.name}"

    def shards(self) -> int:
        """The number of shards. Their texts, one shard after the other, are the texts of the split."""
        return _shards(self._load())

    def first_record(self) -> Record | None:
        """The first record, to guess from. A null in a field that the schema says is text becomes ""."""
        dataset = self._load()
        with _library_errors(self.name):
            record = next(iter(dataset), None)
        if record is None or dataset.features is None:
            return record
        texts = [
            name
            for name, kind in dataset.features.items()
            if getattr(kind, "dtype", None) in ("string", "large_string")
        ]
        return {name: "" if value is None and name in texts else value for name, value in record.items()}

    def texts(
        self,
        reading: Reading | None,
        faults: Faults,
        limit: int,
        first_shard: int = 0,
        end_shard: int | None = None,
    ) -> Iterator[tuple[int, int, str]]:
        """Gives (shard, row in the shard, text) of the shards from `first_shard` to before `end_shard` (None: to the last).

        A stream that breaks is opened again at the row where it broke, up to `RETRIES` times.
        Raises `UserError` if the dataset, subset, split or field does not exist, needs access rights, or cannot be reached.
        """
        dataset = self._load()
        columns = dataset.column_names  # None for a streamed dataset that only knows them at its first row
        if columns is not None and reading is not None:
            reading.check(self.where, columns)
            if reading.fields:
                dataset = dataset.select_columns([name for name in columns if name in reading.fields])
        shards = range(first_shard, _shards(dataset) if end_shard is None else end_shard)
        for (shard, row), text in texts_of(self._records(dataset, shards), reading, self.where, faults, limit):
            yield shard, row, text

    def records(self) -> Iterator[tuple[str, Record]]:
        """Gives the name in messages ("row 3") and the record of every row; opens a broken stream again, as `texts` does.

        Raises `UserError` if the dataset, subset or split does not exist, needs access rights, or cannot be reached.
        """
        dataset = self._load()
        for _, label, record in self._records(dataset, range(_shards(dataset))):
            yield label, record

    def _load(self) -> Any:
        with _library_errors(self.name):
            import datasets  # takes seconds to import; local files do not need it
            from huggingface_hub.utils import logging as hub_logging

            datasets.disable_progress_bars()
            datasets.logging.set_verbosity_error()
            hub_logging.set_verbosity_error()
            # The library retries a failed read every 5 seconds, 20 times by default; our retries come in addition.
            datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 5
            for retry in range(RETRIES + 1):
                try:
                    return datasets.load_dataset(
                        self.name, name=self.subset, split=self.split, streaming=self.streaming
                    )
                except Exception as error:
                    # If even the description of the dataset cannot be reached, waiting does not help.
                    if self.streaming or isinstance(error, ConnectionError) or not _wait(error, retry):
                        raise
            raise AssertionError  # not reached: the last `_wait` returns False

    def _records(self, dataset: Any, shards: Iterable[int]) -> Iterator[tuple[tuple[int, int], str, Record]]:
        for shard in shards:
            for row, record in enumerate(self._records_of_shard(dataset, shard)):
                yield (shard, row), f"row {row + 1}" + (f" of file {shard + 1}" if shard else ""), record

    def _records_of_shard(self, dataset: Any, shard: int) -> Iterator[Record]:
        row = retry = 0
        rest = dataset.shard(_shards(dataset), shard)
        records: Iterator[Record] | None = None
        while True:
            with _library_errors(self.name, f" at row {row + 1} of file {shard + 1}"):
                try:
                    if records is None:
                        records = iter(rest.skip(row) if row else rest)
                    record = next(records, None)
                except Exception as error:
                    if not _wait(error, retry):
                        raise
                    records, retry = None, retry + 1
                    continue
            if record is None:
                return
            yield record
            row, retry = row + 1, 0


def _shards(dataset: Any) -> int:
    import datasets

    return dataset.num_shards if isinstance(dataset, datasets.IterableDataset) else 1


def _wait(error: Exception, retry: int) -> bool:
    """Waits before the next try after a network error; returns False at once if another try cannot help."""
    library = type(error).__module__.split(".")[0]
    refused = isinstance(error, FileNotFoundError | PermissionError) or "gated" in str(error)
    if retry >= RETRIES or refused or not (isinstance(error, OSError) or library.startswith(_NETWORK_LIBRARIES)):
        return False
    time.sleep(RETRY_SECONDS * 2**retry)
    return True


@contextlib.contextmanager
def _library_errors(name: str, place: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # network libraries raise any kind of exception
        reason = " ".join(str(error).split())[:300] or error.__class__.__name__
        where = f"Hugging Face dataset {name}{place}"
        if "gated" in reason.lower():
            raise UserError(
                f"{where}: needs access rights; accept its terms at https://huggingface.co/datasets/{name}, "
                f"then log in with `hf auth login` or set HF_TOKEN ({reason})"
            ) from error
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_NETWORK_LIBRARIES):
            raise UserError(
                f"{where}: {reason}; check the network (and that HF_HUB_OFFLINE is not set), then run again; "
                "a private dataset needs `hf auth login`"
            ) from error
        raise UserError(
            f"{where}: {reason}; check the id, `subset`, `split`; "
            "a private dataset needs `hf auth login`; no local file or folder has this name"
        ) from error
