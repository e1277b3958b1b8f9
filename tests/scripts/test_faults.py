"""scripts/bench/faults.py, the campaign of kills and flipped bits: here a few of each, in the folder of the test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAULTS = Path(__file__).parents[2] / "scripts" / "bench" / "faults.py"


def campaign(folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    """Runs a part; returns its figures. The campaign must have found nothing."""
    command = [sys.executable, str(FAULTS), *words, "--dir", str(folder), "--json", str(folder / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "figures.json").read_text())


@pytest.mark.slow
def test_a_run_that_is_killed_four_times_is_one_that_nothing_disturbed(tmp_path: Path) -> None:
    kills = campaign(tmp_path, "kills", "--count", "4", "--seed", "2")["kills"]
    assert kills["counts"]["kills"] == 4
    assert kills["counts"]["runs"] >= 1
    assert not kills["failures"]


@pytest.mark.slow
def test_flipped_bits_are_not_silent(tmp_path: Path) -> None:
    kinds = campaign(tmp_path, "flips", "--count", "2", "--only", "checkpoint arrays", "documents manifests")
    assert set(kinds) == {"flips: checkpoint arrays", "flips: documents manifests"}
    for kind in kinds.values():
        assert kind["counts"]["flips"] == 2
        assert not kind["failures"]


def test_what_is_judged_silent_is_a_different_result_without_a_word() -> None:
    sys.path.insert(0, str(FAULTS.parent))
    from fault_campaign.flips import judge

    wanted, other = {"arrays": {"a": "1"}}, {"arrays": {"a": "2"}}
    assert judge(0, "step 1/2\n", wanted, wanted)[0] == "harmless"
    assert judge(0, "step 1/2\n", other, wanted)[0] == "silent"
    assert judge(0, "step 8: damaged, set aside\n", wanted, wanted)[0] == "healed"
    assert judge(0, "1 damaged row was skipped\n", other, wanted)[0] == "named"
    assert judge(1, "error: rows/km: is damaged\n", None, wanted)[0] == "refused"
    assert judge(1, "Traceback (most recent call last):\nValueError\n", None, wanted)[0] == "stack trace"
    assert judge(-11, "", None, wanted)[0] == "crash"
    assert judge(None, "", None, wanted)[0] == "hung"
