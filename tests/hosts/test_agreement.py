"""Hosts that differ are refused, on every process and with a line that names what differs and where."""

import socket
from pathlib import Path

import numpy as np
import pytest

from tests.support.rows import write_rows
from tests.support.tiny_run import TinyRun
from tests.support.two_processes import calling, end_of, two_processes
from tonsai_jax.config import default_config
from tonsai_jax.hosts.agreement import check_program, check_same, inputs_of, program_of
from tonsai_jax.hosts.watchdog import Watchdog

HERE = socket.gethostname()


def compare(workdirs: list[str], values: list[dict[str, str]]) -> None:
    """What a trainer compares at its start, then `values`, of which each process takes its own."""
    config = default_config()
    config.hosts.shared_seconds = 0.5
    with Watchdog(config.hosts, Path(workdirs[0])) as watchdog:
        assert watchdog.peers is not None
        me = watchdog.peers.index
        check_program(watchdog.peers, config, {}, Path(workdirs[me]))
        check_same(watchdog.peers, "test", values[me])


@pytest.mark.full
def test_two_trainers_with_other_keys_are_refused_before_they_write_anything(run: TinyRun) -> None:
    mirror = run.workdir.with_name("mirror")  # whose first use is something that all processes do together
    other_keys = ("optimizer.learning_rate=0.001", "seed=3", f"checkpoint.mirror={mirror}", "log_every=7")
    commands = [run.command(), run.command(*other_keys)]
    there = f"on process 0 ({HERE})"
    expected = (
        f"error: process 1 ({HERE}): config.checkpoint.mirror is {mirror}, {there}, config.log_every is 7, 1 {there}, "
        f"config.optimizer.learning_rate is 0.001, 0.005 {there}, and 1 more differ. All processes of a run need the same"
    )
    with two_processes(commands) as processes:
        for process in processes:
            assert end_of(process) == (1, expected)
    assert not run.workdir.exists()


@pytest.mark.full
def test_a_workdir_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    workdirs = [str(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".shared-1f").touch()  # by a process that was killed
    with two_processes([calling(compare, workdirs, [{}, {}])] * 2) as processes:
        for process in processes:
            code, line = end_of(process)
            assert code == 1
            assert line == (
                f"error: process 1 ({HERE}) does not see the workdir of process 0 in {workdirs[1]}: a run on several hosts needs "
                "a --workdir in a folder that all of them share"
            )
    assert not list((tmp_path / "a").iterdir()), (
        "the file that was looked for is removed, and the one of the killed process"
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            [{"step of the newest checkpoint": "8"}, {"step of the newest checkpoint": "0"}],
            "checkpoint is 0, 8 on process 0",
        ),
        ([{"code a.py": "12"}, {"code b.py": "12"}], "code a.py is absent, 12 on process 0"),
        ([{"same": "1"}, {"same": "1"}], ""),
    ],
)
def test_every_difference_is_named_on_both(values: list[dict[str, str]], line: str, tmp_path: Path) -> None:
    with two_processes([calling(compare, [str(tmp_path)] * 2, values)] * 2) as processes:
        for process in processes:
            code, printed = end_of(process)
            assert (code, line in printed) == (1 if line else 0, True), printed


def test_the_program_is_config_flags_code_and_versions() -> None:
    config = default_config()
    values = program_of(config, {"steps_today": 5})
    assert values["config.optimizer.learning_rate"] == "0.002"
    assert values["--steps_today"] == "5"
    assert {"code tonsai_jax/train.py", "version of Python", "version of jax", "version of numpy"} <= values.keys()
    config.stages = ({"steps": 5}, {"steps": 7})
    assert program_of(config, {})["config.stages"] != values["config.stages"]


def test_the_inputs_are_rows_weights_tokenizer_and_checkpoint(tmp_path: Path) -> None:
    ids = np.arange(1, 50)
    history = {"sane_steps.json": [4], "scores.json": [[4, 1.5]]}
    manifest = write_rows(tmp_path / "rows", {"km": ids, "en": ids})
    values = inputs_of(manifest, 0, history)
    others = {
        "weight of source 'km' in the rows' manifest": inputs_of(
            write_rows(tmp_path / "weights", {"km": ids, "en": ids}, weights={"km": 0.9, "en": 0.5}), 0, history
        ),
        "training rows of source 'en'": inputs_of(write_rows(tmp_path / "ids", {"km": ids, "en": ids + 1}), 0, history),
        "step of the newest checkpoint": inputs_of(manifest, 8, history),
        "sane_steps.json": inputs_of(manifest, 0, history | {"sane_steps.json": []}),
    }
    for key, other in others.items():
        assert [name for name in values if values[name] != other[name]] == [key]
