"""Two commands write to one folder at the same time: one does its work, the other is refused by a line."""

import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .findings import SESSION_SECONDS, TRACE, Findings, last_line
from .kills import first_difference
from .sessions import Session, start_warm
from .tiny_run import TinyRun, hashes_of

NUM_STORIES = 3000  # so that preparing takes seconds, and two really meet


@dataclass(frozen=True)
class Double:
    """Two of one command.

    Attributes:
      start: starts number 0 or 1 in a folder.
      is_working: whether a command works in the folder now.
      result: what its output comes to; equal for equal work.
    """

    name: str
    start: Callable[[Path, int], Session]
    is_working: Callable[[Path], bool]
    result: Callable[[Path], object]


def run_doubles(folder: Path, data: Path, count: int, seed: int, only: Sequence[str] | None) -> Findings:
    """`count` times two commands: started together, or the second while the first is stopped in the middle of its work."""
    findings, rng = Findings("doubles"), random.Random(seed)
    _write_stories(folder)
    doubles = [double for double in _doubles(folder, data) if only is None or double.name in only]
    wanted = {}
    for double in doubles:
        alone = folder / f"{double.name}-alone"
        session = double.start(alone, 0)
        if session.wait(SESSION_SECONDS) != 0:
            findings.failed("failed alone", f"{double.name}: {last_line(session.text())}")
            return findings.end()
        wanted[double.name] = double.result(alone)
    for number in range(count):
        double = doubles[number % len(doubles)]
        place = folder / f"{number:02d}-{double.name}"
        together = number // len(doubles) % 2 == 0
        first = double.start(place, 0)
        if together:
            sessions = [first, double.start(place, 1)]
        else:
            first.until(partial(double.is_working, place), SESSION_SECONDS)
            time.sleep(rng.uniform(0, 0.2))
            first.send(signal.SIGSTOP)  # else it could be done before the second begins
            sessions = [first, double.start(place, 1)]
            sessions[1].wait(SESSION_SECONDS)
            first.send(signal.SIGCONT)
        findings.count("doubles")
        problems = _one_is_refused(sessions, findings)
        if not problems and (ours := double.result(place)) != wanted[double.name]:
            problems = [("differs", first_difference(ours, wanted[double.name]))]
        problems += [("litter", str(path)) for path in place.glob(".output.*")]
        for kind, line in problems:
            findings.failed(kind, f"{place.name}, {'together' if together else 'one after the other'}: {line}")
        if not problems:
            shutil.rmtree(place)
    return findings.end()


def _one_is_refused(sessions: Sequence[Session], findings: Findings) -> list[tuple[str, str]]:
    codes = [session.wait(SESSION_SECONDS) for session in sessions]
    texts = [session.text() for session in sessions]
    for session in sessions:
        session.kill()
    problems = [("stack trace", last_line(text)) for text in texts if TRACE.search(text)]
    if None in codes:
        return [*problems, ("hung", " | ".join(map(last_line, texts)))]
    if codes == [0, 0]:
        return [("both worked", " | ".join(map(last_line, texts)))]
    if sorted(map(abs, filter(None, codes))) != [1]:
        return [*problems, ("wrong code", f"exit codes {codes}: {' | '.join(map(last_line, texts))}")]
    refused = texts[codes.index(1)]
    errors = re.findall(r"^error: .*", refused, re.MULTILINE)
    if len(errors) != 1 or "another" not in errors[0]:
        problems.append(("no line", f"the refusal does not say that another one works there: {last_line(refused)}"))
    findings.count("refused")
    return problems


def _doubles(folder: Path, data: Path) -> list[Double]:
    def command(words: Callable[[Path], list[str]]) -> Callable[[Path, int], Session]:
        def start(place: Path, number: int) -> Session:
            place.mkdir(exist_ok=True)
            return start_warm(lambda: _run_tonsai(words(place)), place / f"{number}.txt")

        return start

    def prepare(place: Path) -> list[str]:
        texts = ["--khmer", str(folder / "km.txt"), "--english", str(folder / "en.txt")]
        return ["prepare", *texts, "--workers", "1", "--output-dir", str(place / "output")]

    def tokenize(place: Path) -> list[str]:
        documents = folder / "prepare-alone" / "output"
        tokenizer = str(data / "tokenizer")
        return [
            "tokenize",
            "--dataset-dir",
            str(documents),
            "--tokenizer-dir",
            tokenizer,
            "--output-dir",
            str(place / "output"),
        ]

    def is_writing(place: Path) -> bool:
        return any(path.name.startswith(".output.") for path in place.iterdir())

    def trainer(place: Path) -> TinyRun:
        return TinyRun(place, data / "rows")

    def written(place: Path) -> object:
        return hashes_of(place / "output", "**/*.parquet", "**/*.arrayrecord")

    def trained(place: Path) -> object:
        return trainer(place).digest()["arrays"]

    return [
        Double(
            "train",
            lambda place, number: trainer(place).start(number),
            lambda place: trainer(place).is_saving(),
            trained,
        ),
        Double("prepare", command(prepare), is_writing, written),
        Double("tokenize", command(tokenize), is_writing, written),
    ]


def _run_tonsai(words: list[str]) -> None:
    from tonsai_jax.__main__ import main

    sys.argv = ["tonsai", *words]
    main()


def _write_stories(folder: Path) -> None:
    from tonsai_jax.samples.stories import stories

    for language in ("km", "en"):
        (folder / f"{language}.txt").write_text("\n".join(stories(language, NUM_STORIES, seed=1)), encoding="utf-8")
