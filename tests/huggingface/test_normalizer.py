"""What users send an exported model is what it learned: in tokenizer.json nearly, with khmer_normalizer.py exactly."""

import ast
import gzip
import importlib.util
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from tests.support.tiny_model import config_with, random_params
from tests.text.test_khmer import RULES
from tests.text.test_normalize import every_setting
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.normalizer import normalizer_file, tokenizer_normalizer
from tonsai_jax.samples.stories import stories
from tonsai_jax.text.normalize import DEFAULT, Normalization, normalize, normalize_prompt
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer

RAW = "ស្រ្តី\u200bនៅ\u200bម៉្យាង\u00a0លេាក\ufeff ដេីម កណ្ដាល e\u0301 12\u200b។"
WITHOUT_REPAIR = replace(DEFAULT, mojibake=False)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    texts = [Example(text, "any") for language in ("km", "en") for text in stories(language, 60, seed=1)]
    train_tokenizer(texts, vocab_size=700, output_dir=folder / "t", model_type=request.param)
    return Tokenizer.from_folder(folder / "t")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    config = config_with(vocab_size=700)
    return export(config, random_params(config), trained, tmp_path_factory.mktemp("export") / "tiny")


def exported_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def module_from(source: str, path: Path):
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_raw_text_gets_the_ids_of_normalized_text(trained, folder):
    theirs = exported_tokenizer(folder)
    assert trained.encode(RAW) != trained.encode(normalize(RAW))
    assert theirs.encode(RAW).ids == [trained.end_of_text_id, *trained.encode(normalize(RAW))]
    assert theirs.encode("  two\n\n").ids[1:] == trained.encode("  two\n\n")  # a prompt keeps its white space


def test_our_own_commands_give_the_same_ids_with_the_exported_tokenizer(trained, folder):
    ours = Tokenizer.from_folder(folder)
    assert ours.normalization == trained.normalization
    for text in (RAW, normalize(RAW), "កណ្ដាល", " a\u00a0b "):
        assert ours.encode(text) == trained.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_an_export_that_serves_as_the_tokenizer_is_exported_and_converted_like_the_first(trained, folder, tmp_path):
    config, again = config_with(vocab_size=700), Tokenizer.from_folder(folder)
    second = export(config, random_params(config), again, tmp_path / "second")
    assert (second / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    plain = export(config, random_params(config), again, tmp_path / "plain", normalize=False)
    assert not isinstance(exported_tokenizer(plain).normalizer, tokenizers.normalizers.Sequence)
    assert again.to_json().splitlines()[1:] != (folder / "tokenizer.json").read_text(encoding="utf-8").splitlines()[1:]


def test_the_normalizer_can_be_left_out(trained, tmp_path):
    config = config_with(vocab_size=700)
    plain = export(config, random_params(config), trained, tmp_path / "plain", normalize=False)
    theirs = exported_tokenizer(plain)
    assert theirs.decode(theirs.encode(RAW).ids) == RAW
    assert (plain / "khmer_normalizer.py").is_file()


def test_a_tokenizer_that_does_not_know_its_normalization_is_exported_without_one(trained, tmp_path):
    unknown = Tokenizer.from_folder(trained.folder)
    unknown.normalization = None
    config = config_with(vocab_size=700)
    plain = export(config, random_params(config), unknown, tmp_path / "plain")
    theirs = exported_tokenizer(plain)
    assert theirs.decode(theirs.encode(RAW).ids) == RAW
    assert not (plain / "khmer_normalizer.py").exists()


def test_transformers_keeps_the_normalizer_and_the_offsets_of_the_raw_text(trained, folder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="`uv sync --extra hf` brings transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "<|user|>\u200bស្រ្តី\u200b<|end|>"
    written = theirs(text, return_offsets_mapping=True)
    ids = trained.encode("ស្ត្រី")
    special = theirs.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|end|>"])
    assert written["input_ids"] == [*special[:2], *ids, special[2]]
    pieces = [text[first:last] for first, last in written["offset_mapping"]]
    assert pieces[1] == "<|user|>"
    assert pieces[-1] == "<|end|>"
    assert all(piece and set(piece) <= set("ស្រ្តី") for piece in pieces[2:-1])
    theirs.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(RAW)["input_ids"] == theirs(RAW)["input_ids"]
    assert Tokenizer.from_folder(tmp_path / "again").encode(RAW) == trained.encode(RAW)


@pytest.mark.full
def test_a_pipeline_continues_raw_and_normalized_text_alike(folder):
    pytest.importorskip("torch", reason="`uv sync --extra hf` brings PyTorch")
    transformers = pytest.importorskip("transformers", reason="`uv sync --extra hf` brings transformers")
    transformers.utils.logging.set_verbosity_error()
    pipeline = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    raw, normalized = (
        pipeline(text, max_new_tokens=5, do_sample=False, return_full_text=False)[0]["generated_text"]
        for text in ("ស្រ្តី\u200bនៅ", "ស្ត្រីនៅ")
    )
    assert raw == normalized


@pytest.mark.parametrize(
    ("settings", "raw", "sent"),
    [
        ({}, "ស្រ្តី ម៉្យាង លេាក ដេីម", "ស្ត្រី ម្យ៉ាង លោក ដើម"),
        ({}, "ក្៝ម", "ក្ម៝"),  # plain NFC would separate the coeng from its consonant
        ({}, "ជា\u200b 12\u200b-\u200b3", "ជា 12-3"),
        ({}, "กิน\u200bข้าว", "กิน\u200bข้าว"),  # in Thai it stands between words
        ({}, "a\u00a0b\r\nc\x00", "a b\nc"),
        ({}, " a  b \t", " a  b \t"),
        ({"zwsp": "keep"}, "ជា\u200bខ", "ជា\u200bខ"),
        ({"fold_coeng_da": False}, "កណ្ដាល", "កណ្ដាល"),
        ({"khmer": False}, "ស្រ្តី e\u0301", "ស្រ្តី é"),
        ({"nfc": False}, "e\u0301", "e\u0301"),
        ({"controls": False, "whitespace": False}, "\ufeffa\u00a0b", "\ufeffa\u00a0b"),
        ({"quotes": True, "dashes": True}, "“a” – ‘b’", "\"a\" - 'b'"),
        ({"digits": "arabic"}, "១២", "12"),
        ({"digits": "khmer"}, "12", "១២"),
        ({"khmer": False, "nfc": False, "controls": False, "whitespace": False}, RAW, RAW),
    ],
)
def test_the_tokenizer_does_only_what_was_done_to_the_training_text(settings, raw, sent):
    assert tokenizer_normalizer(Normalization(**settings)).normalize_str(raw) == sent


def real_lines() -> dict[str, list[str]]:
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz to check real text")
    paths = sorted((Path(corpus) / "km").glob("*.txt.gz"))
    return {path.name: gzip.decompress(path.read_bytes()).decode("utf-8").split("\n") for path in paths}


def test_the_tokenizer_never_leads_away_from_the_canonical_form():
    theirs = tokenizer_normalizer(DEFAULT)
    for typed, canonical in RULES.values():
        assert theirs.normalize_str(canonical) == normalize_prompt(canonical)
        assert normalize_prompt(theirs.normalize_str(typed)) == normalize_prompt(typed)


def test_real_lines_are_normalized_by_the_tokenizer():
    theirs = tokenizer_normalizer(DEFAULT)
    for name, lines in real_lines().items():
        texts = [line for line in lines if line.strip()]
        canonical = [normalize(text) for text in texts]
        sent = [theirs.normalize_str(text) for text in texts]
        assert [normalize(text) for text in sent] == canonical
        assert [theirs.normalize_str(text) for text in canonical] == canonical
        if name.startswith(("tico19", "wiki5k")):  # news and encyclopedia
            assert sum(map(str.__eq__, sent, canonical)) >= 0.96 * len(texts)


def test_the_file_gives_what_the_package_gives(tmp_path):
    alone = module_from(normalizer_file(DEFAULT), tmp_path / "khmer_normalizer.py")
    texts = [RAW, *(text for case in RULES.values() for text in case)]
    for text in texts:
        assert alone.normalize(text) == normalize(text)
        assert alone.normalize_prompt(text) == normalize_prompt(text)
    assert alone.normalize("cafÃ©") == "cafÃ©"  # the repair needs ftfy, so it must be asked for
    assert alone.normalize("cafÃ©", alone.Normalization()) == "café"
    generator = random.Random(0)
    awkward = "ក្រ្តោះេីាុំ៉៊ឹ\u17dd\u200b\u200c\u00a0\ufeff\t\r\n e\u0301“—1១។\x85"
    settings = every_setting()
    for _ in range(3000):
        text = "".join(generator.choices(awkward, k=12))
        setting = generator.choice(settings)
        theirs = alone.Normalization(**{name: getattr(setting, name) for name in setting.__dataclass_fields__})
        assert alone.normalize(text, theirs) == normalize(text, setting), (ascii(text), setting)


def test_the_file_gives_what_the_package_gives_on_real_text(tmp_path):
    alone = module_from(normalizer_file(DEFAULT), tmp_path / "khmer_normalizer.py")
    for lines in real_lines().values():
        for line in lines:
            assert alone.normalize(line) == normalize(line, WITHOUT_REPAIR)


def test_the_file_has_the_settings_of_the_training_text(tmp_path):
    settings = Normalization(zwsp="keep", fold_coeng_da=False, mojibake=False, digits="arabic")
    alone = module_from(normalizer_file(settings), tmp_path / "khmer_normalizer.py")
    assert alone.normalize("ជា\u200bកណ្ដាល ១២") == "ជា\u200bកណ្ដាល 12"


def test_the_file_runs_where_only_python_is(folder):
    """-I and -S: without this package, without anything that was installed."""
    command = [sys.executable, "-I", "-S", "-X", "utf8=0", str(folder / "khmer_normalizer.py")]
    given = f"{RAW}\n\nលេាក  a\n".encode()
    done = subprocess.run(command, input=given, capture_output=True, check=True, env={"LC_ALL": "POSIX"})
    assert done.stdout.decode() == f"{normalize(RAW)}\n\nលោក a\n"


def test_no_two_modules_of_the_file_define_the_same_name():
    """The later one would change the earlier one."""
    defined: Counter[str] = Counter()
    for node in ast.parse(normalizer_file(DEFAULT)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] += 1
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined.update({name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)})
    assert not [name for name, times in defined.items() if times > 1]
