"""Boilerplate: lines that many documents of a source share go, whatever pieces these are in; others stay."""

from pathlib import Path

import pytest

from tonsai_jax.corpus.cleaning import boilerplate
from tonsai_jax.corpus.documents import read_documents, read_documents_manifest
from tonsai_jax.corpus.duplicates.exact import Deduplication
from tonsai_jax.corpus.prepare import prepare
from tonsai_jax.corpus.recipe import Settings
from tonsai_jax.corpus.sources.source import Source

PAGES = [f"Home | About\n\nStory {number}.\nIt goes on.{' ' * number}\n\n© ក្រុមហ៊ុន" for number in range(6)]
SETTINGS = Settings(deduplicate=Deduplication(lines=5))


def prepared(folder: Path, *sources: Source) -> list[list[str]]:
    prepare(sources, folder, SETTINGS, progress=False)
    return [[text for batch in read_documents(folder, source.name) for text in batch] for source in sources]


def test_lines_of_many_documents_go_and_are_counted(tmp_path: Path) -> None:
    others = ["Home | About\nOnly here.", "Home | About", "It goes on.\n" * 9 + "and on"]
    pages, kept = prepared(
        tmp_path / "out", Source("pages", "en", documents=PAGES), Source("others", "en", documents=others)
    )
    assert pages == [f"Story {number}." for number in range(6)]
    assert kept == [other.strip() for other in others], "in another source, too seldom, and often in one document"
    sources = read_documents_manifest(tmp_path / "out")["sources"]
    assert sources["pages"]["changes"]["boilerplate_lines"] == 18


def test_a_document_of_nothing_else_is_dropped_and_one_line_is_never_boilerplate(tmp_path: Path) -> None:
    (texts,) = prepared(
        tmp_path / "out", Source("a", "en", documents=[*PAGES, "Home | About\nIt goes on.", *["same"] * 9])
    )
    assert texts[6:] == ["same"] * 9
    assert read_documents_manifest(tmp_path / "out")["sources"]["a"]["filters"] == {"boilerplate": 1}


def test_in_parts_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tmp_path / "whole", Source("pages", "en", documents=PAGES))
    monkeypatch.setattr(boilerplate, "_PARTITION_LINES", 4)
    monkeypatch.setattr("tonsai_jax.corpus.prepare.PIECE_BYTES", 150)
    assert prepared(tmp_path / "parts", Source("pages", "en", documents=PAGES)) == whole
