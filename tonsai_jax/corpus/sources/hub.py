"""Reading texts from datasets on the Hugging Face Hub."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.records import Reading, Record, texts_of
from tonsai_jax.errors import UserError

RETRIES = 4  # of ours, on top of the library's own for each request
RETRY_SECONDS = 5.0  # before the first of them, twice as long before each further one
_NETWORK_LIBRARIES = ("aiohttp", "fsspec", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")


@dataclass(frozen=True)
class HubSplit:
    """One split of a dataset on the Hub, or of a local folder that `datasets` can load.

    `streaming` reads over the network without storing the dataset first; otherwise a download that breaks off goes on
    where it stopped, in the next run too. Streamed, the split has as many shards as files; stored, it is one.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    streaming: bool = True

    @property
    def where(self) -> str:
        return f"Hugging Face dataset {self.name}"

    def shards(self) -> int:
        """How many shards there are; their texts, one shard after the other, are those of the split."""
        return _shards(self._load())

    def first_record(self) -> Record | None:
        """The first record, to guess from; a text that is null there counts as an empty one if the schema says text."""
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
        """Gives (shard, row in the shard, text) of the shards from `first_shard` to before `end_shard`.

        A stream that breaks is opened again at the row where it broke, `RETRIES` times. Raises `UserError`, in one line,
        where the dataset, subset, split or field is not there, asks for access, or cannot be reached.
        """
        dataset = self._load()
        columns = dataset.column_names  # None where a streamed dataset does not know before its first row
        if columns is not None and reading is not None:
            reading.check(self.where, columns)
            if reading.fields:
                dataset = dataset.select_columns([name for name in columns if name in reading.fields])
        shards = range(first_shard, _shards(dataset) if end_shard is None else end_shard)
        for (shard, row), text in texts_of(self._records(dataset, shards), reading, self.where, faults, limit):
            yield shard, row, text

    def _load(self) -> Any:
        with _library_errors(self.name):
            import datasets  # takes seconds to import, and local files do not need it
            from huggingface_hub.utils import logging as hub_logging

            datasets.disable_progress_bars()
            datasets.logging.set_verbosity_error()
            hub_logging.set_verbosity_error()
            # A read that fails is tried again every 5 seconds, by default 20 times; ours come on top.
            datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 5
            for retry in range(RETRIES + 1):
                try:
                    return datasets.load_dataset(
                        self.name, name=self.subset, split=self.split, streaming=self.streaming
                    )
                except Exception as error:
                    # Nothing has been downloaded where even the description cannot be reached: waiting is of no use.
                    if self.streaming or isinstance(error, ConnectionError) or not _wait(error, retry):
                        raise
            raise AssertionError  # the last `_wait` says no

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
    """Waits before the next try after an error of the network; False, at once, where another try cannot help."""
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
    except Exception as error:  # a library that speaks to a network raises anything; one line of it is of use
        reason = " ".join(str(error).split())[:300] or error.__class__.__name__
        where = f"Hugging Face dataset {name}{place}"
        if "gated" in reason.lower():
            raise UserError(
                f"{where}: asks for access: accept its terms at https://huggingface.co/datasets/{name}, "
                f"then give your token by `hf auth login` or the variable HF_TOKEN ({reason})"
            ) from error
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_NETWORK_LIBRARIES):
            raise UserError(
                f"{where}: {reason}; check the network (and that HF_HUB_OFFLINE is not set), then run again; "
                "a private dataset needs `hf auth login`"
            ) from error
        raise UserError(
            f"{where}: {reason}; check the id, `subset`, `split`; "
            "a private dataset needs `hf auth login`; if you meant a local path, there is none"
        ) from error
