"""`tonsai evaluate --ensemble`: several runs scored as one model, on held-out rows and on text."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.console import tonsai, without_progress
from tests.support.tiny_model import ENGLISH, KHMER, tiny_tokenizer


@pytest.fixture
def earlier(trained: Path, tmp_path: Path) -> Path:
    """The same run with an earlier checkpoint: another model with the same tokenizer."""
    folder = Path(shutil.copytree(trained, tmp_path / "earlier"))
    shutil.rmtree(folder / "checkpoints" / "4")
    return folder


def figures(tmp_path: Path, *words: str) -> tuple[str, dict[str, float], dict[str, object]]:
    """What is printed, the nats that follow from the bits per byte of each source or file, and the whole JSON."""
    code, out, err = tonsai("evaluate", *words, "--json", str(tmp_path / "scores.json"))
    assert (code, without_progress(err)) == (0, "")
    found = json.loads((tmp_path / "scores.json").read_text())
    return out, {each["name"]: each["bits_per_byte"] for each in found["scores"] if each["length"] is None}, found


@pytest.mark.full
@pytest.mark.parametrize("on", ["rows", "text"])
def test_an_ensemble_of_one_is_the_run_and_one_of_two_is_no_worse_than_their_mean(
    on: str, trained: Path, earlier: Path, tmp_path: Path
) -> None:
    (tmp_path / "km.txt").write_text(f"{KHMER}\n{KHMER * 3}\n")
    (tmp_path / "en.txt").write_text(f"{ENGLISH}\n")
    given = ["--text", f"km={tmp_path / 'km.txt'}", f"en={tmp_path / 'en.txt'}"] if on == "text" else []
    first = figures(tmp_path, "--workdir", str(earlier), "--step", "2", *given)[1]
    second = figures(tmp_path, "--workdir", str(shutil.copytree(trained, tmp_path / "run")), *given)[1]
    kept = earlier / "evaluations" / "text-step-000002.json"
    before = kept.read_bytes() if on == "text" else b""

    assert figures(tmp_path, "--ensemble", str(earlier), *given)[1] == first
    out, both, found = figures(tmp_path, "--ensemble", str(earlier), str(trained), *given)
    assert out.startswith(f"ensemble of 2 ({earlier}, step 2; {trained}, step 4): bits per byte")
    assert found["ensemble"] == [{"model": str(earlier), "step": 2}, {"model": str(trained), "step": 4}]
    assert set(both) == set(first)
    for name, value in both.items():
        assert value <= (first[name] + second[name]) / 2 + 1e-6, name
        assert value != pytest.approx(first[name], rel=1e-4)
    assert on != "text" or kept.read_bytes() == before, "it is no score of this run"


def test_runs_that_have_no_mean_end_in_one_line(trained: Path, earlier: Path) -> None:
    code, out, err = tonsai("evaluate", "--ensemble", str(trained), "/nowhere/run")
    assert (code, out) == (1, "")
    assert err.startswith("error: /nowhere/run: no run here (no config.json)")
    tiny_tokenizer(earlier / "tokenizer")
    code, out, err = tonsai("evaluate", "--ensemble", str(trained), str(earlier))
    assert (code, out) == (1, "")
    assert err == (
        f"error: {trained} and {earlier} have different tokenizers, so their predictions have no mean; give runs "
        "that were trained on the same token rows\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ensemble", "runs/a", "--workdir", "runs/b"], "argument --workdir: not allowed with argument --ensemble"),
        (["--ensemble"], "argument --ensemble: expected at least one argument"),
        (["--ensemble", "runs/a", "--stride", "8"], "--stride is for text files; name them with --text km=FILE"),
    ],
)
def test_flags_that_do_not_belong_to_an_ensemble_are_refused(words: list[str], message: str) -> None:
    code, out, err = tonsai("evaluate", *words)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[0]
    assert len(err.splitlines()) == 1
