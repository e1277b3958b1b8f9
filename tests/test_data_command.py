"""`tonsai data`: from sources to token rows in one command, which repeats only what has to be repeated."""

import json
import runpy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.console import tonsai
from tests.support.made_once import MadeOnce
from tests.support.open_tokenizers import gemma3, smollm2
from tonsai_jax.commands import prepare, train_tokenizer
from tonsai_jax.corpus import pipeline
from tonsai_jax.corpus.pipeline import content_hash
from tonsai_jax.data.manifest import read_manifest
from tonsai_jax.jobs.cache import content_key
from tonsai_jax.reporting.progress_bar import Progress, progress_bar
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.bpe import PATTERNS
from tonsai_jax.tokenizer.loading import Tokenizer

SMALL = Path(__file__).parents[1] / "configs" / "small.py"
FLAGS = ("--vocab-size", "400", "--val-ratio", "0.1")


@pytest.fixture(scope="session")
def made(made_once: MadeOnce) -> Path:
    """A folder with two texts and the data of them; copy it before you change it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, language in (("khmer", "km"), ("english", "en")):
            (folder / f"{name}.txt").write_text("\n".join(" ".join(s.split()) for s in stories(language, 30, seed=1)))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            code, out, err = data()
        assert (code, err) == (0, ""), err
        (folder / "printed").write_text(out)

    return made_once("data_command", make)


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def data(*words: str) -> tuple[int, str, str]:
    own = {"--khmer", "--english", "sources.yaml"} & set(words)
    sources = () if own else ("--khmer", "khmer.txt", "--english", "english.txt")
    return tonsai("data", *sources, *FLAGS, *words)


def steps_of(*words: str) -> list[str]:
    """The commands that `tonsai data` runs now; what it does not run it must say that it keeps."""
    code, out, err = data(*words)
    assert code == 0, err
    kept = [line.partition(":")[0] for line in out.splitlines() if line.endswith("have changed")]
    run = [line.split()[2] for line in out.splitlines() if line.startswith("$ tonsai ")]
    names = {"prepare": "data/documents", "train-tokenizer": "data/tokenizer", "tokenize": "data/tokens"}
    assert sorted([*kept, *(names[name] for name in run)]) == sorted(names.values())
    return run


def test_it_runs_three_commands_and_names_the_next(made: Path) -> None:
    printed = (made / "printed").read_text()
    commands = [line for line in printed.splitlines() if "tonsai " in line]
    assert commands == [
        "$ tonsai prepare --khmer khmer.txt --english english.txt --output-dir data/documents",
        "$ tonsai train-tokenizer --dataset-dir data/documents --vocab-size 400 --model-type bpe --output-dir data/tokenizer",
        "$ tonsai tokenize --dataset-dir data/documents --tokenizer-dir data/tokenizer --val-ratio 0.1 --output-dir data/tokens",
        "  tonsai train --config configs/small.py --workdir runs/mine",
    ]
    rows = read_manifest(made / "data" / "tokens")
    assert rows.vocab_size == 400
    assert {name: (source.weight, source.splits["train"].documents) for name, source in rows.sources.items()} == {
        "khmer": (0.6, 27),
        "english": (0.4, 27),
    }


def test_nothing_is_repeated_where_nothing_has_changed(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")}
    assert steps_of() == []
    assert {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*")} == before


@pytest.mark.parametrize(
    ("size", "variant"), [(4_000_000, ""), (4_000_001, ":10mb"), (10_000_000, ":10mb"), (10_000_001, ":30mb")]
)
def test_it_names_the_variant_of_the_config_for_that_much_training_text(
    made: Path, size: int, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    rows = read_manifest("data/tokens")
    others = sum(source.splits["train"].bytes for source in rows.sources.values())
    train = rows.sources["khmer"].splits["train"]
    rows.sources["khmer"].splits["train"] = replace(train, bytes=train.bytes + size - others)
    monkeypatch.setattr("tonsai_jax.commands.data.read_manifest", lambda tokens: rows)
    code, out, _ = data()
    assert (code, out.splitlines()[-1]) == (0, f"  tonsai train --config configs/small.py{variant} --workdir runs/mine")
    assert variant.removeprefix(":") in runpy.run_path(str(SMALL))["EPOCHS"]


def test_every_flag_of_the_sources_is_passed_on_if_it_is_not_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "main", stopped)
    sources = "--khmer khmer.txt --english english.txt --khmer-weight 0.7"
    others = "--document line --max-samples 20 --on-error skip --workers 1"
    code, out, _ = data(*sources.split(), "--english-weight", "0.4", *others.split())  # 0.4 is the default
    assert (code, out) == (130, f"\n$ tonsai prepare {sources} {others} --output-dir data/documents\n")


def stopped(words: Sequence[str]) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "repeated"),
    [
        (("--val-ratio", "0.2"), ["tokenize"]),
        (("--vocab-size", "390"), ["train-tokenizer", "tokenize"]),
        (("--pattern", "single-digits"), ["train-tokenizer", "tokenize"]),
        (("--pattern", "grouped-digits"), []),
        (("--khmer-weight", "0.5"), ["prepare", "train-tokenizer", "tokenize"]),
        (("--workers", "1"), []),
    ],
)
def test_a_changed_setting_repeats_its_step_and_those_after_it(
    folder: Path, words: tuple[str, ...], repeated: list[str]
) -> None:
    assert steps_of(*words) == repeated
    assert steps_of(*words) == []


def test_the_tokenizer_has_the_pattern_that_was_asked_for(folder: Path) -> None:
    code, out, _ = data("--pattern", "single-digits")
    assert code == 0
    assert " --model-type bpe --pattern single-digits --output-dir data/tokenizer\n" in out
    saved = (folder / "data" / "tokens" / "tokenizer" / "tokenizer.json").read_text()
    assert json.dumps(PATTERNS["single-digits"]) in saved
    assert json.dumps(PATTERNS["grouped-digits"]) not in saved


def test_data_that_were_made_before_the_pattern_could_be_chosen_are_kept(folder: Path) -> None:
    """Their key has no pattern in it."""
    steps = json.loads((folder / "data" / "steps.json").read_text())["steps"]
    documents = content_hash(folder / "data" / "documents" / "manifest.json")
    assert steps["tokenizer"]["key"] == content_key("tokenizer", documents, 400, "bpe")


def test_a_changed_input_repeats_everything(folder: Path) -> None:
    with (folder / "khmer.txt").open("a") as file:
        file.write("\nអត្ថបទថ្មីមួយ។")
    assert steps_of() == ["prepare", "train-tokenizer", "tokenize"]


def test_an_input_that_changed_without_effect_on_the_documents_repeats_only_their_step(folder: Path) -> None:
    with (folder / "khmer.txt").open("a") as file:
        file.write("\n")
    assert steps_of() == ["prepare"]


@pytest.mark.parametrize(
    ("removed", "repeated"),
    [
        ("documents/khmer/part-00000.parquet", ["prepare"]),
        ("tokenizer", ["train-tokenizer"]),
        ("tokens/tokenizer/tokenizer.json", ["tokenize"]),
        ("steps.json", ["prepare", "train-tokenizer", "tokenize"]),
    ],
)
def test_what_was_removed_is_made_again(folder: Path, removed: str, repeated: list[str]) -> None:
    path = folder / "data" / removed
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert steps_of() == repeated
    assert steps_of() == []


def test_another_tokenizer_in_the_folder_is_replaced_with_the_one_asked_for(folder: Path) -> None:
    words = ("--dataset-dir", "data/documents", "--vocab-size", "350", "--output-dir", "data/tokenizer")
    assert tonsai("train-tokenizer", *words)[0] == 0
    assert steps_of() == ["train-tokenizer"]
    assert read_manifest(folder / "data" / "tokens").vocab_size == 400


def test_files_that_others_put_next_to_the_result_repeat_nothing(folder: Path) -> None:
    (folder / "data" / "tokenizer" / "evaluation.json").write_text("{}")  # as `tonsai tokenizer-report` does
    assert steps_of() == []


def test_a_command_that_was_stopped_goes_on_after_its_last_finished_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "data")
    with monkeypatch.context() as patch:
        patch.setattr(train_tokenizer, "main", stopped)
        assert data()[0] == 130
    assert steps_of() == ["train-tokenizer", "tokenize"]


def test_sources_that_are_left_out_are_named_at_the_end_and_tried_again(folder: Path) -> None:
    (folder / "sources.yaml").write_text(
        "sources:\n"
        "  - {name: good, language: en, path: english.txt}\n"
        "  - {name: bad, language: km, path: missing.txt}\n"
        "on_error: skip\n"
    )
    for _ in range(2):
        code, out, err = data("sources.yaml")
        assert code == 1
        assert err.startswith("error: left out: bad (")
        assert "$ tonsai prepare --config sources.yaml --output-dir data/documents" in out
        assert list(read_manifest(folder / "data" / "tokens").sources) == ["good"]


def test_a_source_with_a_file_that_cannot_be_read_is_left_out_too(folder: Path) -> None:
    (folder / "km").mkdir()
    shutil.copy("khmer.txt", folder / "km" / "a.txt")
    (folder / "km" / "b.txt").symlink_to("nowhere.txt")
    words = ("--khmer", "km", "--english", "english.txt")
    code, _, err = data(*words)
    assert (code, err) == (1, "error: km/b.txt: cannot be read (No such file or directory)\n")
    code, _, err = data(*words, "--on-error", "skip")
    assert (code, err) == (1, "error: left out: khmer (km/b.txt: cannot be read (No such file or directory))\n")
    assert list(read_manifest("data/tokens").sources) == ["english"]


def test_the_search_for_changes_in_the_input_shows_its_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []

    def bar(name: str, *, unit: str, total: float, wanted: bool) -> Progress:
        shown.append(total * wanted)
        return progress_bar(name, unit=unit, total=total, wanted=wanted)

    monkeypatch.setattr(pipeline, "progress_bar", bar)
    assert steps_of() == []
    assert shown[-2:] == [Path(name).stat().st_size for name in ("khmer.txt", "english.txt")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sources.yaml", "--khmer", "khmer.txt"), "give either SOURCES.yaml, or --khmer and/or --english"),
        (("--khmer", "khmer.txt", "--vocab-size", "10"), "vocab_size 10 is too small"),
        (("--khmer", "khmer.txt", "--val-ratio", "1"), "val_ratio 1.0 is not in [0, 1)"),
        (
            ("--khmer", "khmer.txt", "--model-type", "words"),
            "model type 'words' is not known; use bpe, unigram or gpt2",
        ),
        (
            ("--khmer", "khmer.txt", "--model-type", "unigram", "--pattern", "single-digits"),
            "pattern=single-digits is for model type bpe only, unigram has none; leave it out",
        ),
        (
            ("--khmer", "khmer.txt", "--pattern", "digits"),
            "pattern='digits' is not known; did you mean 'single-digits'?",
        ),
        (("--khmer", "nothing.txt"), "nothing.txt: no such file or folder"),
        (
            ("--khmer", "khmer.txt", "--output-dir", "mine"),
            "mine/tokens: already exists and was not made by this command",
        ),
    ],
)
def test_a_mistake_for_a_later_step_is_found_before_the_first(
    folder: Path, words: tuple[str, ...], message: str
) -> None:
    (folder / "mine" / "tokens").mkdir(parents=True)
    (folder / "mine" / "tokens" / "thesis.txt").write_text("years of work")
    before = sorted(folder.rglob("*"))
    code, out, err = data(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_text_file_in_place_of_the_sources_file_is_told_apart(folder: Path) -> None:
    code, _, err = tonsai("data", "khmer.txt", *FLAGS)
    assert (code, err) == (
        1,
        "error: khmer.txt: not a sources file (.yaml); give a file of text as --khmer FILE or --english FILE\n",
    )


def test_a_steps_file_of_somebody_else_is_not_overwritten(folder: Path) -> None:
    (folder / "data" / "steps.json").write_text('{"mine": 1}')
    code, _, err = data()
    assert code == 1
    assert "data/steps.json: was not made by this command; choose another output folder, or remove this file" in err


def test_the_tokenizer_of_a_model_takes_the_place_of_one_of_its_own(folder: Path) -> None:
    """It is copied to the rows with what the text went through, so that prompts are normalized like the text."""
    smollm2(folder / "model")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_text("")
    words = ("--khmer", "khmer.txt", "--english", "english.txt", "--val-ratio", "0.1", "--output-dir", "other")
    code, out, err = tonsai("data", *words, "--tokenizer-dir", "model")
    assert (code, err) == (0, "")
    assert [line.split()[2] for line in out.splitlines() if line.startswith("$ tonsai ")] == ["prepare", "tokenize"]
    command = "--config configs/continue_from_hf.py --config.init_from=model --workdir runs/mine --config.data.dir=other/tokens"
    assert f"  tonsai train {command}" in out
    model, copy = Tokenizer.from_folder("model"), Tokenizer.from_folder(folder / "other" / "tokens" / "tokenizer")
    assert copy.hash == model.hash
    assert copy.end_ids == model.end_ids
    assert model.normalize_prompt("ខែ្មរ") == "ខែ្មរ"
    assert copy.normalize_prompt("ខែ្មរ") == "ខ្មែរ"
    for flag, value in (("--model-type", "bpe"), ("--pattern", "single-digits")):
        code, out, err = tonsai("data", *words, "--tokenizer-dir", "model", flag, value)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(
            f"error: {flag} has no effect with --tokenizer-dir, which trains no tokenizer; leave it out"
        )
    code, out, err = tonsai("data", *words, "--tokenizer-dir", "model", "--vocab-size", "400")
    assert (code, err.startswith("error: give either --vocab-size N")) == (1, True)


def test_another_token_between_documents_repeats_the_rows(folder: Path) -> None:
    """tokenizer.json is the same. And a tokenizer without a model is nothing that a run could continue from."""
    gemma3(folder / "gemma3")
    words = ("--khmer", "khmer.txt", "--english", "english.txt", "--val-ratio", "0.1", "--tokenizer-dir", "gemma3")
    code, out, err = tonsai("data", *words)
    assert (code, err) == (0, "")
    assert "  tonsai train --config configs/small.py --workdir runs/mine" in out
    assert read_manifest("data/tokens").end_of_text_id == 2
    config = folder / "gemma3" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"add_bos_token": False}))
    code, out, err = tonsai("data", *words)
    assert (code, err) == (0, "")
    assert [line.split()[2] for line in out.splitlines() if line.startswith("$ tonsai ")] == ["tokenize"]
    assert read_manifest("data/tokens").end_of_text_id == 1


def test_rows_get_a_tokenizer_that_has_no_config_of_its_own(folder: Path) -> None:
    smollm2(folder / "model")
    (folder / "model" / "tokenizer_config.json").unlink()
    words = ("--khmer", "khmer.txt", "--english", "english.txt", "--val-ratio", "0.1", "--tokenizer-dir", "model")
    code, _, err = tonsai("data", *words)
    assert (code, err) == (0, "")
    assert Tokenizer.from_folder("data/tokens/tokenizer").normalize_prompt("ខែ្មរ") == "ខ្មែរ"
