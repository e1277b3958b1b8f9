"""Checks every byte of token rows against their manifest.

A run looks at a sample of each file when it starts; this reads all of them. Exit code 0: every file is the one that was
written. Exit code 1: a line names each row that is damaged, or the file.
"""

import sys
import time

from tonsai_jax.commands.parser import CommandParser
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.data.verify import check_tokenizer, shards_of, verify_rows
from tonsai_jax.errors import UserError
from tonsai_jax.files import write_json
from tonsai_jax.reporting.numbers import count_of
from tonsai_jax.reporting.progress_bar import progress_bar
from tonsai_jax.tokenizer.loading import Tokenizer

EXAMPLE = """example:
  tonsai verify data/tokens
"""


def main() -> None:
    parser = CommandParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument("rows", metavar="DIR", help="token rows, the data.dir of a run")
    parser.add_json()
    args = parser.parse_args()

    start = time.monotonic()
    manifest = read_manifest(args.rows)
    check_tokenizer(manifest, Tokenizer.from_folder(manifest.directory / "tokenizer"))
    shards = [place.shard for place in shards_of(manifest)]
    size = sum(shard.path.stat().st_size for shard in shards)
    with progress_bar("reading", unit="B", total=size) as bar:
        faults = verify_rows(manifest, bar.update)
    seconds = time.monotonic() - start
    if args.json:
        write_json(
            args.json, {"files": len(shards), "bytes": size, "seconds": seconds, "faults": list(map(str, faults))}
        )
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise UserError(f"{args.rows}: {count_of(len(faults), 'fault')} in {count_of(len(shards), 'file')}")
    megabytes = size / 1e6
    print(
        f"{args.rows}: {count_of(len(shards), 'file')}, {megabytes:,.1f} MB, all as they were written "
        f"({megabytes / max(seconds, 1e-9):,.0f} MB/s)"
    )
