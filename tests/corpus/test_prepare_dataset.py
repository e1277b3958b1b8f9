"""The command `tonsai prepare`: from arguments to files, and what bad input gives."""

import contextlib
import glob
import gzip
import importlib.util
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.console import without_progress
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command in `tmp_path`; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "three.txt").write_text("មួយ\nពីរ\nបី\n", encoding="utf-8")
    (tmp_path / "english.jsonl").write_text('{"text": "e\\u0301t  e\\u0301"}\n{"text": " "}\n')

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        code: str | int | None = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return run


def texts(folder, source):
    return [text for batch in read_documents(folder, source) for text in batch]


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_khmer_and_english_by_option(command, tmp_path):
    code, out, err = command(
        *(
            "--khmer",
            "three.txt",
            "--english",
            "english.jsonl",
            "--khmer-weight",
            "3",
            "--english-weight",
            "1",
        ),
        *("--output-dir", "data/mix", "--json", "figures.json"),
    )
    assert (code, err) == (0, "")
    assert texts("data/mix", "khmer") == ["មួយ", "ពីរ", "បី"]
    assert texts("data/mix", "english") == ["ét é"]
    sources = read_documents_manifest("data/mix")["sources"]
    assert [(source["weight"], source["language"]) for source in sources.values()] == [
        (0.75, "km"),
        (0.25, "en"),
    ]
    assert sources["english"]["filters"] == {"empty": 1}
    assert sources["english"]["bytes"] == len("ét é".encode())
    assert json.loads(Path("figures.json").read_text())["english"] == {
        "language": "en",
        "weight": 0.25,
        "documents": 1,
        "megabytes": 6e-6,
        "dropped": 1,
    }
    assert re.search(r"^ *english +en +0\.250 +1 +0\.00 +1$", out, re.MULTILINE)
    assert "dropped from english: 1 empty" in out
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["mix"]


def test_sources_from_a_yaml_file(command):
    Path("s.yaml").write_text(
        "sources: [{name: a, language: km, path: three.txt, license: CC0, document: file, weight: 7}]"
    )
    assert command("--config", "s.yaml", "--output-dir", "out")[0] == 0
    source = read_documents_manifest("out")["sources"]["a"]
    assert (source["documents"], source["license"], source["weight"]) == (1, "CC0", 1.0)
    assert texts("out", "a") == ["មួយ\nពីរ\nបី"]


def test_max_samples_makes_a_quick_try(command):
    assert command("--khmer", "three.txt", "--max-samples", "2", "--output-dir", "out")[0] == 0
    assert texts("out", "khmer") == ["មួយ", "ពីរ"]


def test_the_same_input_gives_the_same_bytes_and_another_cut_another_hash(tmp_path):
    def hash_of(name, documents):
        manifest = prepare([Source("a", "km", documents=documents)], tmp_path / name, progress=False)
        return manifest["sources"]["a"]["content_hash"]

    assert hash_of("x", ["ab", "c"]) == hash_of("y", ["ab", "c"])
    assert tree(tmp_path / "x") == tree(tmp_path / "y")
    assert hash_of("z", ["a", "bc"]) != hash_of("x", ["ab", "c"])


BAD = {
    "no source": ([], "give either --config FILE, or --khmer"),
    "both forms": (["--config", "s.yaml", "--khmer", "three.txt"], "give either --config FILE, or --khmer"),
    "missing file": (["--khmer", "nowhere.txt"], "nowhere.txt: no such file or folder"),
    "missing config": (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    "empty file": (["--khmer", "empty.txt"], "empty.txt: the file is empty"),
    "blank file": (["--khmer", "blank.txt"], "source 'khmer': no document to read in blank.txt"),
    "nothing left": (
        ["--english", "spaces.jsonl"],
        r"'english': no document left of 2 read \(dropped: empty 2\)",
    ),
    "not UTF-8": (["--khmer", "latin.txt"], r"latin.txt: not UTF-8 at byte 8 \(0xe9\)"),
    "nothing but not UTF-8": (
        ["--khmer", "latin1.txt", "--on-error", "skip"],
        r"no document .*\(dropped: not_utf8 1\)",
    ),
    "missing column": (
        ["--config", "column.yaml"],
        "body.csv: no column 'txt'; there are: content, body; set `text_column`",
    ),
    "which column": (["--english", "body.csv"], "body.csv: .*content.*body"),
    "negative weight": (
        ["--khmer", "three.txt", "--khmer-weight", "-1"],
        "source 'khmer': weight -1.0 must be",
    ),
    "zero weights": (["--khmer", "three.txt", "--khmer-weight", "0"], "all weights are 0"),
    "no samples": (["--khmer", "three.txt", "--max-samples", "0"], "max_samples 0 must be at least 1"),
    "no tokens planned": (["--khmer", "three.txt", "--tokens", "-5"], "--tokens -5: must be above 0"),
    "semicolons": (["--english", "semicolons.csv"], "semicolons.csv: the first line has ';' between its fields"),
    "output is a file": (
        ["--khmer", "three.txt", "--output-dir", "three.txt"],
        "three.txt: no folder can be made here",
    ),
    "output below a file": (
        ["--khmer", "three.txt", "--output-dir", "three.txt/a"],
        "no folder can be made here",
    ),
    "output is not ours": (
        ["--khmer", "three.txt", "--output-dir", "mine"],
        "mine: contains 'thesis.txt', which this",
    ),
    "reads its output": (
        ["--khmer", "mine", "--output-dir", "mine"],
        "mine/thesis.txt: source 'khmer' reads from",
    ),
    "reads its output the next time": (
        ["--khmer", "mine", "--output-dir", "mine/out"],
        "mine/out: lies in mine, from which source 'khmer' reads all files; choose another --output-dir",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_gives_one_line_and_leaves_nothing(command, tmp_path, arguments, message):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text("\n \n\n")
    (tmp_path / "spaces.jsonl").write_text('{"text": " "}\n{"text": null}\n')
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "body.csv").write_text("content,body\nnews,a\n")
    (tmp_path / "semicolons.csv").write_text("id;body\n1;one, two\n")
    (tmp_path / "column.yaml").write_text("sources: [{name: a, language: en, path: body.csv, text_column: txt}]")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)

    code, out, err = command("--output-dir", "out", *arguments)

    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert tree(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_errors_skip_and_a_truncated_file_is_exit_code_0_and_the_damage_is_counted(command):
    Path("cut.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(9999)))[:-20])
    code, out, _ = command("--english", "cut.jsonl.gz", "--output-dir", "out", "--on-error", "skip")
    assert code == 0
    assert "dropped from english: 1 damaged_file" in out


def test_errors_skip_and_a_source_of_which_nothing_is_left_is_exit_code_1(command):
    Path("blank.jsonl").write_text('{"text": " "}\n')
    arguments = ["--khmer", "three.txt", "--english", "blank.jsonl", "--output-dir", "out", "--on-error", "skip"]
    code, _, err = command(*arguments)
    assert (code, err.startswith("error: left out: english (source 'english': no document left")) == (1, True)
    assert texts("out", "khmer") == ["មួយ", "ពីរ", "បី"]
    code, _, _ = command("--english", "blank.jsonl", "--output-dir", "out2", "--on-error", "skip")
    assert (code, Path("out2").exists()) == (1, False)


def test_errors_skip_counts_what_cannot_be_read_and_goes_on(command):
    Path("latin.txt").write_bytes(b"fine\ncaf\xe9\nfine too\n")
    code, out, _ = command("--khmer", "latin.txt", "--output-dir", "out", "--on-error", "skip")
    assert code == 0
    assert texts("out", "khmer") == ["fine", "fine too"]
    assert read_documents_manifest("out")["sources"]["khmer"]["filters"] == {"not_utf8": 1}
    assert "dropped from khmer: 1 not_utf8" in out


def test_a_new_dataset_replaces_an_earlier_one_whole(tmp_path):
    prepare([Source("a", "km", documents=["old"]), Source("b", "km", documents=["old"])], tmp_path / "out")
    prepare([Source("a", "km", documents=["new"])], tmp_path / "out")
    assert texts(tmp_path / "out", "a") == ["new"]
    assert sorted(tree(tmp_path)) == ["out/a/part-00000.parquet", "out/manifest.json", "out/report.html"]


def test_a_stranger_s_file_in_an_earlier_dataset_is_not_deleted(tmp_path):
    prepare([Source("a", "km", documents=["old"])], tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains 'notes\.txt', which this command did not write"):
        prepare([Source("a", "km", documents=["new"])], tmp_path / "out")
    assert texts(tmp_path / "out", "a") == ["old"]


def test_a_failure_half_way_leaves_the_earlier_dataset_whole_and_nothing_beside_it(tmp_path):
    def breaks():
        yield "new"
        raise RuntimeError("power cut")

    prepare([Source("a", "km", documents=["old"])], tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        prepare([Source("a", "km", documents=breaks())], tmp_path / "out")
    assert tree(tmp_path) == before


def start(arguments, folder, **options):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def limit_file_size():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def test_a_full_disk_is_told_in_one_line_and_the_earlier_dataset_stays_whole(tmp_path):
    prepare([Source("khmer", "km", documents=["old"])], tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "noise.txt").write_text("\n".join(os.urandom(500).hex() for _ in range(1000)))
    process = start(["--english", "noise.txt", "--output-dir", "out"], tmp_path, preexec_fn=limit_file_size)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"error: {tmp_path / 'out'}: the disk is full")
    assert err.count("\n") == 1
    assert tree(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.txt", "out"]


def test_sigterm_leaves_nothing_half_written(tmp_path):
    (tmp_path / "three.txt").write_text("1\n2\n3\n")
    held_before_the_manifest = f"""
import runpy, sys, time
import tonsai_jax.corpus.output as output
output.write_json = lambda *_: (print("writing", flush=True), time.sleep(60))
sys.argv = ["prepare_dataset.py", "--khmer", "three.txt", "--output-dir", "out"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", held_before_the_manifest], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 4, "the input, what is finished, what is being written, and its lock"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["three.txt"]


LINES = 3_000


def write_sources(folder):
    """Four files of Khmer and English, large enough that a kill finds the work half done; and their recipe."""
    for number in range(2):
        for language, words in (("km", "ខែ្មរ ភាសា​ជា ស្រ្តី"), ("en", "the cafe\u0301 by the river")):
            lines = [
                " ".join(f"{words} {number} {line * prime}" for prime in (1, 7, 11, 13, 17)) for line in range(LINES)
            ]
            (folder / f"{language}{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        "executor: {workers: 2}\ndeduplicate: {near: true, lines: 3}\nredact: {}\nquality: {min_score: 0.1}\n"
        "keep_dropped: true\nsources:\n"
        "- {name: khmer, language: km, path: km*.txt}\n- {name: english, language: en, path: en*.txt}\n"
    )


def finished_parts(folder, stage="*"):
    parts = {}
    for path in glob.iglob(f"{folder}/.out.work/{stage}/*.json"):  # pathlib's glob fails where a folder goes away
        with contextlib.suppress(FileNotFoundError):
            parts[path] = os.stat(path).st_mtime_ns
    return parts


def add_a_line(folder):
    with (folder / "en1.txt").open("a") as file:
        file.write("\none more")


@pytest.fixture
def never_killed(made_once):
    """The dataset of these sources with the line added, made by one run."""

    def make(folder):
        folder.mkdir()
        write_sources(folder)
        add_a_line(folder)
        assert start(["--config", "recipe.yaml", "--output-dir", "out"], folder).wait(timeout=120) == 0

    return made_once("never-killed", make) / "out"


@pytest.mark.full
@pytest.mark.parametrize(
    "stage",
    ["clean", "matched", "written"],
)
def test_a_killed_run_goes_on_and_gives_the_same_bytes(never_killed, tmp_path, stage):
    write_sources(tmp_path)
    small_parts = f"""
import runpy, sys
import tonsai_jax.corpus.prepare as prepare
prepare.PIECE_BYTES = 1_000_000
sys.argv = ["prepare_dataset.py", "--config", "recipe.yaml", "--output-dir", "out"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    first = subprocess.Popen([sys.executable, "-c", small_parts], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while not finished_parts(tmp_path, stage):
        assert time.monotonic() < deadline
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = finished_parts(tmp_path)
    assert not (tmp_path / "out").exists()
    add_a_line(tmp_path)

    second = subprocess.Popen([sys.executable, "-c", small_parts], cwd=tmp_path, start_new_session=True)
    while second.poll() is None:
        kept = {name: time_ns for name, time_ns in finished_parts(tmp_path).items() if name in before}
        assert all(before[name] == time_ns for name, time_ns in kept.items()), "a finished part was made again"
        time.sleep(0.01)
    assert second.returncode == 0
    assert tree(tmp_path / "out") == tree(never_killed)
    assert texts(tmp_path / "out", "english")[-1] == "one more", "the input that changed was read again"
    assert not (tmp_path / ".out.work").exists()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{name: b, language: km, path: three.txt}", "'b': no document left of 3 read .*min_units dropped the most"),
        ("{name: b, language: en, path: broken.jsonl}", "broken.jsonl: line 2 is not JSON"),
    ],
    ids=["every document is dropped", "a later source cannot be read"],
)
def test_what_a_failed_run_has_finished_is_used_by_the_next(command, second, message):
    Path("long.txt").write_text("".join(f"{number} of many long lines {'of text ' * 100}\n" for number in range(1500)))
    Path("broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    recipe = "quality: {rules: {km: {min_units: 100}}}\nexecutor: {workers: 1}\nsources:\n- "
    Path("r.yaml").write_text(f"{recipe}{{name: a, language: en, path: long.txt, trusted: true}}\n- {second}\n")
    for _ in range(2):
        code, _, err = command("--config", "r.yaml", "--output-dir", "out")
        assert code == 1
        assert re.search(
            f"{message}.*; what is finished is kept in .*/.out.work, and the next run goes on from it", err
        )
        assert not Path("out").exists()
    [part] = [path for path in finished_parts(".", "clean") if '"filters": {}' in Path(path).read_text()]
    Path("r.yaml").write_text(f"{recipe}{{name: a, language: en, path: long.txt, trusted: true}}\n")
    Path(part).write_text(Path(part).read_text().replace('"filters": {}', '"filters": {"from_before": 7}'))
    assert command("--config", "r.yaml", "--output-dir", "out")[0] == 0
    assert read_documents_manifest("out")["sources"]["a"]["filters"] == {"from_before": 7}
    assert not Path(".out.work").exists()


def test_a_failed_run_next_to_results_of_an_earlier_version_ends_in_one_line(command):
    """They do not say how many bytes they have read."""
    Path(".out.work", "clean").mkdir(parents=True)
    Path(".out.work", "clean", "0123.json").write_text('{"read": 1, "kept": 1}')
    Path("broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    code, _, err = command("--english", "broken.jsonl", "--output-dir", "out")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: broken.jsonl: line 2 is not JSON")


@pytest.mark.parametrize(
    ("keys", "source", "message"),
    [
        (
            "quality: {preset: web}",
            "language: km, path: three.txt",
            r"\(dropped: min_units 3\); min_units dropped the most: set `quality: {rules: {km: {min_units: ...}}}` "
            r"\(now 100, null turns it off\), or `trusted: true` for this source, to which no rule then applies$",
        ),
        ("quality: {min_score: 1}", "language: en, path: three.txt", r"set `quality: {min_score: ...}` \(now 1\), or"),
        (
            "decontaminate: {files: [long.txt]}",
            "language: en, path: long.txt",
            "; check the files under `decontaminate`",
        ),
        ("{}", "language: en, path: blank.jsonl", "; check the file, or `text_column`: the texts are blank"),
    ],
)
def test_where_no_document_is_left_the_message_says_what_to_change(command, keys, source, message):
    Path("blank.jsonl").write_text('{"text": " "}\n')
    Path("long.txt").write_text("a text of so many words that it can be found in an evaluation set again\n")
    Path("r.yaml").write_text(f"sources: [{{name: a, {source}}}]\n" + (keys if keys != "{}" else ""))
    code, _, err = command("--config", "r.yaml", "--output-dir", "out")
    assert code == 1
    assert re.search(message, err), err
    assert not Path(".out.work").exists(), "it takes no time to do again"


def test_document_says_what_a_document_of_a_text_file_is(command):
    Path("r.yaml").write_text("sources: [{name: a, language: km, path: three.txt, document: line}]")
    for arguments in (["--khmer", "three.txt"], ["--config", "r.yaml"]):
        assert command(*arguments, "--document", "file", "--output-dir", "out")[0] == 0
        (source,) = read_documents_manifest("out")["sources"]
        assert texts("out", source) == ["មួយ\nពីរ\nបី"]
    assert command("--english", "owner/name", "--document", "file", "--output-dir", "out")[2] == (
        "error: --document is for text files, but no source has a `path`; take it out\n"
    )


def test_a_hard_wrapped_file_is_read_by_paragraph_and_this_is_said(command):
    paragraphs = [f"Paragraph {number} is {'rather long and ' * 40}over." for number in range(9)]
    Path("book.txt").write_text("\n\n".join(textwrap.fill(text, 60) for text in paragraphs))
    Path("list.txt").write_text("One.\nTwo.\n")
    code, out, err = command("--english", "*.txt", "--output-dir", "out")
    assert code == 0
    assert texts("out", "english")[:9] == paragraphs
    assert err == (
        "note: source 'english': 1 of 3 files are hard-wrapped, so each paragraph is one document with its lines joined "
        "(book.txt: lines of about 59 characters); to make each line a document, set `document: line` in the sources file "
        "(or give `--document line`)\n"
    )
    assert "1 of 3 files are hard-wrapped" in out
    assert command("--english", "*.txt", "--document", "line", "--output-dir", "out")[2] == ""
    assert read_documents_manifest("out")["sources"]["english"]["reading"] is None


def test_json_files_that_are_not_read_are_noted_once(command):
    Path("english").mkdir()
    for name in ("a.txt", "b.txt", "stories.json", "more.json", ".hidden.json"):
        Path("english", name).write_text('[{"text": "One."}]\n')
    Path("english", "deep").mkdir()
    Path("english", "deep", "most.json.gz").write_bytes(gzip.compress(b'[{"text": "One."}]'))
    code, _, err = command("--english", "english", "--output-dir", "out")
    assert (code, err) == (
        0,
        "note: source 'english': left out 3 .json files, because english has files of other formats too; if they hold text, "
        "give them a source of their own\n",
    )
    for location in ("english/*.json", "english/*", "english/deep"):
        assert command("--english", location, "--output-dir", "out")[2] == "", location


def test_text_in_another_script_than_the_language_s_is_noted_once(command):
    Path("english").mkdir()
    for name in ("a", "b"):
        Path("english", f"{name}.txt").write_text("English text in a file that should be Khmer.\n" * 20)
    Path("english", "c.txt").write_text("ភាសាខ្មែរ and English\n" * 20, encoding="utf-8")
    code, _, err = command("--khmer", "english", "--output-dir", "out")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(
        "note: source 'khmer': the language is km, but 100% of the letters in a.txt are in another script (Latn) and 1 more file;"
    )
    assert command("--english", "english", "--output-dir", "out")[2] == "", "half of c.txt is English"


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: uv sync --extra ray")
def test_ray_gives_the_same_documents(tmp_path):
    write_sources(tmp_path)
    recipe = tmp_path / "recipe.yaml"  # a stage on Ray takes some 10 s whatever it does, and near-duplicates have five
    recipe.write_text(recipe.read_text().replace("near: true, lines: 3", "exact: true"))
    for folder, extra in (("local", []), ("ray", ["--executor", "ray"])):
        process = start(["--config", "recipe.yaml", "--output-dir", folder, *extra], tmp_path)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
    assert tree(tmp_path / "local") == tree(tmp_path / "ray")


def test_normalization_is_what_the_sources_file_says(command):
    Path("a.txt").write_text("ភាសា\u200bខ្មែរ “១២”", encoding="utf-8")
    recipe = "sources: [{name: a, language: km, path: a.txt}]\n"
    for number, (keys, text) in enumerate(
        {"": "ភាសាខ្មែរ “១២”", "normalize: {zwsp: keep, quotes: true, digits: arabic}": 'ភាសា\u200bខ្មែរ "12"'}.items()
    ):
        Path("r.yaml").write_text(recipe + keys)
        assert command("--config", "r.yaml", "--output-dir", f"out{number}")[0] == 0
        assert texts(f"out{number}", "a") == [text]
    assert read_documents_manifest("out1")["normalize"]["digits"] == "arabic"


def test_of_equal_documents_the_one_of_the_earlier_source_stays(command):
    Path("one.txt").write_text("same\nខែ្មរ\nonly one\nsame\n", encoding="utf-8")
    Path("two.txt").write_text("other\nខ្មែរ\nsame \nlast", encoding="utf-8")
    recipe = "sources: [{name: one, language: km, path: one.txt}, {name: two, language: en, path: two.txt}]\n"
    Path("r.yaml").write_text(recipe + "deduplicate: {exact: true}")
    code, out, _ = command("--config", "r.yaml", "--output-dir", "out")
    assert code == 0
    assert texts("out", "one") == ["same", "ខ្មែរ", "only one"]
    assert texts("out", "two") == ["other", "last"], "equal after cleaning is equal"
    sources = read_documents_manifest("out")["sources"]
    assert [source["filters"] for source in sources.values()] == [
        {"duplicate": 1},
        {"duplicate": 2},
    ]
    assert "dropped from two: 2 duplicate" in out
    ids = pq.read_table("out/two/part-00000.parquet").column("id").to_pylist()
    assert ids == ["two/0-0", f"two/0-{len('other ខ្មែរ same  '.encode())}"], "an id tells file and byte"

    Path("r.yaml").write_text(recipe)
    assert command("--config", "r.yaml", "--output-dir", "out")[0] == 0
    assert texts("out", "one")[-1] == "same"


def test_files_that_are_equal_are_duplicates_too(command, monkeypatch):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x.txt").write_text("one\ntwo\n")
    Path("r.yaml").write_text("sources: [{name: s, language: en, path: '*/x.txt'}]\ndeduplicate: {exact: true}")
    for piece_bytes in (4, 10**9):
        monkeypatch.setattr("tonsai_jax.corpus.prepare.PIECE_BYTES", piece_bytes)
        assert command("--config", "r.yaml", "--output-dir", "out")[0] == 0
        assert texts("out", "s") == ["one", "two"]


def test_errors_skip_leaves_out_a_source_that_fails_and_says_so(command):
    Path("broken.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(9999)))[:-20])
    Path("r.yaml").write_text(
        "sources: [{name: good, language: km, path: three.txt}, {name: gone, language: km, path: gone.txt},"
        " {name: broken, language: en, path: broken.jsonl.gz}]"
    )
    code, _, err = command("--config", "r.yaml", "--output-dir", "out", "--on-error", "skip")
    assert code == 1
    assert err == "error: left out: gone (gone.txt: no such file or folder)\n"
    assert texts("out", "good") == ["មួយ", "ពីរ", "បី"]
    manifest = read_documents_manifest("out")
    assert list(manifest["sources"]) == ["good", "broken"]
    assert sum(source["weight"] for source in manifest["sources"].values()) == 1
    assert manifest["sources"]["broken"]["filters"]["damaged_file"] == 1
    assert texts("out", "broken")[:2] == ["0", "1"], "what came before the damage is kept"
    assert manifest["failed"] == {"gone": "gone.txt: no such file or folder"}
    assert command("--config", "r.yaml", "--output-dir", "out2")[0] == 1
    assert not Path("out2").exists(), "without --on-error skip nothing is written"


def test_a_source_of_nothing_but_duplicates_is_named(command):
    Path("r.yaml").write_text(
        "sources: [{name: a, language: km, path: three.txt}, {name: b, language: km, path: three.txt}]\n"
        "deduplicate: {exact: true}"
    )
    code, _, err = command("--config", "r.yaml", "--output-dir", "out")
    assert code == 1
    assert "source 'b': no document left (dropped: duplicate 3); remove it" in err
    assert not Path("out").exists()
    assert command("--config", "r.yaml", "--output-dir", "out", "--on-error", "skip")[0] == 1
    assert list(read_documents_manifest("out")["sources"]) == ["a"]


def test_the_report_shows_sources_rules_and_epochs(command):
    Path("odd.txt").write_text("<b>bold</b>\nplain\n", encoding="utf-8")
    assert command("--khmer", "three.txt", "--english", "odd.txt", "--output-dir", "out", "--tokens", "100")[0] == 0
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "មួយ" in page
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page, "text of the corpus must not become part of the page"
    english = 100 * 0.4 * 4.5 / len("<b>bold</b>plain")
    assert f"{english:.2f}" in page


@pytest.mark.full
def test_real_text_loses_nothing(tmp_path):
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz to check real text")
    process = start(["--khmer", f"{corpus}/km", "--english", f"{corpus}/en", "--output-dir", "out"], tmp_path)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, without_progress(err)) == (0, "")
    for source in read_documents_manifest(tmp_path / "out")["sources"].values():
        assert source["documents"] > 1000
        assert sum(source["filters"].values()) == 0
