"""Flips one bit in a file that a command reads, and judges what the command then does.

refused   it ends with one error line
noticed   it says a line about the damage and goes on, as from the checkpoint before
harmless  it says nothing, and what it makes is the same, bit for bit: nobody needs that bit
silent    it says nothing, and what it makes is something else; this must never happen
"""

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .findings import SESSION_SECONDS, TRACE, Findings, last_line
from .kills import first_difference
from .sessions import Session, start_warm
from .tiny_run import TinyRun, hashes_of

NOTICE = re.compile(r"damage|checksum|sha256|set aside|cannot be read|changed since", re.IGNORECASE)
GOOD = ("refused", "healed", "named", "harmless")
SHARE_OF_ZEROS = 0.2  # of the flips that may hit a zero byte; row files are padded with them
LARGE = 1000  # bytes from which a file below d/ of a checkpoint holds arrays, and not an index


@dataclass(frozen=True)
class Trial:
    """One kind of damage.

    Attributes:
      prepare: makes fresh files in a folder, and returns those that may be damaged.
      start: starts the command that reads them, which works in that folder and writes `digest.json` there if it ends well.
    """

    name: str
    prepare: Callable[[Path], list[Path]]
    start: Callable[[Path], Session]


def run_flips(folder: Path, data: Path, flips: int, seed: int, only: Sequence[str] | None) -> list[Findings]:
    """Flips `flips` bits of every kind, each in files of its own."""
    half = _sized(folder / "half", data / "rows")
    session = half.start(0, "--steps_today=8", cache="fill")
    if session.wait(SESSION_SECONDS) != 0:
        raise RuntimeError(f"no run to damage: {session.text()}")
    whole = _sized(folder / "whole", data / "rows")
    session = whole.start(0, cache="fill")
    if session.wait(SESSION_SECONDS) != 0:
        raise RuntimeError(f"no export to damage: {session.text()}")
    trials = _trials(data, half.workdir, whole.workdir / "export")
    return [_run_trial(trial, folder, flips, seed) for trial in trials if only is None or trial.name in only]


def _sized(folder: Path, rows: Path) -> TinyRun:
    """A run that reads each training row once in few steps."""
    return TinyRun(folder, rows, steps=16, checkpoint_every=4, eval_every=8, batch_size=64)


def _trials(data: Path, half: Path, export: Path) -> list[Trial]:
    def copied(source: Path, name: str, *patterns: str) -> Callable[[Path], list[Path]]:
        def prepare(folder: Path) -> list[Path]:
            shutil.copytree(source, folder / name)
            return [path for pattern in patterns for path in (folder / name).glob(pattern) if path.is_file()]

        return prepare

    def checkpoint(of_arrays: bool) -> Callable[[Path], list[Path]]:
        def prepare(folder: Path) -> list[Path]:
            newest = copied(half, "workdir", "checkpoints/8/**/*")(folder)
            return [path for path in newest if _holds_arrays(path) == of_arrays]

        return prepare

    def train(folder: Path) -> Session:
        rows = folder / "rows"
        return _sized(folder, rows if rows.exists() else data / "rows").start(0)

    def tokenize(folder: Path) -> Session:
        return start_warm(lambda: _tokenize(folder, data / "tokenizer"), folder / "logs" / "000.txt")

    def verify(folder: Path) -> Session:
        return start_warm(lambda: _verify(folder), folder / "logs" / "000.txt")

    return [
        Trial("rows", copied(data / "rows", "rows", "*/*.arrayrecord"), train),
        Trial("checkpoint arrays", checkpoint(of_arrays=True), train),
        Trial("checkpoint metadata", checkpoint(of_arrays=False), train),
        Trial("manifests", copied(data / "rows", "rows", "manifest.json"), train),
        Trial("documents manifests", copied(data / "documents", "documents", "manifest.json"), tokenize),
        Trial("tokenizer", copied(data / "rows", "rows", "tokenizer/*"), train),
        Trial("export", copied(export, "export", "**/*"), verify),
    ]


def _holds_arrays(path: Path) -> bool:
    return path.parent.name == "d" and path.stat().st_size >= LARGE


def _tokenize(folder: Path, tokenizer: Path) -> None:
    from tonsai_jax.data.tokenize import tokenize_dataset

    tokenize_dataset(
        folder / "documents", tokenizer, folder / "rows", val_ratio=0.1, seed=0, row_tokens=1024, progress=False
    )
    hashes: dict[str, object] = dict(hashes_of(folder, "rows/**/*.arrayrecord", "rows/tokenizer/*"))
    hashes |= json.loads((folder / "rows" / "manifest.json").read_text())
    (folder / "digest.json").write_text(json.dumps({"texts": hashes}))


def _verify(folder: Path) -> None:
    """An export that is verified changes nothing, so what it comes to is its own bytes: a flip that is not seen is silent."""
    from tonsai_jax.__main__ import main

    sys.argv = ["tonsai", "checkpoints", "verify", "--export", str(folder / "export")]
    main()
    (folder / "digest.json").write_text(json.dumps({"texts": hashes_of(folder, "export/**/*")}))


def _run_trial(trial: Trial, folder: Path, flips: int, seed: int) -> Findings:
    findings = Findings(f"flips: {trial.name}")
    rng = random.Random(f"{seed} {trial.name}")
    # Every trial works at the same path, since exports and manifests may hold it.
    place, kept = folder / "place", folder / trial.name.replace(" ", "-")
    wanted: dict[str, Any] | None = None
    for number in range(-1, flips):  # first one without a flip, to compare with
        shutil.rmtree(place, ignore_errors=True)
        targets = trial.prepare(place)
        what = "no flip" if number < 0 else _flip(targets, place, rng)
        session = trial.start(place)
        code = session.wait(SESSION_SECONDS)
        if code is None:
            session.kill()
        digest = json.loads((place / "digest.json").read_text()) if (place / "digest.json").exists() else None
        if number < 0:
            if code != 0 or digest is None:
                findings.failed("refused what is whole", last_line(session.text()))
                return findings.end()
            wanted = digest
            continue
        outcome, detail = judge(code, session.text(), digest, wanted)
        findings.count("flips")
        if outcome in GOOD:
            findings.count(outcome)
        else:
            findings.failed(outcome, f"{what}: {detail}")
            shutil.copytree(place, kept / f"{number:03d}")
    return findings.end()


def judge(code: int | None, text: str, digest: dict[str, Any] | None, wanted: dict[str, Any] | None) -> tuple[str, str]:
    """The outcome, and what is to be said about it."""
    if code is None:
        return "hung", f"after: {last_line(text)}"
    if TRACE.search(text):
        return "stack trace", last_line(text)
    errors = re.findall(r"^error: .*(?:\n.+)*", text, re.MULTILINE)
    if code in (1, 75) and errors:
        return ("refused", "") if len(errors) == 1 and "\n" not in errors[0] else ("several lines", repr(errors)[:400])
    if code != 0 or digest is None or wanted is None:
        return "crash", f"exit code {code}: {last_line(text)}"
    noticed = any(NOTICE.search(line) for line in text.splitlines())
    parts = [part for part in ("arrays", "metrics", "texts") if digest.get(part) != wanted.get(part)]
    if noticed:
        return ("named" if parts else "healed"), ""
    if not parts:
        return "harmless", ""
    return "silent", f"{parts[0]}: {first_difference(digest[parts[0]], wanted[parts[0]])}"


def _flip(targets: Sequence[Path], place: Path, rng: random.Random) -> str:
    """Flips a bit of one file, chosen by size; returns where."""
    while True:
        path = rng.choices(targets, weights=[target.stat().st_size for target in targets])[0]
        content = bytearray(path.read_bytes())
        byte, bit = rng.randrange(len(content)), rng.randrange(8)
        if content[byte] or rng.random() < SHARE_OF_ZEROS:
            break
    content[byte] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.relative_to(place)} byte {byte} bit {bit}"
