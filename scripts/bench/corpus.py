"""Measures the speed and memory of text preparation: cleaning, quality rules, without and with near-duplicates.

    TONSAI_CORPUS=corpus python scripts/bench/corpus.py --megabytes 60 --times 8

Documents of about 3 kB are built from random sentences of real text: `km/*.txt.gz` and `en/*.txt.gz` in the folder TONSAI_CORPUS,
half of the bytes each. One in ten is a copy of another with a few sentences changed. Each line of the table is one run of
scripts/prepare_dataset.py, the start of Python included. Memory is the sum over its processes; shared memory counts in each.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PREPARE = Path(__file__).parents[1] / "prepare_dataset.py"
DOCUMENT_CHARACTERS = {"km": 1_200, "en": 3_000}
FILES = 4  # of each language
RECIPES = {
    "cleaned": "",
    "+ rules, redaction": "quality: {preset: web}\nredact: {}\n",
    "+ exact duplicates, lines": "quality: {preset: web}\nredact: {}\ndeduplicate: {exact: true, lines: 3000}\n",
    "+ near-duplicates": "quality: {preset: web}\nredact: {}\ndeduplicate: {near: true, lines: 3000}\n",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60, help="of text (default: %(default)s)")
    parser.add_argument("--times", type=int, default=8, help="also measure N times as much text (default: %(default)s)")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="(default: all)")
    args = parser.parse_args()
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        parser.error("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz")
    print(f"{'what':28}  {'MB':>6}  {'seconds':>7}  {'MB/s':>5}  {'GB of memory':>12}  kept")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for times in (1, args.times):
            megabytes = write_text(Path(corpus), folder, args.megabytes * times)
            for what in args.recipes:
                seconds, memory, kept = prepare(folder, RECIPES[what])
                rate = megabytes / seconds
                print(
                    f"{what:28}  {megabytes:6.0f}  {seconds:7.1f}  {rate:5.1f}  {memory:12.2f}  {kept:.0%}", flush=True
                )


def write_text(corpus: Path, folder: Path, megabytes: int) -> float:
    """Writes jsonl files with about `megabytes` of text to `folder`; returns the exact size, in megabytes."""
    size = 0
    for language, characters in DOCUMENT_CHARACTERS.items():
        sentences = [
            line.strip()
            for path in sorted((corpus / language).glob("*.gz"))
            for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            if 20 < len(line) < 600
        ]
        rng = random.Random(0)
        for number in range(FILES):
            written = 0
            with (folder / f"{language}{number}.jsonl").open("w", encoding="utf-8") as file:
                document: list[str] = []
                while written < megabytes * 1e6 / 2 / FILES:
                    if document and rng.random() < 0.1:
                        document = [line if rng.random() < 0.95 else rng.choice(sentences) for line in document]
                    else:
                        document = []
                        while sum(map(len, document)) < characters:
                            document.append(rng.choice(sentences))
                    text = "\n".join(document)
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    written += len(text.encode())
            size += written
    return size / 1e6


def prepare(folder: Path, recipe: str) -> tuple[float, float, float]:
    """Prepares the text in `folder`; returns seconds, peak memory in gigabytes, and the share of documents kept."""
    sources = "".join(
        f"- {{name: {tag}, language: {tag}, path: '{folder}/{tag}*.jsonl'}}\n" for tag in DOCUMENT_CHARACTERS
    )
    (folder / "recipe.yaml").write_text(f"{recipe}sources:\n{sources}", encoding="utf-8")
    command: list[Path | str] = [PREPARE, "--config", folder / "recipe.yaml", "--output-dir", folder / "out"]
    seconds, memory = measured(command)
    sources_entries = json.loads((folder / "out" / "manifest.json").read_text(encoding="utf-8"))["sources"].values()
    kept = sum(entry["documents"] for entry in sources_entries)
    dropped = sum(sum(entry["filters"].values()) for entry in sources_entries)
    return seconds, memory, kept / (kept + dropped)


def measured(command: Sequence[Path | str]) -> tuple[float, float]:
    """Runs a Python script; returns seconds, and the peak memory of all its processes together in gigabytes."""
    begin, memory = time.monotonic(), 0
    process = psutil.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # a process has ended in the meantime
            memory = max(memory, sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - begin, memory / 1e9


if __name__ == "__main__":
    main()
