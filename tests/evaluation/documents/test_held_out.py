"""Held-out rows, document by document: the sums are those of the evaluation in training, and documents end where text ends."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tiny_model import CONFIG, random_params
from tonsai_jax.data.manifest import RowsManifest, SourceInfo, SplitInfo, dtype_for, read_manifest
from tonsai_jax.data.marks import marks_of
from tonsai_jax.data.packing import write_packed
from tonsai_jax.data.row_writer import RowWriter, write_manifest
from tonsai_jax.data.rows import Rows
from tonsai_jax.evaluation.bits_per_byte import evaluate
from tonsai_jax.evaluation.documents import held_out
from tonsai_jax.evaluation.documents.breakdown import Tally
from tonsai_jax.evaluation.documents.held_out import HeldOut
from tonsai_jax.files import sha256_file
from tonsai_jax.training.mesh import one_device_mesh
from tonsai_jax.training.state import model_graph
from tonsai_jax.training.step import LossSettings, make_eval_step, make_score_step

END, ROW_TOKENS = 0, 16
TOKEN_BYTES = np.arange(CONFIG.vocab_size, dtype=np.int32) % 7 + 1
TOKEN_BYTES[END] = 0
PARAMS = random_params(CONFIG)
DOCUMENTS = [np.random.default_rng(number).integers(1, 280, 1 + 9 * number) for number in range(6)]
CHATS = [np.random.default_rng(10 + number).integers(1, 280, 6) for number in range(5)]
NO_TEXT = SplitInfo(0, 0, 0, 0, ())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> RowsManifest:
    """A source of text, each document followed by the end-of-text id, and one of conversations of 6 ids, the last 3 an answer."""
    directory: Path = tmp_path_factory.mktemp("rows")
    tokenizer = directory / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir()
    tokenizer.write_text("{}")
    settings: dict[str, Any] = {"row_tokens": ROW_TOKENS, "vocab_size": 300}
    with RowWriter(directory, "wiki", "validation", **settings, end_of_text_id=END, rows_per_shard=4) as writer:
        writer.write(np.concatenate([[*ids, END] for ids in DOCUMENTS]))
        text = writer.finish(documents=len(DOCUMENTS), text_bytes=1)
    marks = marks_of([False] * 3 + [True] * 3)
    chats = write_packed(
        directory, "chats", "validation", [(ids, marks) for ids in CHATS], **settings, pad_id=END, text_bytes=1
    )
    sources = {
        "wiki": SourceInfo("wiki", 0.5, "km", {"train": NO_TEXT, "validation": text}),
        "chats": SourceInfo("chats", 0.5, "en", {"train": NO_TEXT, "validation": chats}, kind="conversations"),
    }
    write_manifest(RowsManifest(directory, ROW_TOKENS, dtype_for(300), 300, END, sha256_file(tokenizer), sources))
    return read_manifest(directory)


GRAPH, LOSS = model_graph(CONFIG, "xla"), LossSettings(chunk_tokens=16, z_loss=0.0)
SCORE_STEP = make_score_step(GRAPH, one_device_mesh(), loss=LOSS, end_of_text_id=END)


def scored(manifest: RowsManifest, *, seq_len=ROW_TOKENS, batch_size=4, max_tokens=0, prefix_bytes=0):
    reader = HeldOut(manifest, TOKEN_BYTES, prefix_bytes, seq_len)
    return reader.score(SCORE_STEP, PARAMS, one_device_mesh(), batch_size=batch_size, max_tokens=max_tokens)


@pytest.mark.parametrize(("seq_len", "batch_size", "prefix_bytes"), [(16, 4, 0), (16, 1, 1), (4, 7, 1)])
def test_the_sums_are_those_of_the_evaluation_in_training(
    manifest: RowsManifest, seq_len: int, batch_size: int, prefix_bytes: int
) -> None:
    eval_step = make_eval_step(
        GRAPH, one_device_mesh(), loss=LOSS, end_of_text_id=END, token_bytes=jnp.asarray(TOKEN_BYTES), prefix_bytes=prefix_bytes
    )  # fmt: skip
    wanted = evaluate(
        eval_step, PARAMS, manifest, one_device_mesh(), seq_len=seq_len, batch_size=4, max_tokens=0
    ).sources
    found = scored(manifest, seq_len=seq_len, batch_size=batch_size, prefix_bytes=prefix_bytes)
    assert found.keys() == wanted.keys() == ({"wiki", "chats"} if seq_len == 16 else {"wiki"})
    for name, score in wanted.items():
        ours = Tally.of(found[name]).score
        assert (ours.tokens, ours.bytes) == (score.tokens, score.bytes)
        assert ours.nats == pytest.approx(score.nats, rel=1e-6)


def test_a_document_is_what_lies_between_two_ends_of_text_and_a_conversation_is_its_answers(
    manifest: RowsManifest,
) -> None:
    wiki, whole_rows, chats = (
        documents[documents.tokens > 0]
        for documents in (*scored(manifest, seq_len=4).values(), *scored(manifest).values())
    )
    # The first id of a stream is no target: the one id of the first document, which so has no score.
    assert wiki.tokens.tolist() == whole_rows.tokens.tolist() == [len(ids) for ids in DOCUMENTS[1:]]
    assert wiki.lengths.tolist() == wiki.bytes.tolist() == [TOKEN_BYTES[ids].sum() for ids in DOCUMENTS[1:]]
    assert chats.tokens.tolist() == [3] * len(CHATS)
    assert sorted(chats.lengths) == sorted(TOKEN_BYTES[ids[3:]].sum() for ids in CHATS)


def test_a_document_cut_by_the_budget_counts_with_what_was_scored_among_those_of_its_length(
    manifest: RowsManifest,
) -> None:
    [everything], [part] = (scored(manifest, seq_len=4, max_tokens=4 * number).values() for number in (0, 6))
    assert (part.lengths == everything.lengths).all()
    assert (part.tokens <= everything.tokens).all()
    assert 0 < part.tokens.sum() <= 6 * 4
    assert ((part.bytes > 0) & (part.bytes < part.lengths)).any(), "some documents are cut"
    whole = part.bytes == part.lengths
    np.testing.assert_allclose(part.nats[whole], everything.nats[whole], rtol=1e-5)


def test_rows_are_read_whole_and_only_chosen_windows_a_second_time(
    manifest: RowsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scored(manifest, seq_len=4)["wiki"]
    read, reads = Rows.read, []

    def counted(rows: Rows, index: int) -> bytes:
        reads.append(index)
        return read(rows, index)

    monkeypatch.setattr(Rows, "read", counted)
    monkeypatch.setattr(held_out, "_PIECE_TOKENS", 3 * ROW_TOKENS)  # rows of several pieces
    found = scored(manifest, seq_len=4, max_tokens=2 * 4)["wiki"]
    assert manifest.sources["wiki"].splits["validation"].rows % 3, "the last piece is not whole"
    assert len(reads) == manifest.sources["wiki"].splits["validation"].rows + 2
    np.testing.assert_array_equal(found.lengths, wanted.lengths)
    everything = scored(manifest, seq_len=4)["wiki"]
    np.testing.assert_array_equal(everything.bytes, wanted.bytes)
    np.testing.assert_allclose(everything.nats, wanted.nats, rtol=1e-6)


def test_pairs_of_answers_have_no_bits_per_byte(manifest: RowsManifest) -> None:
    pairs = SourceInfo("chats", 1.0, "en", manifest.sources["chats"].splits, kind="pairs")
    of_pairs = RowsManifest(**{**vars(manifest), "sources": {"chats": pairs}})
    assert scored(of_pairs) == {}
