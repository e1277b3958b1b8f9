"""A record becomes one text: as the sources file says, else by a guess that never chooses between two."""

import gzip
import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tonsai_jax.corpus.sources.faults import Faults
from tonsai_jax.corpus.sources.records import MissingFieldError, Reading, chosen_reading, guess_reading
from tonsai_jax.corpus.sources.source import Source
from tonsai_jax.errors import UserError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "សួស្តី"},
    {"role": "assistant", "content": "Hello "},
]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"messages": TURNS, "prompt": "never this one"}, "Be brief.\n\nសួស្តី\n\nHello"),
        ({"id": "a1", "conversations": SHAREGPT}, "Hi\n\nHello"),
        ({"messages": [*TURNS, {"role": "assistant", "content": None, "tool_calls": []}]}, "Be brief.\n\nសួស្តី\n\nHello"),
        ({"instruction": "Add.", "input": "1 + 1", "output": "2"}, "Add.\n\n1 + 1\n\n2"),
        ({"instruction": "Add.", "input": "", "output": "2"}, "Add.\n\n2"),
        ({"instruction": "Add.", "output": "2"}, "Add.\n\n2"),
        ({"instruction": "Who?", "context": "A text.", "response": "He.", "category": "qa"}, "Who?\n\nA text.\n\nHe."),
        ({"question": "Who?", "answer": "She."}, "Who?\n\nShe."),
        (
            {
                "title": "T",
                "context": "She came.",
                "question": "Who?",
                "answers": {"text": ["She", "her"], "answer_start": [0]},
            },
            "She came.\n\nWho?\n\nShe",
        ),
        ({"question": "Who?", "answers": ["She", "her"]}, "Who?\n\nShe"),
        (
            {"context": "She came.", "question": "Why?", "answers": {"text": [], "answer_start": []}},
            "She came.\n\nWhy?",
        ),
    ],
)
def test_known_kinds_of_records_are_written_as_plain_turns(record, text):
    assert guess_reading(record, "a.jsonl").text(record, "a.jsonl", Faults(), 1000) == text


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"text": "", "content": "some prose"}, ("text",)),
        ({"url": "https://a.b/c", "content": "some prose", "tlsh": "A0B1"}, ("content",)),
        ({"title": "A title", "date": "2 May 2024", "body": "word"}, ("title", "body")),
        ({"body": "some prose", "Headline": "A title"}, ("Headline", "body")),
        ({"title": "A title", "text": "some prose"}, ("text",)),
        ({"title": None, "body": "some prose"}, ("body",)),
        ({"id": 5, "notes": "some prose", "score": 0.5}, ("notes",)),
        ({"km": "មួយ"}, ("km",)),
    ],
)
def test_the_one_field_that_holds_text_is_taken(record, fields):
    assert guess_reading(record, "a.jsonl").fields == fields


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"content": "some prose", "summary": "some prose"},
            "cannot tell which field holds the text: content or summary;",
        ),
        ({"en": "two words", "km": "ពីរ", "id": 1}, "en or km; set `text_column`, or a `template`"),
        ({"messages": TURNS, "content": "some prose"}, "messages or content;"),
        ({"messages": TURNS, "instruction": "x", "output": "y"}, r"messages or instruction \+ output;"),
        ({"id": 1, "url": "https://a.b/c"}, "cannot tell which field holds the text; there are: id, url; set"),
        (
            {"translation": {"en": "a", "km": "b"}},
            "cannot tell which field holds the text; there are: translation; set",
        ),
        ({}, "cannot tell which field holds the text"),
    ],
)
def test_a_guess_never_chooses(record, message):
    with pytest.raises(UserError, match=f"^a.jsonl: .*{message}"):
        guess_reading(record, "a.jsonl")


def test_a_title_comes_before_its_text_and_may_be_missing_later():
    reading = guess_reading({"title": "A title", "body": "some prose"}, "a")
    assert str(reading) == "reads title, body: `title` is the title of `body`"
    reading.check("b.csv", ["body"])
    texts = [reading.text({"body": "x", **more}, "a", Faults(), 100) for more in ({"title": "T "}, {"title": None}, {})]
    assert texts == ["T\n\nx", "x", "x"]


def test_the_reason_names_what_is_left_out():
    record = {"body": "some prose", "description": "more prose", "url": "https://a.b/c", "id": 5}
    assert str(guess_reading(record, "a")) == (
        "reads body: `body` holds the text (not description: a `template` can read more)"
    )
    del record["description"]
    assert str(guess_reading(record, "a")) == "reads body: `body` is the only field that holds text"


def test_a_list_of_records_inside_a_record_is_named():
    with pytest.raises(UserError, match=r"a\.json: a record whose field 'data' is a list of records; write that list"):
        guess_reading({"version": 1, "data": [{"question": "x", "answer": "y"}]}, "a.json")


def test_the_reason_is_one_line():
    assert str(guess_reading({"messages": TURNS}, "a")) == "reads messages: `messages` holds the turns of a chat"
    assert str(chosen_reading("body", None)) == "reads body: `text_column` is set"


def rendered(template, record):
    reading = chosen_reading(None, template)
    assert reading is not None
    return reading.text(record, "here", Faults(), 1000)


def test_a_template_writes_fields_nested_ones_and_names_that_are_no_identifiers():
    record = {"translation": {"km": "មួយ", "en": "one"}, "warc-date": "2024", "n": 3, "none": None}
    assert rendered("{{ translation.km }}\n{{ translation.en }}\n", record) == "មួយ\none\n"
    assert rendered('{{ record["warc-date"] }} {{ n }}{{ none }}', record) == "2024 3"
    assert rendered("{{ title | default('none') }}", record) == "none"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ title }}", "no field 'title'; there are: translation"),
        ("{{ translation.fr }}", "no field 'fr'; there are: km, en"),
        ("{% if title %}x{% endif %}", "no field 'title'; there are: translation"),
    ],
)
def test_a_template_with_a_field_that_is_not_there_names_it(template, message):
    with pytest.raises(MissingFieldError, match=f"^{message}$"):
        rendered(template, {"translation": {"km": "a", "en": "b"}})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ translation }}", "here: the template writes a dict, not text"),
        ("{{ translation.__class__.__mro__ }}", "SecurityError"),
        ("{{ 1 // n }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_fails_is_a_fault_of_that_record(template, message):
    record = {"translation": {"km": "a"}, "n": 0}
    with pytest.raises(UserError, match=message):
        rendered(template, record)
    faults = Faults("skip")
    reading = chosen_reading(None, template)
    assert reading is not None
    assert reading.text(record, "here", faults, 1000) is None
    assert faults.counts == {"not_text": 1}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"template": "{{ a"}, "source 'a': template '{{ a': "),
        ({"template": "{{ a }}", "text_column": "a"}, "source 'a': give either `text_column` or `template`"),
    ],
)
def test_a_wrong_template_is_told_before_anything_is_read(keys, message):
    with pytest.raises(UserError, match=message):
        Source("a", "km", path="x", **keys)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "column 'messages' holds int, not text"),
        (["a"], "column 'messages' holds list, not text"),
        ([{"role": "user", "content": ["a"]}], "a turn in column 'messages' holds list"),
    ],
)
def test_what_is_no_text_is_a_fault(value, message):
    with pytest.raises(UserError, match=f"^here: {message}"):
        Reading(("messages",), "").text({"messages": value}, "here", Faults(), 1000)


def test_the_guess_of_the_first_record_holds_for_every_file_of_the_source(tmp_path):
    (tmp_path / "a.txt").write_text("plain\n")
    (tmp_path / "b.jsonl").write_text('not json\n{"content": "one"}\n{"content": "two", "summary": "a new field"}\n')
    (tmp_path / "c.csv").write_text("n,content\n1,three\n")
    pq.write_table(pa.table({"content": ["four"], "summary": ["some prose"]}), tmp_path / "d.parquet")
    source = Source("a", "km", path=str(tmp_path))
    assert source.reading() == Reading(("content",), "`content` is the only field that holds text")
    faults = Faults("skip")
    assert [text.strip() for text in source.texts(faults)] == ["plain", "one", "two", "three", "four"]
    (tmp_path / "e.jsonl").write_text('{"text": "not content"}\n')
    with pytest.raises(UserError, match=r"e.jsonl: no column 'content'; there are: text"):
        list(source.texts(Faults("skip")))


def test_a_text_that_is_null_in_the_first_row_is_told_by_the_schema(tmp_path):
    pq.write_table(pa.table({"content": [None, "two"], "n": [None, 1]}), tmp_path / "a.parquet")
    assert list(Source("a", "km", path=str(tmp_path)).texts(Faults())) == ["", "two"]


def test_a_template_reads_files_and_later_records_without_the_field_are_faults(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "1?", "a": "1"}\n{"q": "2?"}\n{"q": "3?", "a": "3"}\n')
    source = Source("a", "km", path=str(path), template="{{ q }} {{ a }}")
    with pytest.raises(UserError, match="line 2: no field 'a'; there are: q"):
        list(source.texts(Faults()))
    faults = Faults("skip")
    assert list(source.texts(faults)) == ["1? 1", "3? 3"]
    assert faults.counts == {"missing_field": 1}
    path.write_text('{"q": "1?"}\n')
    with pytest.raises(UserError, match="line 1: no field 'a'; there are: q; set `template` in the sources file"):
        list(source.texts(Faults("skip")))


def warc(*records):
    return b"".join(
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"
        for kind, body in records
    )


def answer(body, status="200 OK", kind="text/html; charset=utf-8", **headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_wet_files_are_read_as_they_are(tmp_path):
    raw = warc(
        ("warcinfo", b"about"), ("conversion", "អត្ថបទ\nពីរ".encode()), ("conversion", b"\xff"), ("conversion", b"b")
    )
    (tmp_path / "a.warc.wet.gz").write_bytes(gzip.compress(raw[:300]) + gzip.compress(raw[300:]))
    source = Source("a", "km", path=str(tmp_path))
    with pytest.raises(UserError, match=r"record at byte \d+: not UTF-8 at its byte 0"):
        list(source.texts(Faults()))
    faults = Faults("skip")
    assert list(source.texts(faults)) == ["អត្ថបទ\nពីរ", "b"]
    assert faults.counts == {"not_utf8": 1}
    (tmp_path / "a.warc.wet.gz").write_bytes(gzip.compress(raw[:-10]))
    assert list(source.texts(faults := Faults("skip"))) == ["អត្ថបទ\nពីរ"]
    assert faults.counts == {"not_utf8": 1, "damaged_file": 1}


@pytest.fixture
def pages(tmp_path):
    chunked = b"5\r\n<p>ch\r\n8\r\nunks</p>\r\n0\r\n\r\n"
    raw = warc(
        ("request", b"GET / HTTP/1.1\r\n\r\n"),
        ("response", answer("<p>មួយ</p>".encode())),
        ("response", answer(b"<p>gone</p>", status="404 Not Found")),
        ("response", answer(b"\x89PNG", kind="image/png")),
        ("response", answer(gzip.compress(b"<p>packed</p>"), **{"Content-Encoding": "gzip"})),
        ("response", answer(chunked, **{"Transfer-Encoding": "chunked"})),
        ("response", b"no answer at all"),
    )
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(raw))
    return Source("a", "km", path=str(tmp_path))


def test_the_pages_of_a_warc_go_through_trafilatura(pages, monkeypatch):
    def extract(page, include_comments):
        page = page.decode() if isinstance(page, bytes) else page
        return page.removeprefix("<p>").removesuffix("</p>")

    monkeypatch.setitem(sys.modules, "trafilatura", types.SimpleNamespace(extract=extract))
    faults = Faults("skip")
    assert list(pages.texts(faults)) == ["មួយ", "packed", "chunks"]
    assert faults.counts == {"broken": 1}


def test_without_trafilatura_the_way_out_is_told(pages, monkeypatch):
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(UserError, match=r"a.warc.gz: web pages need trafilatura.*--extra web"):
        list(pages.texts(Faults("skip")))


def test_real_trafilatura_leaves_the_menu_out(tmp_path):
    pytest.importorskip("trafilatura")
    prose = "<p>" + "នេះជាអត្ថបទខ្មែរដែលវែងគ្រប់គ្រាន់។ " * 20 + "</p>"
    html = f"<html><body><nav><a href='/'>Home</a></nav><article><h1>ចំណងជើង</h1>{prose * 3}</article></body></html>"
    (tmp_path / "a.warc").write_bytes(warc(("response", answer(html.encode()))))
    (text,) = Source("a", "km", path=str(tmp_path)).texts(Faults())
    assert "នេះជាអត្ថបទ" in text
    assert "Home" not in text


def test_a_chat_in_jsonl_is_read_from_end_to_end(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TURNS}) + "\n", encoding="utf-8")
    assert list(Source("a", "km", path=str(tmp_path)).texts(Faults())) == ["Be brief.\n\nសួស្តី\n\nHello"]
