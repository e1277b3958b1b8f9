"""The curves of runs as a page: what is drawn, and what is left out."""

import json
import sys
from pathlib import Path

import pytest

from tonsai_jax.commands.plot import main
from tonsai_jax.errors import run_command
from tonsai_jax.reporting.curves import write_curves
from tonsai_jax.reporting.metrics_file import metrics_rows


def write_metrics(workdir: Path, *, languages: tuple[str, ...] = ("km", "en")) -> Path:
    workdir.mkdir()
    rows: list[dict[str, float | None]] = [
        {"step": step, "train/loss": 5.0 - step, "speed/tokens_per_second": 1000.0} for step in range(1, 4)
    ]
    rows.append({"step": 2, "train/loss": None})
    rows.append({"step": 3} | {f"eval/bits_per_byte/{name}": 1.0 for name in (*languages, "source/wiki")})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "tr')
    return workdir


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    assert len(metrics_rows(write_metrics(tmp_path / "run") / "metrics.jsonl")) == 5
    assert metrics_rows(tmp_path / "none.jsonl") == []


def test_loss_speed_and_every_language_get_a_line(tmp_path: Path) -> None:
    write_curves(tmp_path / "page.html", {"run": write_metrics(tmp_path / "run")})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 4
    assert all(f"<title>{name}</title>" in page for name in ("run", "km", "en"))
    assert "wiki" not in page


def test_a_run_without_evaluations_has_an_empty_plot(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    write_curves(tmp_path / "page.html", {"run": tmp_path})
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("nothing to plot yet") == 2


def test_runs_of_the_same_name_are_told_apart_by_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_metrics(tmp_path / folder / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plot", "--workdir", "a/run", "b/run"])
    main()
    assert capsys.readouterr().out == "written to curves.html; open it in a browser\n"
    page = Path("curves.html").read_text(encoding="utf-8")
    assert "a/run, km" in page
    assert "b/run, km" in page


def test_a_folder_that_is_no_workdir_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["plot", "--workdir", str(tmp_path)])
    with pytest.raises(SystemExit):
        run_command(main)
    assert f"{tmp_path}: no metrics.jsonl, so this is not the workdir of a run" in capsys.readouterr().err
