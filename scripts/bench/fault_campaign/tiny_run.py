"""The run that the campaign damages: two layers, a few seconds long, with everything that a run writes."""

import hashlib
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .sessions import Session, start_fresh, start_warm

CONFIG = """
from tonsai_jax.config import default_config
from tonsai_jax.model.presets import preset

def get_config():
    config = default_config()
    config.data.dir = {rows!r}
    config.steps, config.seq_len, config.global_batch_size = {steps}, 32, {batch_size}
    config.model.update(preset("gpt2"))
    config.model.context_length = 64
    config.model.num_layers, config.model.num_heads, config.model.d_model, config.model.d_ff = 2, 2, 32, 64
    config.model.dropout = 0.1
    config.model.dtype = "float32"
    config.loss.chunk_tokens = 512
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.warmup_steps = 4
    config.log_every = 1
    config.checkpoint.every, config.checkpoint.keep_best = {checkpoint_every}, 1
    config.eval.every, config.eval.prompt_suite = {eval_every}, False
    config.sample.prompts, config.sample.max_new_tokens = ("Once upon a time",), 4
    config.export = True
    return config
"""
Cache = Literal["fill", "read", "off"]
# Names that differ between two equal runs: they hold a time, a host or a random number.
_VARYING = re.compile(r"^(tensorboard|logs|heartbeats|checkpoints/\d+)/")
_VARYING_METRICS = ("time", "speed/", "memory/", "progress/hours")


@dataclass(frozen=True)
class TinyRun:
    """A config and rows; `folder` holds the config, the workdir and what the campaign notes about the run."""

    folder: Path
    rows: Path
    steps: int = 60
    checkpoint_every: int = 5
    eval_every: int = 10
    batch_size: int = 16
    overrides: tuple[str, ...] = ()

    @property
    def workdir(self) -> Path:
        return self.folder / "workdir"

    def words(self, *overrides: str) -> list[str]:
        """The command line after `python`. An override is "section.key=value", or a flag that begins with "--"."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.py"
        if not config.exists():  # another process of the run may be reading it
            values = {key: getattr(self, key) for key in ("steps", "checkpoint_every", "eval_every", "batch_size")}
            config.write_text(CONFIG.format(rows=str(self.rows), **values), encoding="utf-8")
        flags = [key if key.startswith("--") else f"--config.{key}" for key in (*self.overrides, *overrides)]
        return ["-m", "tonsai_jax.train", f"--config={config}", f"--workdir={self.workdir}", *flags]

    def start(
        self,
        number: int,
        *overrides: str,
        cache: Cache = "read",
        settings: Mapping[str, str] | None = None,
        between_batches: Callable[[int], None] | None = None,
        notes_digest: bool = True,
        directory: Path | None = None,
    ) -> Session:
        """Starts session `number` as a fork.

        It notes the hash of each batch that it trains on.

        Args:
          cache: of JAX's compiled programs. "fill" writes it; a session that may be killed must not, as JAX writes in place.
          between_batches: called with the step before the batch of this step is handed out.
          notes_digest: whether it also writes the digest of the run if it ends well; one of several processes cannot.
          directory: where it works, for relative paths.
        """
        words = self.words(*overrides)
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)

        def work() -> None:
            tempfile.tempdir = None  # so that TMPDIR is read again
            os.chdir(directory or Path.cwd())
            sys.argv = words[1:]
            sys.modules.pop("config_config", None)
            _use_cache(cache)
            _note_batches(self.batches_file(number), between_batches)
            import tonsai_jax.train

            tonsai_jax.train.main()
            if notes_digest:
                self.note_digest()

        return start_warm(work, self.log(number), {"TMPDIR": str(scratch)} | dict(settings or {}))

    def start_fresh(self, number: int, *overrides: str, settings: Mapping[str, str] | None = None) -> Session:
        """Starts session `number` with a Python of its own, so that it can be killed while it imports. It notes nothing."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        return start_fresh(
            self.words(*overrides), self.log(number), {"TMPDIR": str(self.folder / "tmp")} | dict(settings or {})
        )

    def log(self, number: int) -> Path:
        return self.folder / "logs" / f"{number:03d}.txt"

    def batches_file(self, number: int) -> Path:
        return self.folder / "logs" / f"{number:03d}.batches"

    @property
    def digest_file(self) -> Path:
        return self.folder / "digest.json"

    def note_digest(self) -> None:
        """Writes `digest_file`; it computes with JAX, so only a forked process may do it."""
        self.digest_file.write_text(json.dumps(digest(self.workdir)))

    def digest(self) -> dict[str, Any]:
        """What the run came to, as its last session noted."""
        return json.loads(self.digest_file.read_text())

    def batches(self) -> Iterator[tuple[int, str]]:
        """Step and hash of every batch that any warm session trained on, in the order of time."""
        for file in sorted((self.folder / "logs").glob("*.batches")):
            for line in file.read_text().splitlines():
                step, _, sha = line.partition(" ")
                yield int(step), sha

    def saved_steps(self) -> list[int]:
        """The checkpoints with a final name."""
        folder = self.workdir / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit())

    def is_saving(self) -> bool:
        folder = self.workdir / "checkpoints"
        return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())

    def command(self) -> str:
        return shlex.join(["python", *self.words()])


def make_rows(folder: Path) -> None:
    """Writes documents, a tokenizer, and token rows of 42 stories in Khmer and in English, some held out."""
    from tonsai_jax.corpus.prepare import prepare
    from tonsai_jax.corpus.sources.source import Source
    from tonsai_jax.data.tokenize import tokenize_dataset
    from tonsai_jax.samples.stories import stories
    from tonsai_jax.tokenizer.examples import dataset_examples
    from tonsai_jax.tokenizer.training import train_tokenizer

    sources = [
        Source(name=language, language=language, license="CC0-1.0", documents=list(stories(language, 42, seed=1)))
        for language in ("km", "en")
    ]
    prepare(sources, folder / "documents", progress=False)
    train_tokenizer(dataset_examples(folder / "documents"), vocab_size=400, output_dir=folder / "tokenizer")
    tokenize_dataset(
        folder / "documents",
        folder / "tokenizer",
        folder / "rows",
        val_ratio=0.1,
        seed=0,
        row_tokens=1024,
        progress=False,
    )


def digest(workdir: Path) -> dict[str, Any]:
    """What a run came to: two runs with equal digests learned and wrote the same.

    Returns:
      arrays: SHA-256 of each array of the newest checkpoint, bit for bit.
      metrics: the rows of metrics.jsonl without times and speeds.
      texts: SHA-256 of the files that other programs read: export, tokenizer, and the scores and results.
      files: the paths of all files, without those whose names vary. Of the checkpoints the newest, and whatever is none:
        a run that was asked to stop has saved at other steps.
    """
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    files = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file())
    names = [name for name in files if not _VARYING.match(name)]
    beside = [f"checkpoints/{path.name}" for path in (workdir / "checkpoints").iterdir() if not path.name.isdigit()]
    return {
        "arrays": _array_hashes(workdir / "checkpoints" / str(newest)),
        "metrics": metrics(workdir),
        "texts": hashes_of(workdir, "export/**/*", "tokenizer/*", "samples/*", "scores.json", "complete.json"),
        "files": [*names, *sorted(beside), f"checkpoints/{newest}"],
    }


def hashes_of(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files in a folder that match, by their path in it."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what differs between two equal runs; raises `ValueError` for a torn line."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in row.items() if not name.startswith(_VARYING_METRICS)}
        for row in rows
        if row.keys() - {"step", "time"}
    ]


def _array_hashes(checkpoint: Path) -> dict[str, str]:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    hashes = {}
    for item in ("params", "optimizer"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(checkpoint / item).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            arrays = checkpointer.restore(checkpoint / item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        for path, array in jax.tree_util.tree_leaves_with_path(arrays):
            value = np.asarray(array)
            content = f"{value.dtype}{value.shape}".encode() + value.tobytes()
            hashes[f"{item}{jax.tree_util.keystr(path)}"] = hashlib.sha256(content).hexdigest()
    return hashes


def _use_cache(cache: Cache) -> None:
    import jax

    jax.config.update("jax_enable_compilation_cache", cache != "off")
    least_seconds = 0.0 if cache == "fill" else math.inf
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)


def _note_batches(file: Path, between: Callable[[int], None] | None) -> None:
    """Makes loaders append "step hash" to `file` for each batch that they hand out."""
    from tonsai_jax.data.loader import Loader

    whole = Loader.batches

    def batches(self: Loader, start_step: int) -> Iterator[Any]:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", buffering=1) as notes:
            for step, batch in enumerate(whole(self, start_step), start_step):
                if between is not None:
                    between(step)
                content = b"".join(batch[key].tobytes() for key in sorted(batch))
                notes.write(f"{step} {hashlib.sha256(content).hexdigest()}\n")
                yield batch

    Loader.batches = batches  # type: ignore[assignment,method-assign]
