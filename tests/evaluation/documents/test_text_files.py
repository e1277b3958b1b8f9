"""`tonsai evaluate --text`: any text file, with a run or another model; every mistake is one clear line."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.support.console import tonsai, without_progress
from tests.support.made_once import MadeOnce
from tests.support.tiny_model import CONFIG, ENGLISH, KHMER, random_params, tiny_tokenizer
from tests.support.tiny_run import TinyRun
from tonsai_jax.errors import UserError
from tonsai_jax.evaluation.documents import scorer as scorer_module
from tonsai_jax.evaluation.documents.scorer import DocumentScorer, score_documents
from tonsai_jax.evaluation.documents.text_files import score_texts
from tonsai_jax.evaluation.documents.text_sources import text_sources
from tonsai_jax.evaluation.task_scores import read_scores
from tonsai_jax.huggingface.export import export
from tonsai_jax.inference.load import LanguageModel, load_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return LanguageModel("tiny", CONFIG, random_params(CONFIG), tokenizer)


@pytest.fixture(scope="module")
def exported(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "export"
    return export(CONFIG, model.params, model.tokenizer, folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines, paragraphs, compressed, and records; with what normalization takes away."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "km.txt").write_text(f"{KHMER}\n\n{KHMER} {KHMER}\u200b\n", encoding="utf-8")
    (folder / "en.txt.gz").write_bytes(gzip.compress(f"{ENGLISH}\r\n{ENGLISH}  {ENGLISH}\n".encode()))
    (folder / "more.jsonl").write_text(json.dumps({"text": ENGLISH * 5}) + "\n", encoding="utf-8")
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text("\n \n\n")
    (folder / "latin.txt").write_bytes("café\n".encode("latin-1"))
    return folder


def test_words_name_the_files_of_each_language(texts: Path) -> None:
    en, more = str(texts / "en.txt.gz"), str(texts / "more.jsonl")
    sources = text_sources([f"km={texts / 'km.txt'}", f"en={en}", more], document="file")
    assert [(source.language, source.path) for source in sources] == [
        ("km", str(texts / "km.txt")),
        ("en", en),
        ("en", more),
    ]
    assert {source.document for source in sources} == {"file"}


def test_a_file_name_may_have_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.txt").write_text("text")
    assert [(source.language, source.path) for source in text_sources(["en=lr=0.txt", "lr=0.txt"])] == [
        ("en", "lr=0.txt"),
        ("en", "lr=0.txt"),
    ]


def test_files_are_scored_by_document_language_and_file(model: LanguageModel, texts: Path) -> None:
    sources = text_sources([f"km={texts / 'km.txt'}", f"en={texts / 'en.txt.gz'}", str(texts / "more.jsonl")])
    found = score_texts(DocumentScorer(model), sources, print)
    lines = score_documents(model, [KHMER, f"{KHMER} {KHMER}"])
    assert found.languages["km"].score.nats == pytest.approx(sum(score.nats for score in lines), rel=1e-6)
    assert found.languages["km"].score.bytes == sum(score.bytes for score in lines)
    assert [(tally.documents, tally.score.bytes) for tally in found.parts.values()] == [
        (2, found.languages["km"].score.bytes),
        (2, 3 * len(ENGLISH) + 1),
        (1, 5 * len(ENGLISH)),
    ]
    whole = score_texts(DocumentScorer(model), text_sources([f"km={texts / 'km.txt'}"], document="file"), print)
    assert whole.languages["km"].documents == 1
    assert whole.languages["km"].score.bytes == found.languages["km"].score.bytes + len("\n\n")


def test_what_a_user_may_not_expect_of_a_file_is_a_note(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "mixed.jsonl").write_text('{"text": "one"}\n{"texte": "two"}\n{"text": ""}\n', encoding="utf-8")
    (tmp_path / "khmer.txt").write_text(KHMER * 20, encoding="utf-8")
    lines: list[str] = []
    score_texts(
        DocumentScorer(model),
        text_sources([f"en={tmp_path / 'mixed.jsonl'}", str(tmp_path / "khmer.txt")]),
        lines.append,
    )
    assert any("the language is en" in line and "khmer.txt" in line for line in lines)
    assert (
        f"{tmp_path / 'mixed.jsonl'}: 2 documents without text, such as a record without the field, were not scored"
        in lines
    )


def test_a_file_that_is_given_twice_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ENGLISH, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.txt is given 2 times"):
        score_texts(DocumentScorer(model), text_sources([f"en={tmp_path / 'a.txt'}", str(tmp_path)]), print)


def test_small_files_share_batches(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        (tmp_path / f"{number:02d}.txt").write_text(ENGLISH[: 30 + number])
    scorer = DocumentScorer(model)
    batches, make = [], scorer_module.batch_of
    monkeypatch.setattr(scorer_module, "batch_of", lambda *of: batches.append(of) or make(*of))  # type: ignore[func-returns-value]  # it is None
    found = score_texts(scorer, text_sources([f"en={tmp_path}"], document="file"), print)
    assert len(batches) <= 4
    sizes = [tally.score.bytes for tally in found.parts.values()]
    assert sizes == [len(ENGLISH[: 30 + number].strip()) for number in range(40)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/km.txt"], "km.txt: write the language and its file, such as --text km=FILE en=FILE"),
        (["km"], "--text km: write the language and its file"),
        (["km="], "--text km=: write the language and its file"),
        (["khm={}/km.txt"], "language 'khm' is not written as a BCP-47 code; did you mean 'km'?"),
        (["km={}/nothing.txt"], "/nothing.txt: no such file or folder"),
        (["km={}/empty.txt"], "/empty.txt: the file is empty"),
        (["km={}/blank.txt"], "/blank.txt: there is no text in this file"),
        (["km={}/latin.txt"], "/latin.txt: not UTF-8 at byte 3 (0xe9)"),
    ],
)
def test_files_that_cannot_be_scored_end_in_one_line(
    model: LanguageModel, texts: Path, words: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        score_texts(DocumentScorer(model), text_sources(word.format(texts) for word in words), print)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_a_run_and_its_export_print_the_same_figures_and_the_run_keeps_them(
    made_once: MadeOnce, rows: Path, texts: Path, tmp_path: Path
) -> None:
    made = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train()) / "run"
    workdir = shutil.copytree(made, tmp_path / "run")
    run = load_run(workdir)
    folder = export(run.model_config, run.params, run.tokenizer, tmp_path / "export")
    given = ["--text", f"km={texts / 'km.txt'}", f"en={texts / 'en.txt.gz'}", "--seq-len", "32", "--stride", "8"]
    code, of_run, err = tonsai("evaluate", "--workdir", str(workdir), *given, "--json", str(tmp_path / "run.json"))
    assert (code, without_progress(err)) == (0, "")
    code, of_export, err = tonsai("evaluate", "--model", str(folder), *given, "--json", str(tmp_path / "export.json"))
    assert (code, without_progress(err)) == (0, "")
    assert of_run.startswith(f"{workdir}, step 24: bits per byte, lower is better; windows of 32 tokens, stride 8,")
    first, *table = of_export.splitlines()
    assert first.startswith(f"{folder}: bits per byte")
    assert of_run.splitlines()[1:-1] == table
    figures, others = (json.loads((tmp_path / name).read_text()) for name in ("run.json", "export.json"))
    assert (figures["step"], others["step"]) == (24, None)
    for ours, theirs in zip(figures["scores"], others["scores"], strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
    step, scores = read_scores(workdir / "evaluations" / "text-step-000024.json")
    assert step == 24
    assert [(score.task, score.metric, score.n) for score in scores] == [
        ("text_km", "bits_per_byte", 2),
        ("text_en", "bits_per_byte", 2),
        (f"text {texts / 'km.txt'}", "bits_per_byte", 2),
        (f"text {texts / 'en.txt.gz'}", "bits_per_byte", 2),
    ]
    totals = {each["name"]: each["bits_per_byte"] for each in figures["scores"] if each["length"] is None}
    assert scores[0].value == totals["km"]


def test_held_out_rows_have_bits_per_byte_by_length(made_once: MadeOnce, rows: Path, tmp_path: Path) -> None:
    workdir = made_once("never-stopped", lambda folder: TinyRun(rows, folder / "run").train()) / "run"
    code, out, err = tonsai("evaluate", "--workdir", str(workdir), "--json", str(tmp_path / "scores.json"))
    assert (code, without_progress(err)) == (0, "")
    assert "bits per byte by length of the document" in out
    figures = json.loads((tmp_path / "scores.json").read_text())
    [km] = [
        each for each in figures["scores"] if (each["kind"], each["name"], each["length"]) == ("source", "km", None)
    ]
    assert figures["eval/bits_per_byte/source/km"] == pytest.approx(km["bits_per_byte"])
    assert km["documents"] == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--text", "km={texts}/km.txt", "--seq-len", "65"],
            "seq_len 65 must be between 1 and the model's context of 64",
        ),
        (["--text", "km={texts}/km.txt", "--stride", "0"], "stride 0 must be between 1 and the sequence length of 64"),
        (["--text", "km={texts}/km.txt", "--data-dir", "x"], "--data-dir is for token rows, not for --text"),
        (["--text", "km={texts}/km.txt", "--tokens", "3"], "--tokens is for token rows, not for --text"),
        ([], "only a run has held-out rows; name text to evaluate on with --text km=FILE"),
        (["--batch-size", "0"], "--batch-size must be at least 1 (it is 0)"),
    ],
)
def test_flags_that_cannot_work_end_in_one_line(exported: Path, texts: Path, words: list[str], message: str) -> None:
    given = [word.format(texts=texts) for word in words]
    code, out, err = tonsai("evaluate", "--model", str(exported), *given)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert message in line


@pytest.mark.parametrize("flag", ["--stride", "--document", "--text-column"])
def test_flags_of_text_need_text(flag: str) -> None:
    value = {"--stride": "8", "--document": "line", "--text-column": "text"}[flag]
    code, _, err = tonsai("evaluate", "--workdir", "runs/none", flag, value)
    assert (code, err) == (1, f"error: {flag} is for text files; name them with --text km=FILE\n")
