"""What a run prints never stops it."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tonsai_jax.runtime import output
from tonsai_jax.runtime.output import Output, lasting_output

PROGRAM = """
import sys
from tonsai_jax.runtime.output import lasting_output
with lasting_output():
    for number in range(30_000):
        print("line", number, flush=True)
        print("warning", number, file=sys.stderr, flush=True)
"""


def test_lines_arrive_in_order_and_before_the_next_statement() -> None:
    stream = io.StringIO()
    shown = Output(stream)  # type: ignore[arg-type]  # a StringIO is no TextIO
    for number in range(3):
        print("line", number, file=shown, flush=True)
        assert stream.getvalue().endswith(f"line {number}\n")
    shown.end()


@pytest.mark.parametrize(
    "redirection",
    ["2>&1 | head -1", *(pytest.param(to, marks=pytest.mark.full) for to in ("> /dev/full 2>&1", ">&- 2>&-"))],
)
def test_a_program_whose_output_goes_nowhere_reaches_its_end(tmp_path: Path, redirection: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"{PROGRAM}\nopen({str(tmp_path / 'end')!r}, 'w')\n")
    command = f'set -o pipefail; "{sys.executable}" "{program}" {redirection}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "end").exists()


def test_a_reader_that_does_not_read_delays_a_second_and_then_misses_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINES", 100)
    monkeypatch.setattr(output, "END_SECONDS", 10)
    reader, writer = os.pipe()
    began = time.monotonic()
    with open(writer, "w") as pipe, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with lasting_output():
            for number in range(20_000):
                print("line", number, flush=True)
            assert 0.5 < time.monotonic() - began < 5
            texts: list[str] = []
            reading = threading.Thread(target=lambda: texts.append(os.fdopen(reader).read()))
            reading.start()
            deadline = time.monotonic() + 10
            while not sys.stdout._written.is_set():  # type: ignore[union-attr]  # an Output
                assert time.monotonic() < deadline
                time.sleep(0.01)
            print("the last line", flush=True)
    reading.join(timeout=10)
    lines = texts[0].splitlines()
    [num_missing] = [int(line.split()[0].lstrip("(")) for line in lines if "missing" in line]
    assert len(lines) - 2 + num_missing == 20_000
    assert lines[-1] == "the last line"


def test_afterwards_the_streams_and_threads_are_those_of_before() -> None:
    before = sys.stdout, sys.stderr
    with lasting_output():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
    deadline = time.monotonic() + 10
    while any(thread.name == "output" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
