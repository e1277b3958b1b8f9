"""The record of the times that a run went back: which jumps hold for a run that goes on from a step."""

import random
from pathlib import Path

from tests.support.flips import with_a_flipped_bit
from tonsai_jax.checkpoints.roll_backs import ROLL_BACKS_FILE, RollBacks
from tonsai_jax.errors import UserError


def went_back(workdir: Path, *to_steps: int) -> RollBacks:
    roll_backs = RollBacks(workdir, 1000)
    for step in to_steps:
        roll_backs.add(step, {"jump": len(roll_backs) + 1}, {})
    return roll_backs


def test_the_last_jump_from_a_step_holds(tmp_path: Path) -> None:
    went_back(tmp_path, 50, 100, 100)
    roll_backs = RollBacks(tmp_path, 100)
    assert len(roll_backs) == 3
    assert [roll_backs.data_at(step) for step in (50, 75, 100)] == [{"jump": 1}, None, {"jump": 3}]


def test_jumps_after_the_step_to_which_a_person_set_the_run_back_do_not_come_back(tmp_path: Path) -> None:
    went_back(tmp_path, 50, 100, 100)
    before = (tmp_path / ROLL_BACKS_FILE).read_text(encoding="utf-8")
    set_back = RollBacks(tmp_path, 50)
    assert (tmp_path / ROLL_BACKS_FILE).read_text(encoding="utf-8") == before, "the run may still be refused"
    set_back.drop_later()
    for step in (100, 150):  # saved again
        roll_backs = RollBacks(tmp_path, step)
        assert len(roll_backs) == 1
        assert roll_backs.data_at(100) is None
        assert roll_backs.data_at(50) == {"jump": 1}


def test_a_run_that_goes_back_further_gives_up_the_later_jump(tmp_path: Path) -> None:
    """The checkpoint of step 100 was damaged when the run went back again."""
    roll_backs = went_back(tmp_path, 100, 50)
    assert len(roll_backs) == 2, "it still counts"
    assert roll_backs.data_at(100) is None
    assert roll_backs.data_at(50) == {"jump": 2}
    resumed = RollBacks(tmp_path, 60)
    resumed.drop_later()
    assert len(resumed) == len(RollBacks(tmp_path, 60)) == 2, "also after it was killed and went on from step 60"
    roll_backs.add(100, {"jump": 3}, {})
    assert roll_backs.data_at(100) == {"jump": 3}


def test_a_flipped_bit_never_changes_a_jump(tmp_path: Path) -> None:
    went_back(tmp_path, 50, 100)
    path, chance = tmp_path / ROLL_BACKS_FILE, random.Random(15)
    whole, lines = path.read_bytes(), []
    for _ in range(300):
        path.write_bytes(with_a_flipped_bit(whole, chance))
        try:
            read = RollBacks(tmp_path, 100)
        except UserError as error:
            lines.append(str(error))
        else:  # a bit in the key "checksum" itself, or in a space
            assert [read.data_at(step) for step in (50, 100)] == [{"jump": 1}, {"jump": 2}]
    assert len(lines) > 200
    assert all(line.startswith(f"{path}: damaged") for line in lines)


def test_a_line_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    (tmp_path / ROLL_BACKS_FILE).write_text('{"number": 1, "to_step": 50, "data": {"jump": 1}}\n')
    assert RollBacks(tmp_path, 50).data_at(50) == {"jump": 1}
