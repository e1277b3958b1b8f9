"""The GGUF file: what it holds, read with the `gguf` package; and that llama.cpp computes from it what we do.

The tests against llama.cpp need llama-cpp-python and are skipped without it. It is not in the development dependencies, because
PyPI has only its source, which takes minutes to build.
"""

import gzip
import os
import resource
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed; `uv sync --extra gguf` brings it")

from tests.support.hard_strings import HARD_STRINGS  # noqa: E402  # these need gguf
from tests.support.open_tokenizers import llama3  # noqa: E402
from tests.support.tiny_model import CONFIG, ENGLISH, KHMER, config_with, random_params, tiny_tokenizer  # noqa: E402
from tonsai_jax.config import default_config  # noqa: E402
from tonsai_jax.errors import UserError  # noqa: E402
from tonsai_jax.files import read_json, write_json  # noqa: E402
from tonsai_jax.gguf.export import export_gguf  # noqa: E402
from tonsai_jax.gguf.vocabulary import vocabulary  # noqa: E402
from tonsai_jax.huggingface.card_details import CardDetails, SourceDetails  # noqa: E402
from tonsai_jax.huggingface.export import export  # noqa: E402
from tonsai_jax.huggingface.names import flat, tensors  # noqa: E402
from tonsai_jax.inference import load as load_module  # noqa: E402
from tonsai_jax.inference.decoding import Decoder  # noqa: E402
from tonsai_jax.inference.load import Run  # noqa: E402
from tonsai_jax.model.config import ModelConfig  # noqa: E402
from tonsai_jax.model.presets import preset  # noqa: E402
from tonsai_jax.model.rope import frequencies  # noqa: E402
from tonsai_jax.samples.stories import stories  # noqa: E402
from tonsai_jax.sampling import Sampling  # noqa: E402
from tonsai_jax.tokenizer.examples import Example  # noqa: E402
from tonsai_jax.tokenizer.loading import Tokenizer  # noqa: E402
from tonsai_jax.tokenizer.training import train_tokenizer  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_gguf.py"
DETAILS = CardDetails(
    name="tiny", sources=(SourceDetails("wiki", "km", 0.6, "CC BY-SA 4.0"), SourceDetails("stories", "en", 0.4, "CC0"))
)
SMALL = {"context_length": 128, "num_heads": 4}
YARN, LLAMA3, LINEAR = ({"rope_scaling": name, "rope_factor": 4.0} for name in ("yarn", "llama3", "linear"))
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": SMALL,  # its d_ff is not 4 * d_model
    "llama": SMALL | preset("llama") | {"num_kv_heads": 2},
    "llama, tied, own head size": SMALL | preset("llama") | {"tie_embeddings": True, "head_size": 16},
    "llama, linear": SMALL | preset("llama") | LINEAR,
    "llama, yarn": SMALL | preset("llama") | YARN,
    "llama, llama3": SMALL | preset("llama") | LLAMA3,
    "qwen3": SMALL | preset("qwen3") | {"num_kv_heads": 2, "head_size": 16},
    "qwen3, yarn": SMALL | preset("qwen3") | YARN,
    "mixtral": SMALL | preset("mixtral") | {"num_experts": 4, "router_temperature": 2.0},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture(scope="module")
def trained(made_once):
    """Opens a tokenizer with special tokens, trained on stories, by its model type and pattern."""

    def open_trained(model_type: str, pattern: str = "grouped-digits") -> Tokenizer:
        def train(folder):
            texts = [Example(text, "any") for language in ("km", "en") for text in stories(language, 100, seed=1)]
            texts += [Example(f"ឆ្នាំ{year} {year} 1{year}", "any") for year in range(1990, 2030)] * 3
            train_tokenizer(texts, vocab_size=900, output_dir=folder, model_type=model_type, pattern=pattern)

        return Tokenizer.from_folder(made_once(f"tokenizer-{model_type}-{pattern}", train))

    return open_trained


@pytest.fixture(scope="module")
def llama_cpp():
    reason = "llama-cpp-python is not installed; `uv pip install llama-cpp-python` builds it in some minutes"
    return pytest.importorskip("llama_cpp", reason=reason)


def lively_params(config: ModelConfig) -> dict[str, Any]:
    """Random parameters so large that a greedy continuation uses many different ids."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (1 if path[-1].key in ("scale", "bias") else 4), random_params(config)
    )


def read(path: Path) -> Any:
    return gguf.GGUFReader(path)


def values(reader: Any) -> dict[str, np.ndarray]:
    """The tensors by name, as float32."""
    return {each.name: gguf.dequantize(each.data, each.tensor_type) for each in reader.tensors}


def fields(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def hugging_face_tensors(config: ModelConfig, params: Any) -> dict[str, np.ndarray]:
    by_path = flat(params)
    return {tensor.name: np.asarray(tensor.of(by_path[tensor.path])) for tensor in tensors(config)}


# What the file holds.


def test_the_metadata_describes_model_tokenizer_and_text(trained, tmp_path):
    tokenizer = trained("bpe")
    config = config_with(**SMALL, **preset("llama"), vocab_size=1000, num_kv_heads=2, rope_theta=500.0)
    path = export_gguf(config, random_params(config), tokenizer, tmp_path / "a.gguf", details=DETAILS)
    found = fields(read(path))
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.languages": ["km", "en"],
        "general.license": "CC BY-SA 4.0, CC0",
        "general.file_type": 0,
        "llama.vocab_size": tokenizer.vocab_size,
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 500.0,
        "llama.rope.scaling.type": "none",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.eot_token_id": 14,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": (tokenizer.folder / "chat_template.jinja").read_text(encoding="utf-8"),
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert len(found["tokenizer.ggml.tokens"]) == tokenizer.vocab_size
    assert found["tokenizer.ggml.tokens"][:2] == ["<|endoftext|>", "<bos>"]
    assert found["tokenizer.ggml.token_type"] == [3] * 31 + [1] * (tokenizer.vocab_size - 31)


def test_a_file_without_details_is_named_after_itself(tokenizer, tmp_path):
    found = fields(read(export_gguf(CONFIG, random_params(CONFIG), tokenizer, tmp_path / "mine.gguf")))
    assert found["general.name"] == "mine"
    assert not {"general.license", "general.languages", "tokenizer.chat_template"} & found.keys()


def test_the_pieces_of_unigram_have_their_types_and_scores(trained, tmp_path):
    tokenizer = trained("unigram")
    config = config_with(vocab_size=900)
    found = fields(read(export_gguf(config, random_params(config), tokenizer, tmp_path / "a.gguf")))
    tokens, types, scores = (found[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    assert found["tokenizer.ggml.model"] == "plamo2"
    assert types[:32] == [3] * 31 + [2]
    assert [tokens[id] for id, type in enumerate(types) if type == 6] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert not any("\u2581" in token for token in tokens)
    written = dict(zip(tokens, scores, strict=True))
    assert written["<|endoftext|>"] == written["<0x41>"] == -10_000  # never from text
    pieces = read_json(tokenizer.folder / "tokenizer.json")["model"]["vocab"]
    # llama.cpp multiplies by 10,000 and rounds: whole numbers in, so nothing is lost.
    trained_scores = {token.replace("\u2581", " "): score for token, score in pieces}
    assert round(written["a"] * 10_000) == trained_scores["a"] * 128


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_an_export_serves_as_the_tokenizer(kind, trained, tmp_path):
    config = config_with(vocab_size=trained(kind).vocab_size)
    folder = export(config, random_params(config), trained(kind), tmp_path / "export")
    assert vocabulary(Tokenizer.from_folder(folder)) == vocabulary(trained(kind))


def test_weights_are_those_of_the_hugging_face_model(tokenizer, tmp_path):
    config = config_with(**FAMILIES["qwen3"])
    params = random_params(config)
    found = values(read(export_gguf(config, params, tokenizer, tmp_path / "a.gguf")))
    theirs = hugging_face_tensors(config_with(**FAMILIES["qwen3"], vocab_size=tokenizer.vocab_size), params)
    assert len(found) == len(theirs)
    for ours, name in {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight",
        "blk.1.attn_k_norm.weight": "model.layers.1.self_attn.k_norm.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    }.items():
        np.testing.assert_array_equal(found[ours], theirs[name])
    assert found["token_embd.weight"].shape[0] == tokenizer.vocab_size  # no padding, no id that the tokenizer lacks


def test_gpt2_weights_are_turned_to_out_in(tokenizer, tmp_path):
    params = random_params(CONFIG)
    found = values(read(export_gguf(CONFIG, params, tokenizer, tmp_path / "a.gguf")))
    theirs = hugging_face_tensors(CONFIG, params)
    np.testing.assert_array_equal(found["blk.1.attn_qkv.weight"], theirs["transformer.h.1.attn.c_attn.weight"].T)
    np.testing.assert_array_equal(found["blk.1.attn_qkv.bias"], theirs["transformer.h.1.attn.c_attn.bias"])
    np.testing.assert_array_equal(found["position_embd.weight"], theirs["transformer.wpe.weight"])
    assert "output.weight" not in found  # tied


def test_llama_rotates_neighbors_so_the_rows_of_a_head_are_rearranged(tokenizer, tmp_path):
    config = config_with(**FAMILIES["llama"])
    params = random_params(config)
    found = values(read(export_gguf(config, params, tokenizer, tmp_path / "a.gguf")))
    theirs = hugging_face_tensors(config, params)
    for letter, heads in (("q", 4), ("k", 2)):
        expected = theirs[f"model.layers.1.self_attn.{letter}_proj.weight"].reshape(heads, 2, 4, 32)
        rows = found[f"blk.1.attn_{letter}.weight"].reshape(heads, 8, 32)
        np.testing.assert_array_equal(rows[:, 0::2], expected[:, 0])
        np.testing.assert_array_equal(rows[:, 1::2], expected[:, 1])
    np.testing.assert_array_equal(found["blk.1.attn_v.weight"], theirs["model.layers.1.self_attn.v_proj.weight"])


def test_the_experts_of_a_layer_are_one_tensor(tokenizer, tmp_path):
    config = config_with(**FAMILIES["mixtral"])
    params = random_params(config)
    reader = read(export_gguf(config, params, tokenizer, tmp_path / "a.gguf", dtype="float16"))
    theirs = hugging_face_tensors(config, params)
    expected = [theirs[f"model.layers.1.block_sparse_moe.experts.{expert}.w3.weight"] for expert in range(4)]
    found = values(reader)
    np.testing.assert_allclose(found["blk.1.ffn_up_exps.weight"], expected, rtol=1e-3, atol=1e-6)
    # The router stays float32, with its temperature folded in.
    np.testing.assert_array_equal(
        found["blk.1.ffn_gate_inp.weight"], theirs["model.layers.1.block_sparse_moe.gate.weight"]
    )
    assert (fields(reader)["llama.expert_count"], fields(reader)["llama.expert_used_count"]) == (4, 2)


def test_rope_scaling_is_written_as_llama_cpp_reads_it(tokenizer, tmp_path):
    config = config_with(**FAMILIES["llama, yarn"])
    found = fields(read(export_gguf(config, random_params(config), tokenizer, tmp_path / "yarn.gguf")))
    names = ("type", "factor", "original_context_length", "yarn_beta_fast", "yarn_beta_slow")
    assert [found[f"llama.rope.scaling.{name}"] for name in names] == ["yarn", 4.0, 32, 32.0, 1.0]

    config = config_with(**FAMILIES["llama, llama3"])
    reader = read(export_gguf(config, random_params(config), tokenizer, tmp_path / "llama3.gguf"))
    plain = config.rope_theta ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(values(reader)["rope_freqs.weight"], plain / frequencies(config)[0], rtol=1e-6)
    assert fields(reader)["llama.rope.scaling.type"] == "none"


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_matrices_are_rounded_and_vectors_are_not(dtype, name, tokenizer, tmp_path):
    params = random_params(CONFIG)
    reader = read(export_gguf(CONFIG, params, tokenizer, tmp_path / "a.gguf", dtype=dtype))
    types = {each.name: each.tensor_type.name for each in reader.tensors}
    assert types["token_embd.weight"] == types["blk.0.ffn_up.weight"] == name
    assert types["blk.0.ffn_up.bias"] == types["output_norm.weight"] == types["position_embd.weight"] == "F32"
    rounded = jnp.asarray(params["blocks"]["mlp_up"]["kernel"][0].T, dtype).astype(jnp.float32)
    np.testing.assert_array_equal(values(reader)["blk.0.ffn_up.weight"], rounded)


# What is refused, and what stays when something fails.


def test_what_llama_cpp_cannot_represent_is_refused(tokenizer, tmp_path):
    def exported(config=CONFIG, name="a.gguf", **settings):
        return export_gguf(config, random_params(config), tokenizer, tmp_path / name, **settings)

    with pytest.raises(UserError, match=r"qwen3 has no model\.rope_scaling=llama3"):
        exported(config_with(**SMALL | preset("qwen3") | LLAMA3))
    with pytest.raises(UserError, match=r"no Hugging Face family has model\.norm=rmsnorm"):
        exported(config_with(norm="rmsnorm"))
    with pytest.raises(
        UserError, match="a gemma3 model cannot be written as GGUF yet, only gpt2, llama, qwen3, mixtral"
    ):
        exported(config_with(**SMALL | preset("gemma3")))
    with pytest.raises(UserError, match="this tokenizer has 288 ids, but the model has only 200"):
        exported(config_with(vocab_size=200))
    with pytest.raises(UserError, match="dtype='int8' is not known; use float32, bfloat16, float16"):
        exported(dtype="int8")
    with pytest.raises(UserError, match=r"model: the name of a GGUF file ends with \.gguf; write model\.gguf"):
        exported(name="model")
    with pytest.raises(KeyError, match="surprise"):
        export_gguf(CONFIG, random_params(CONFIG) | {"surprise": jnp.zeros(3)}, tokenizer, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_a_weight_too_large_for_float16_is_refused(tokenizer, tmp_path):
    params = random_params(CONFIG)
    params["blocks"]["mlp_down"]["kernel"] = params["blocks"]["mlp_down"]["kernel"].at[1, 0, 0].set(70_000.0)
    with pytest.raises(UserError, match=r"blk\.1\.ffn_down\.weight has values above 65504, .* bfloat16 or float32"):
        export_gguf(CONFIG, params, tokenizer, tmp_path / "a.gguf", dtype="float16")
    assert not list(tmp_path.iterdir())


def changed(tokenizer: Tokenizer, folder: Path, change: Callable[[Any], None]) -> Tokenizer:
    """A copy with another tokenizer.json."""
    shutil.copytree(tokenizer.folder, folder)
    content = read_json(folder / "tokenizer.json")
    change(content)
    write_json(folder / "tokenizer.json", content)
    (folder / "tokenizer_checksums.json").unlink()
    return Tokenizer.from_folder(folder)


def test_a_tokenizer_that_llama_cpp_would_read_differently_is_refused(tokenizer, trained, tmp_path):
    def other_pattern(content):
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"

    def added_token(content):
        content["added_tokens"].append(content["added_tokens"][0] | {"id": 288, "content": "<new>"})

    def other_score(content):
        content["model"]["vocab"][400][1] += 0.001

    for start, change, expected in (
        (
            tokenizer,
            other_pattern,
            r"tokenizer\.json: llama\.cpp has no pattern that splits text as this tokenizer does",
        ),
        (tokenizer, added_token, r"tokenizer\.json: 1 tokens were added to it after training"),
        (trained("unigram"), other_score, r"tokenizer\.json: the score of .* is not a multiple of 1/128"),
    ):
        other = changed(start, tmp_path / change.__name__, change)
        config = config_with(vocab_size=1000)
        with pytest.raises(UserError, match=expected):
            export_gguf(config, random_params(config), other, tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_earlier_file_is_replaced_and_one_of_someone_else_is_not(tokenizer, tmp_path):
    params = random_params(CONFIG)
    path = export_gguf(CONFIG, params, tokenizer, tmp_path / "a.gguf", details=CardDetails(name="first"))
    export_gguf(CONFIG, params, tokenizer, path, details=CardDetails(name="second"))
    assert fields(read(path))["general.name"] == "second"
    (tmp_path / "thesis.gguf").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.gguf: already exists and is no GGUF file"):
        export_gguf(CONFIG, params, tokenizer, tmp_path / "thesis.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(UserError, match=r"folder\.gguf: is a folder; give the name of a file"):
        export_gguf(CONFIG, params, tokenizer, tmp_path / "folder.gguf")
    assert sorted(os.listdir(tmp_path)) == ["a.gguf", "folder.gguf", "thesis.gguf"]
    assert (tmp_path / "thesis.gguf").read_text() == "years of work"


def test_a_full_disk_leaves_the_earlier_file_whole(tokenizer, tmp_path):
    path = export_gguf(CONFIG, random_params(CONFIG), tokenizer, tmp_path / "a.gguf")
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a\.gguf: the disk is full"):
            export_gguf(CONFIG, random_params(CONFIG, seed=1), tokenizer, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.gguf"]


# The command.


def run_script(monkeypatch, run: Run, output: Path) -> int:
    monkeypatch.setattr(load_module, "load_run", lambda workdir, step=None: run)
    monkeypatch.setattr(sys, "argv", ["export_gguf.py", "--workdir", "runs/tiny", "--output", str(output)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.mark.parametrize(("pattern", "warns"), [("grouped-digits", True), ("single-digits", False)])
def test_the_command_says_what_is_different_in_llama_cpp(pattern, warns, trained, monkeypatch, capsys, tmp_path):
    tokenizer = trained("bpe", pattern)
    config = config_with(vocab_size=tokenizer.vocab_size)
    run = Run("run", config, random_params(config), tokenizer, tmp_path, default_config(), step=30)
    assert run_script(monkeypatch, run, tmp_path / "a.gguf") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'a.gguf'}: {config.num_parameters:,} parameters of step 30, float32, ")
    assert ("note: llama.cpp splits text nearly as this tokenizer does" in out) == warns
    assert "note: llama.cpp takes a prompt as it is, but the training text was normalized" in out
    assert fields(read(tmp_path / "a.gguf"))["general.name"] == tmp_path.name


def test_without_the_package_the_command_says_how_to_get_it(tokenizer, monkeypatch, capsys, tmp_path):
    run = Run("run", CONFIG, random_params(CONFIG), tokenizer, tmp_path, default_config(), step=30)
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in [name for name in sys.modules if name.startswith("tonsai_jax.gguf.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_script(monkeypatch, run, tmp_path / "a.gguf") == 1
    assert (
        capsys.readouterr().err
        == "error: GGUF files need the package gguf; install it with: uv sync --inexact --extra gguf\n"
    )


# What llama.cpp makes of it.


def tokenizer_only(llama_cpp, tokenizer, path):
    config = config_with(vocab_size=tokenizer.vocab_size, num_layers=1)
    export_gguf(config, random_params(config), tokenizer, path)
    return closing(llama_cpp.Llama(str(path), vocab_only=True, verbose=False))


@pytest.mark.parametrize("pattern", ["grouped-digits", "single-digits"])
def test_llama_cpp_gives_our_ids_for_hard_strings_with_bpe(pattern, trained, tmp_path, llama_cpp):
    assert len(set(HARD_STRINGS)) >= 250
    tokenizer = trained("bpe", pattern)
    differ = []
    with tokenizer_only(llama_cpp, tokenizer, tmp_path / "a.gguf") as theirs:
        for text in HARD_STRINGS:
            ids = theirs.tokenize(text.encode(), add_bos=True, special=False)
            assert theirs.detokenize(ids[1:]).decode() == text
            if ids != [tokenizer.end_of_text_id, *tokenizer.encode(text)]:
                differ.append(text)
    assert differ == []


def test_llama_cpp_gives_our_ids_or_equally_good_ones_with_unigram(trained, tmp_path, llama_cpp):
    tokenizer = trained("unigram")
    scores = vocabulary(tokenizer).scores or []
    other_order = 0
    with tokenizer_only(llama_cpp, tokenizer, tmp_path / "a.gguf") as theirs:
        for text in HARD_STRINGS:
            if text.startswith("\ufeff") or "\u2581" in text:
                continue  # llama.cpp drops a byte order mark at the start; for us U+2581 is a space (tokenizer/unigram.py)
            ids, ours = theirs.tokenize(text.encode(), add_bos=False, special=False), tokenizer.encode(text)
            assert theirs.detokenize(ids).decode() == text
            if ids != ours:
                other_order += 1
                assert sum(scores[id] for id in ids) == pytest.approx(sum(scores[id] for id in ours), abs=1e-9), repr(
                    text
                )
        assert theirs.tokenize(b"a", add_bos=True, special=False) == tokenizer.encode("a")  # the command says so
    assert other_order <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "pattern", "most"),
    [("bpe", "single-digits", 0), ("bpe", "grouped-digits", 0.01), ("unigram", "grouped-digits", 0.01)],
)
def test_few_ids_differ_on_real_text(model_type, pattern, most, tmp_path, llama_cpp):
    """It prints the table of docs/gguf.md."""
    corpus = os.environ.get("TONSAI_CORPUS")
    if not corpus:
        pytest.skip("set TONSAI_CORPUS to a folder with km/*.txt.gz and en/*.txt.gz to check real text")
    lines = {
        language: [
            line
            for path in sorted(Path(corpus).glob(f"{language}/*.txt.gz"))
            for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[::10]
        ]
        for language in ("km", "en")
    }
    examples = [Example(line, language) for language in lines for line in lines[language]]
    train_tokenizer(examples, vocab_size=8000, output_dir=tmp_path / "t", model_type=model_type, pattern=pattern)
    tokenizer = Tokenizer.from_folder(tmp_path / "t")
    with tokenizer_only(llama_cpp, tokenizer, tmp_path / "a.gguf") as theirs:
        for language in lines:
            count = differ = 0
            for line in lines[language]:
                ours = ends(tokenizer, tokenizer.encode(line))
                differ += len(ours - ends(tokenizer, theirs.tokenize(line.encode(), add_bos=False, special=False)))
                count += len(ours)
            print(f"{model_type} {pattern} {language}: {differ:,} of {count:,} tokens differ")
            assert differ <= most * count


def ends(tokenizer: Tokenizer, ids: list[int]) -> set[tuple[int, int]]:
    """Each id with the byte of the text that it ends at."""
    return set(zip(ids, np.cumsum(tokenizer.token_bytes()[ids]).tolist(), strict=True))


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_continues_greedily_as_we_do(family, tokenizer, tmp_path, llama_cpp):
    config = config_with(**FAMILIES[family])
    params = lively_params(config)
    prompts = [[tokenizer.end_of_text_id, *tokenizer.encode(text)] for text in (KHMER[:11], ENGLISH[:9], "")]
    decoder = Decoder(config, params, tokenizer.vocab_size)
    steps = decoder.generate(prompts, end_ids=(), max_new_tokens=64, sampling=Sampling(temperature=0), seed=0)
    ours = np.array(list(steps)).T
    assert ours.shape == (3, 64)
    assert len(np.unique(ours)) > 15
    path = export_gguf(config, params, tokenizer, tmp_path / "a.gguf")
    float32 = llama_cpp.GGML_TYPE_F32
    settings = {"n_ctx": 128, "type_k": float32, "type_v": float32, "n_threads": 1, "verbose": False}
    with closing(llama_cpp.Llama(str(path), **settings)) as theirs:
        for prompt, expected in zip(prompts, ours.tolist(), strict=True):
            generated = theirs.generate(prompt, temp=0.0, repeat_penalty=1.0)
            assert [next(generated) for _ in range(64)] == expected


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_prompt_follows_the_end_of_text_token_and_the_chat_template_works(model_type, trained, tmp_path, llama_cpp):
    tokenizer = trained(model_type)
    config = config_with(vocab_size=tokenizer.vocab_size, context_length=128)
    path = export_gguf(config, random_params(config), tokenizer, tmp_path / "a.gguf")
    with closing(llama_cpp.Llama(str(path), n_ctx=128, verbose=False)) as theirs:
        answer = theirs(KHMER, max_tokens=1)
        assert answer["usage"]["prompt_tokens"] == 1 + len(tokenizer.encode(KHMER))
        asked = theirs.create_chat_completion([{"role": "user", "content": KHMER}], max_tokens=1)
        # <|endoftext|><|user|>...<|end|><|assistant|>, with its special tokens recognized
        assert asked["usage"]["prompt_tokens"] == 4 + len(tokenizer.encode(KHMER))


def test_the_tokenizer_of_an_open_model_is_left_to_the_converter_of_llama_cpp(tmp_path):
    opened = Tokenizer.from_folder(llama3(tmp_path / "model"))
    with pytest.raises(
        UserError, match=r"the tokenizer of an open model; .* run `tonsai export`, then convert_hf_to_gguf"
    ):
        vocabulary(opened)
