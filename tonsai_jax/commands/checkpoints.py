"""List, verify, prune or compare the checkpoints of a run; or verify an exported model.

list    what there is, its size, score and age, and why each one stays
verify  read every file and compare it with its checksum
prune   delete those that --keep-last and --keep-every do not keep
diff    what changed between two checkpoints of a run, or between the newest of two runs
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tonsai_jax.checkpoints.folder import StoredCheckpoint, damaged_checkpoints, delete
from tonsai_jax.checkpoints.overview import checkpoints_of, describe, to_delete
from tonsai_jax.checkpoints.remote_workdir import is_url, working_folder
from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.huggingface.sums import damage_of_export, edited_files
from tonsai_jax.reporting.numbers import count_of, format_known
from tonsai_jax.reporting.tables import Table, as_text

EXAMPLES = """examples:
  tonsai checkpoints list --workdir runs/mine
  tonsai checkpoints verify --workdir runs/mine
  tonsai checkpoints verify --workdir runs/mine --step 5000
  tonsai checkpoints verify --export runs/mine/export
  tonsai checkpoints prune --workdir runs/mine --keep-last 2 --keep-every 10000
  tonsai checkpoints diff --workdir runs/mine --step 5000 6000
  tonsai checkpoints diff --workdir runs/mine runs/other

The exit code of verify is 1 where something is damaged. prune deletes nothing without --yes.
"""
FLAGS_OF = {
    "list": {"workdir", "json"},
    "verify": {"workdir", "export", "step", "json"},
    "prune": {"workdir", "keep_last", "keep_every", "yes", "json"},
    "diff": {"workdir", "step", "json"},
}


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("action", choices=FLAGS_OF, metavar="list|verify|prune|diff", help="what to do")
    add("--workdir", nargs="+", type=_folder_here, metavar="DIR", help="folder of the run; of diff, one or two")
    add(
        "--step",
        nargs="+",
        type=int,
        metavar="N",
        help="verify: the one to read (default: all); diff: one or two steps",
    )
    add("--export", type=_folder_here, metavar="DIR", help="verify: the folder of an exported model")
    add(
        "--keep-last", type=int, metavar="N", help="prune: keep the newest N (default: checkpoint.keep_last of the run)"
    )
    add("--keep-every", type=int, metavar="N", help="prune: also keep multiples of N steps (default: that of the run)")
    add("--yes", action="store_true", help="prune: delete")
    parser.add_json()
    args = parser.parse_args()
    _check_flags(args)
    figures = ACTIONS[args.action](args)
    if args.json:
        write_json(args.json, figures)
    if args.action == "verify" and any(row["damage"] for row in figures):
        raise UserError("; ".join(f"{row['folder']}: damaged ({row['damage']})" for row in figures if row["damage"]))


def _folder_here(path: str) -> Path:
    """The path of a folder; raises `UserError` for a URL."""
    if is_url(path):
        raise UserError(
            f"{path}: is a URL, and `tonsai checkpoints` takes folders of this machine; a run at a URL works in a folder of "
            f"its machine ({working_folder(path)} here)"
        )
    return Path(path)


def _check_flags(args: argparse.Namespace) -> None:
    given = {name for name, value in vars(args).items() if value not in (None, False) and name != "action"}
    if foreign := sorted(given - FLAGS_OF[args.action]):
        raise UserError(f"--{foreign[0].replace('_', '-')} has no effect on {args.action}; leave it out")
    if (args.workdir is None) == (args.export is None):
        raise UserError("give --workdir, the folder of a run" + (", or --export" if args.action == "verify" else ""))
    if args.workdir and len(args.workdir) > (2 if args.action == "diff" else 1):
        raise UserError(
            f"--workdir: {args.action} takes {'two folders at most' if args.action == 'diff' else 'one folder'}"
        )
    if args.step and len(args.step) > (2 if args.action == "diff" else 1):
        raise UserError(f"--step: {args.action} takes {'two steps at most' if args.action == 'diff' else 'one step'}")
    for name in ("keep_last", "keep_every"):
        if (value := getattr(args, name)) is not None and value < (name == "keep_last"):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {int(name == 'keep_last')}")


def _list(args: argparse.Namespace) -> list[dict[str, Any]]:
    [workdir] = args.workdir
    rows = describe(workdir)
    cells = [
        [
            str(row["step"]),
            row["saved"],
            f"{row['bytes'] / 1e6:,.1f} MB",
            format_known(row["score"], ".4f"),
            {None: "-", True: "yes", False: "not yet"}[row["sane"]],
            "yes" if row["checksums"] else "none",
            ", ".join(row["kept as"]) or "nothing: goes at the next save",
        ]
        for row in rows
    ]
    heads = ("step", "saved", "size", "score", "sane", "checksums", "kept as")
    print(as_text(Table("", heads, cells, "rlrrlll")))
    for folder in damaged_checkpoints(workdir):
        print(f"set aside as damaged: {folder}")
    return rows


def _verify(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a line for each; the caller raises for the damaged ones, after their figures are written."""
    if args.export:
        row = _verified(args.export, damage_of_export(args.export))
        for name in [] if row["damage"] else edited_files(args.export):
            print(f"note: {args.export / name} is not what was exported; a person has edited it, or it is damaged")
        return [row]
    [workdir] = args.workdir
    found = checkpoints_of(workdir)
    if args.step:
        found = [_at(found, workdir, args.step[0])]
    return [_verified(each.folder, each.damage(), has_checksums=each.has_checksums) for each in found]


def _verified(folder: Path, damage: str | None, *, has_checksums: bool = True) -> dict[str, Any]:
    unknown = "cannot be verified: saved by an earlier version without checksums"
    print(f"{folder}: {f'damaged ({damage})' if damage else 'whole' if has_checksums else unknown}")
    return {"folder": str(folder), "damage": damage, "checksums": has_checksums}


def _prune(args: argparse.Namespace) -> list[dict[str, Any]]:
    from tonsai_jax.runtime.lock import workdir_lock  # imported here: only this action writes

    [workdir] = args.workdir
    with workdir_lock(workdir, print):
        goes, whole = to_delete(workdir, args.keep_last, args.keep_every)
        if whole is None:
            raise UserError(
                f"{workdir}: every checkpoint is damaged, so none is deleted; `tonsai checkpoints verify` names why"
            )
        rows = [{"step": each.step, "bytes": each.size(), "deleted": args.yes} for each in goes]
        for each, row in zip(goes, rows, strict=True):
            print(f"{'deleted' if args.yes else 'would be deleted'}: {each.folder} ({row['bytes'] / 1e6:,.1f} MB)")
            if args.yes:
                delete(each)
    total = sum(row["bytes"] for row in rows) / 1e6
    print(
        f"{total:,.1f} MB; the newest whole checkpoint is that of step {whole.step}"
        + ("" if args.yes or not rows else "; add --yes")
    )
    return rows


def _diff(args: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it compares on the host
    from tonsai_jax.runtime.libraries import quiet_libraries

    quiet_libraries()
    from tonsai_jax.checkpoints.compare import changed_arrays, changed_metadata
    from tonsai_jax.checkpoints.saved import open_checkpoint

    steps = args.step or [None]
    if len(args.workdir) == 1 and len(steps) == 1:
        raise UserError("diff: give two steps of the run, --step N M, or the folders of two runs, --workdir A B")
    before, after = (
        open_checkpoint(workdir, step) for workdir, step in zip(_twice(args.workdir), _twice(steps), strict=True)
    )
    print(f"{before.workdir} step {before.step} -> {after.workdir} step {after.step}")
    metadata = changed_metadata(before, after)
    for section, lines in metadata.items():
        for line in lines:
            print(f"{section}: {line}")
    changed, equal = changed_arrays(before, after)
    cells = [[change.name, *(format_known(norm, ".6g") for norm in change[1:])] for change in changed]
    print(as_text(Table("", ("parameter", "norm before", "norm after", "norm of change"), cells, "lrrr")))
    print(f"{count_of(len(changed), 'parameter')} changed, {equal} equal to the bit")
    return {"metadata": metadata, "changed": [change._asdict() for change in changed], "equal": equal}


def _twice(values: Sequence[Any]) -> Sequence[Any]:
    return values if len(values) == 2 else [*values, *values]


def _at(found: Sequence[StoredCheckpoint], workdir: Path, step: int) -> StoredCheckpoint:
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    there = ", ".join(str(checkpoint.step) for checkpoint in found)
    raise UserError(f"{workdir}: no checkpoint at step {step}; there are: {there}")


ACTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "list": _list,
    "verify": _verify,
    "prune": _prune,
    "diff": _diff,
}
