"""`tonsai checkpoints`: what it lists, verifies, deletes and compares."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.test_damage import files_of, flip, forget_checksums
from tests.checkpoints.test_store import kept, save
from tests.support.console import tonsai
from tonsai_jax.checkpoints.checksums import CHECKSUMS_FILE
from tonsai_jax.checkpoints.keep import KeepPolicy
from tonsai_jax.checkpoints.store import Checkpoints
from tonsai_jax.files import read_json, write_json
from tonsai_jax.runtime.lock import workdir_lock


def checkpoints(*words: object) -> tuple[int, str, str]:
    return tonsai("checkpoints", *map(str, words))


def test_list_has_a_row_for_each_with_its_score_and_why_it_stays(three: Path, tmp_path: Path) -> None:
    write_json(three / "config.json", {"checkpoint": {"keep_last": 1, "keep_every": 2, "keep_best": 1}})
    write_json(three / "scores.json", {"1": 0.5, "3": 0.7})
    forget_checksums(three / "checkpoints" / "2")
    code, out, err = checkpoints("list", "--workdir", three, "--json", tmp_path / "list.json")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    rows = read_json(tmp_path / "list.json")
    assert [(row["step"], row["score"], row["checksums"], row["kept as"]) for row in rows] == [
        (1, 0.5, True, ["best 1"]),
        (2, None, False, ["every 2"]),
        (3, 0.7, True, ["newest", "last 1"]),
    ]
    assert rows[0]["bytes"] == sum(file.stat().st_size for file in files_of(three / "checkpoints" / "1"))


@pytest.mark.parametrize("text", ["{}", "[]", '{"checkpoint": 3}', "{"])
def test_a_config_that_does_not_say_how_to_keep_is_that_of_the_defaults(three: Path, text: str) -> None:
    (three / "config.json").write_text(text)
    code, out, err = checkpoints("list", "--workdir", three)
    assert (code, err, len(out.splitlines())) == (0, "", 4)
    assert checkpoints("prune", "--workdir", three)[::2] == (0, "")


def test_verify_reads_all_or_one_and_ends_with_1_for_a_damaged_one(three: Path) -> None:
    assert checkpoints("verify", "--workdir", three)[::2] == (0, "")
    file = files_of(three / "checkpoints" / "2" / "params")[-1]
    flip(file, 9)
    code, out, err = checkpoints("verify", "--workdir", three)
    assert [line.rpartition(": ")[2] for line in out.splitlines()][::2] == ["whole", "whole"]
    name = file.relative_to(three / "checkpoints" / "2")
    damage = f"{three}/checkpoints/2: damaged ({name}: its bytes are not those that were saved)"
    assert (code, err) == (1, f"error: {damage}\n")
    assert checkpoints("verify", "--workdir", three, "--step", 3)[0] == 0
    assert "no checkpoint at step 5; there are: 1, 2, 3" in checkpoints("verify", "--workdir", three, "--step", 5)[2]


def test_verify_says_which_ones_it_cannot_verify(three: Path) -> None:
    forget_checksums(three / "checkpoints" / "1")
    code, out, _ = checkpoints("verify", "--workdir", three)
    assert code == 0
    assert out.splitlines()[0].endswith("1: cannot be verified: saved by an earlier version without checksums")


def test_verify_loads_neither_jax_nor_orbax(three: Path) -> None:
    code = (
        "import sys\nfrom tonsai_jax.__main__ import main\n"
        f"sys.argv = ['tonsai', 'checkpoints', 'verify', '--workdir', {str(three)!r}]\nmain()\n"
        "sys.exit(' '.join({'jax', 'orbax'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prune_shows_what_goes_and_deletes_it_only_with_yes(three: Path) -> None:
    words = ("prune", "--workdir", three, "--keep-last", 1, "--keep-every", 2)
    code, out, _ = checkpoints(*words)
    assert code == 0
    assert f"would be deleted: {three}/checkpoints/1 (" in out
    assert kept(three) == [1, 2, 3]
    assert f"deleted: {three}/checkpoints/1 (" in checkpoints(*words, "--yes")[1]
    assert kept(three) == [2, 3]
    assert [path.name for path in (three / "checkpoints").iterdir() if not path.name.isdecimal()] == []


def test_prune_never_deletes_the_newest_whole_one(three: Path) -> None:
    (three / "checkpoints" / "3" / CHECKSUMS_FILE).unlink()
    checkpoints("prune", "--workdir", three, "--keep-last", 1, "--yes")
    assert kept(three) == [2, 3]
    (three / "checkpoints" / "2" / CHECKSUMS_FILE).unlink()
    code, _, err = checkpoints("prune", "--workdir", three, "--keep-last", 1, "--yes")
    assert (code, kept(three)) == (1, [2, 3])
    assert "every checkpoint is damaged, so none is deleted" in err


def test_prune_refuses_while_a_trainer_works_there(three: Path) -> None:
    with workdir_lock(three, print):
        code, _, err = checkpoints("prune", "--workdir", three, "--keep-last", 1, "--yes")
    assert (code, kept(three)) == (1, [1, 2, 3])
    assert f"{three}: another trainer works here" in err


def test_diff_shows_the_keys_the_data_and_the_parameters_that_changed(trained: Path, tmp_path: Path) -> None:
    code, out, err = checkpoints("diff", "--workdir", trained, "--step", 2, 4, "--json", tmp_path / "diff.json")
    assert (code, err) == (0, "")
    assert out.startswith(f"{trained} step 2 -> {trained} step 4\ndata: ")
    figures = read_json(tmp_path / "diff.json")
    names = {change["name"]: change for change in figures["changed"]}
    change = names["token_embedding"]
    assert 0 < change["change"] < change["before"] + change["after"]
    same = checkpoints("diff", "--workdir", trained, trained)[1]
    assert f"0 parameters changed, {len(names) + figures['equal']} equal to the bit" in same


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list",), "give --workdir, the folder of a run"),
        (("verify",), "give --workdir, the folder of a run, or --export"),
        (("list", "--workdir", "RUN", "--yes"), "--yes has no effect on list; leave it out"),
        (("list", "--workdir", "RUN", "OTHER"), "--workdir: list takes one folder"),
        (("list", "--workdir", "nowhere"), "nowhere: no such folder; give the --workdir that `tonsai train` was given"),
        (("prune", "--workdir", "RUN", "--keep-last", "0"), "--keep-last 0: must be at least 1"),
        (("diff", "--workdir", "RUN", "--step", "1"), "diff: give two steps of the run"),
        (("verify", "--export", "RUN"), "no export here (no export.json)"),
    ],
)
def test_a_mistake_is_one_line(three: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = checkpoints(*(str(three) if word == "RUN" else word for word in words))
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert message in line


# Temporary ones


def test_a_temporary_checkpoint_is_replaced_by_the_next_and_takes_no_place(tmp_path: Path) -> None:
    def saved(workdir: Path, *steps: int, is_temporary: bool = False) -> list[int]:
        opened = Checkpoints(workdir, KeepPolicy(last=2))
        save(opened, *steps, is_temporary=is_temporary)
        opened.close()
        return kept(workdir)

    assert saved(tmp_path, 1, 2) == [1, 2]
    assert saved(tmp_path, 3, is_temporary=True) == [1, 2, 3]
    assert saved(tmp_path, 4, is_temporary=True) == [1, 2, 4]
    assert saved(tmp_path, 5) == [2, 5]
    shutil.rmtree(tmp_path / "checkpoints" / "5")
    assert saved(tmp_path, 5, is_temporary=True) == [2, 5]
    assert "temporary, newest" in checkpoints("list", "--workdir", tmp_path)[1]


def test_a_url_is_refused() -> None:
    code, out, err = checkpoints("list", "--workdir", "gs://bucket/run")
    assert (code, out) == (1, "")
    assert err.startswith("error: gs://bucket/run: is a URL, and `tonsai checkpoints` takes folders of this machine; ")
