"""Modules that training imports load no library for reports before a report is written."""

import subprocess
import sys


def test_tables_pages_and_progress_bars_load_their_libraries_only_when_used() -> None:
    code = (
        "import sys\n"
        "import tonsai_jax.reporting.numbers, tonsai_jax.reporting.page\n"
        "import tonsai_jax.reporting.progress_bar, tonsai_jax.reporting.tables\n"
        "sys.exit(' '.join({'jinja2', 'tabulate', 'tqdm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
