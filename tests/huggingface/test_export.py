"""The export: `transformers` loads it and computes the same as we do, and a folder is never half an export."""

import json
import os
import resource
import runpy
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.support.open_tokenizers import gemma3, llama3
from tests.support.rows import write_rows
from tests.support.tiny_model import CONFIG, ENGLISH, KHMER, config_with, random_params, tiny_tokenizer
from tonsai_jax.config import default_config
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.card_details import CardDetails, SourceDetails, details_of_run
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.hub import push_to_hub
from tonsai_jax.inference import load as load_module
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import Run
from tonsai_jax.model.presets import preset
from tonsai_jax.model.rope import frequencies
from tonsai_jax.samples.stories import stories
from tonsai_jax.sampling import Sampling
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.training import train_tokenizer
from tonsai_jax.training.state import model_graph

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_hf.py"
PARAMS = random_params(CONFIG)
PARAMS["token_embedding"] = PARAMS["token_embedding"].at[0].set(0.0)  # end of text is never the likeliest
DETAILS = CardDetails(
    step=1200,
    sources=(SourceDetails("wiki", "km", 0.6, "CC BY-SA 4.0"), SourceDetails("stories", "en", 0.4)),
    bits_per_byte={"km": 0.9876, "en": 1.25, "source/wiki": 0.9876},
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return export(CONFIG, PARAMS, tokenizer, tmp_path_factory.mktemp("export") / "tiny", details=DETAILS)


def our_logits(config, params, ids):
    model = nnx.merge(model_graph(config, "xla"), params)
    return np.asarray(jax.jit(lambda ids: model.logits(model(ids)[0]))(np.asarray(ids, np.int32)))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_transformers_gives_our_logits_and_our_greedy_continuation(scan_layers, folder, tokenizer, tmp_path, hf):
    torch, transformers = hf
    config = config_with(scan_layers=scan_layers)
    if not scan_layers:
        folder = export(config, PARAMS, tokenizer, tmp_path / "unrolled")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.dtype == torch.float32
    assert theirs.num_parameters() == config.num_parameters

    random_ids = np.random.default_rng(0).integers(0, config.vocab_size, (3, 50))
    khmer_ids = their_tokenizer([KHMER[:24]])["input_ids"]
    for ids in (random_ids, khmer_ids):
        with torch.no_grad():
            expected = theirs(torch.tensor(ids)).logits.numpy()
        np.testing.assert_allclose(our_logits(config, PARAMS, ids), expected, atol=1e-4, rtol=0)

    generator = Generator(config, PARAMS, tokenizer)
    for prompt in (KHMER[:11], ENGLISH[:9]):
        inputs = their_tokenizer(prompt, return_tensors="pt")
        given = theirs.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        ours = generator.texts([prompt], max_new_tokens=30, sampling=Sampling(temperature=0), seed=0)[0]
        assert ours == their_tokenizer.decode(given).removesuffix("\ufffd")


def test_the_tokenizer_comes_along_and_starts_a_document(folder, tokenizer, hf):
    theirs = hf[1].AutoTokenizer.from_pretrained(folder)
    for text in (KHMER, ENGLISH, "", "  two\n\nlines 👩🏽‍🚀"):
        ids = theirs(text)["input_ids"]
        assert ids == [tokenizer.end_of_text_id, *tokenizer.encode(text)]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    assert theirs.model_max_length == CONFIG.context_length
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text_id
    assert Tokenizer.from_folder(folder).encode(KHMER) == tokenizer.encode(KHMER)  # ours opens it too


def test_dropout_and_ids_reach_the_config(tokenizer, tmp_path, hf):
    folder = export(config_with(dropout=0.1, attention_dropout=0.2), PARAMS, tokenizer, tmp_path / "out")
    theirs = hf[1].AutoConfig.from_pretrained(folder)
    assert (theirs.embd_pdrop, theirs.resid_pdrop, theirs.attn_pdrop) == (0.1, 0.1, 0.2)
    assert (theirs.vocab_size, theirs.n_positions, theirs.n_inner) == (300, 64, 48)
    assert theirs.n_ctx == 64  # llama.cpp's converter asks for it
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text_id


def test_a_yarn_whose_factor_does_not_give_the_context_is_warned_about_and_computed_alike(
    tokenizer, tmp_path, hf, capsys
):
    stretched = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_context": 32}
    config = config_with(**preset("llama"), **stretched)  # 64 tokens of context, not 4 * 32
    folder = export(config, random_params(config), tokenizer, tmp_path / "out")
    assert (
        "model.rope_factor=4 times the original context of 32 tokens is not model.context_length=64"
        in capsys.readouterr().err
    )
    theirs = hf[1].AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb
    radians, scale = frequencies(config)
    np.testing.assert_allclose(radians, theirs.inv_freq.numpy(), rtol=1e-6)
    assert theirs.attention_scaling == pytest.approx(scale)
    capsys.readouterr()
    fitting = config_with(**preset("llama"), **stretched | {"rope_original_context": 16})
    export(fitting, random_params(fitting), tokenizer, tmp_path / "fitting")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_the_chat_template_and_the_pad_token_come_along(model_type, tmp_path, hf):
    texts = [Example(text, "any") for language in ("km", "en") for text in stories(language, 60, seed=1)]
    train_tokenizer(texts, vocab_size=700, output_dir=tmp_path / "t", model_type=model_type)
    trained = Tokenizer.from_folder(tmp_path / "t")
    config = config_with(vocab_size=700)
    folder = export(config, random_params(config), trained, tmp_path / "out")
    theirs = hf[1].AutoTokenizer.from_pretrained(folder)
    assert hf[1].AutoConfig.from_pretrained(folder).pad_token_id == theirs.pad_token_id == trained.pad_id == 3
    written = theirs.apply_chat_template([{"role": "user", "content": KHMER}], tokenize=False)
    assert written == f"<|endoftext|><|user|>{KHMER}<|end|>"
    assert Tokenizer.from_folder(folder).encode(KHMER) == trained.encode(KHMER)
    ends = theirs.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])
    assert hf[1].GenerationConfig.from_pretrained(folder).eos_token_id == ends  # a turn ends a reply


def test_the_tokenizer_of_an_open_model_is_copied_as_it_is(tmp_path, hf):
    model = gemma3(tmp_path / "model")
    (model / "tokenizer.model").write_bytes(b"sentencepiece")
    (model / "config.json").write_text('{"model_type": "gemma3"}')
    (model / "model.safetensors").write_bytes(b"weights")
    opened = Tokenizer.from_folder(model)
    config = config_with(**preset("llama"), vocab_size=opened.vocab_size + 5)
    folder = export(config, random_params(config), opened, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config")}
    assert read["config"]["model_type"] == "llama"
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [read["config"][key] for key in ids] == [2, 1, 0]
    assert [read["generation_config"][key] for key in ids] == [2, [2, 1, 6], 0]
    assert "khmer_normalizer.py" not in os.listdir(folder)
    assert Tokenizer.from_folder(folder).end_ids == opened.end_ids
    assert hf[1].AutoTokenizer.from_pretrained(folder)(ENGLISH)["input_ids"] == [2, *opened.encode(ENGLISH)]


def test_a_model_without_a_token_for_padding_gets_none(tmp_path):
    opened = Tokenizer.from_folder(llama3(tmp_path / "model"))
    config = config_with(**preset("llama"), vocab_size=opened.vocab_size)
    folder = export(config, random_params(config), opened, tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] is None


def test_the_card_says_what_the_model_continues_from(tokenizer, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "eval/bits_per_byte/en": 1.0, "eval/bits_per_byte/km": 2.5}\n'
        '{"step": 9, "eval/bits_per_byte/en": 1.0125, "eval/bits_per_byte/km": 1.5}\n'
    )
    config = default_config()

    def card(init_from):
        config.init_from = init_from
        details = details_of_run(tmp_path, config, 9)
        return (export(CONFIG, PARAMS, tokenizer, tmp_path / "out", details=details) / "README.md").read_text()

    hub = card("hf:HuggingFaceTB/SmolLM2-135M@main")
    assert "\nbase_model: HuggingFaceTB/SmolLM2-135M\n" in hub
    assert "It continues from [HuggingFaceTB/SmolLM2-135M](https://huggingface.co/HuggingFaceTB/SmolLM2-135M)." in hub
    assert "| text | before | after |" in hub
    assert "| km | 2.5000 | 1.5000 |" in hub
    assert "The limits and the license of HuggingFaceTB/SmolLM2-135M hold for this model too" in hub
    local = card("/home/sokha/models/mine")
    assert "It continues from the model `mine`." in local
    assert "base_model:" not in local
    assert "/home/sokha" not in local
    assert "before" not in card("").partition("## Scores")[2].partition("## Limits")[0]


def test_the_padding_of_the_vocabulary_is_not_exported(folder):
    table = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    np.testing.assert_array_equal(table, PARAMS["token_embedding"][: CONFIG.vocab_size])


def test_a_large_model_is_split_and_still_loads(tokenizer, folder, tmp_path, hf):
    torch, transformers = hf
    split = export(CONFIG, PARAMS, tokenizer, tmp_path / "split", max_shard_bytes=20_000)
    index = json.loads((split / "model.safetensors.index.json").read_text())
    files = sorted(split.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == [file.name for file in files]
    assert index["metadata"]["total_size"] == CONFIG.num_parameters * 4
    largest = CONFIG.vocab_size * CONFIG.d_model * 4  # one tensor alone may pass the limit
    assert all(file.stat().st_size < max(largest, 20_000) + 4000 for file in files)
    one, many = (transformers.AutoModelForCausalLM.from_pretrained(path) for path in (folder, split))
    for name, value in one.state_dict().items():
        assert torch.equal(value, many.state_dict()[name])


def test_bfloat16_weights_are_the_rounded_ones(tokenizer, tmp_path, hf):
    torch, transformers = hf
    half = export(CONFIG, PARAMS, tokenizer, tmp_path / "half", dtype="bfloat16")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(half, dtype="auto")
    assert theirs.dtype == torch.bfloat16
    ours = jnp.asarray(PARAMS["blocks"]["qkv"]["kernel"][1], jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(theirs.transformer.h[1].attn.c_attn.weight.float().detach().numpy(), ours)


def test_the_card_states_languages_data_scores_and_what_is_not_known(folder, tokenizer, tmp_path):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage:\n- km\n- en\nlibrary_name: transformers\n")
    assert "\n# tiny\n" in card
    assert "| wiki | km | text | 60.0% | CC BY-SA 4.0 |" in card
    assert "| stories | en | text | 40.0% | not recorded |" in card
    assert "| km | 0.9876 |" in card
    assert "| source wiki | 0.9876 |" in card
    assert f"{CONFIG.num_parameters:,} parameters, trained for 1,200 steps" in card
    bare = (export(CONFIG, PARAMS, tokenizer, tmp_path / "bare") / "README.md").read_text(encoding="utf-8")
    assert "Not recorded with this run." in bare
    assert "Not measured." in bare
    assert "language:" not in bare


def test_the_hub_reads_license_datasets_languages_and_scores_from_the_card(tokenizer, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    sources = (
        SourceDetails("wiki", "km", 0.6, "CC BY-SA 4.0", "wikimedia/wikipedia"),
        SourceDetails("own", "en", 0.4, None, "/home/me/text"),
    )
    scores = {"km": 0.98765, "source/wiki": 0.98765}
    details = CardDetails(name="tiny: km", sources=sources, bits_per_byte=scores, license="cc-by-sa-4.0")
    read = hub.ModelCard.load(export(CONFIG, PARAMS, tokenizer, tmp_path / "out", details=details) / "README.md").data
    assert (read.license, read.language, read.datasets) == ("cc-by-sa-4.0", ["km", "en"], ["wikimedia/wikipedia"])
    assert (read.library_name, read.pipeline_tag, read.model_name) == ("transformers", "text-generation", "tiny: km")
    assert [(each.task_type, each.dataset_type, each.metric_type, each.metric_value) for each in read.eval_results] == [
        ("text-generation", "km", "bits_per_byte", 0.9877),
        ("text-generation", "wikimedia/wikipedia", "bits_per_byte", 0.9877),
    ]
    bare = hub.ModelCard.load(export(CONFIG, PARAMS, tokenizer, tmp_path / "bare") / "README.md").data
    assert (bare.license, bare.datasets, bare.eval_results) == ("other", None, None)
    with pytest.raises(UserError, match="license 'CC BY-SA': not a name on the Hugging Face Hub"):
        CardDetails(license="CC BY-SA")


def test_the_card_says_how_to_normalize_text(tokenizer, tmp_path):
    def card(**options):
        return (export(CONFIG, PARAMS, tokenizer, tmp_path / "out", **options) / "README.md").read_text(
            encoding="utf-8"
        )

    assert "no zero-width space between Khmer words" in card()
    assert "from khmer_normalizer import normalize_prompt" in card()
    assert "replaces the most frequent other spellings by itself" in card()
    assert "The tokenizer leaves text as it is." in card(normalize=False)


def test_details_come_from_the_run_and_from_nothing_later_than_the_step(tmp_path):
    lines = [
        {"step": 10, "eval/bits_per_byte": 2.0, "eval/bits_per_byte/km": 2.0, "eval/bits_per_byte/source/wiki": 2.5},
        {"step": 20, "loss": 3.0},
        {"step": 30, "eval/bits_per_byte/km": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "eval/bits'
    )
    config = default_config()
    config.data.dir = str(tmp_path / "moved away")
    expected = CardDetails(name=tmp_path.name, step=20, bits_per_byte={"km": 2.0, "source/wiki": 2.5})
    assert details_of_run(tmp_path, config, 20) == expected
    assert details_of_run(tmp_path, config, 30).bits_per_byte == {"km": 1.0}


def test_details_name_no_sources_of_token_rows_that_were_written_after_the_run(tmp_path):
    config = default_config()
    config.data.dir = str(tmp_path)
    rows = write_rows(tmp_path, {"wiki": np.arange(100)})
    trained_on = {"data": {"rows": {"wiki": rows.identity("wiki")}}}
    assert [source.name for source in details_of_run(tmp_path, config, 1, trained_on).sources] == ["wiki"]
    write_rows(tmp_path, {"wiki": np.arange(200)})
    assert details_of_run(tmp_path, config, 1, trained_on).sources == ()


def test_an_earlier_export_is_replaced_and_a_folder_of_someone_else_is_not(tokenizer, tmp_path):
    out = tmp_path / "out"
    export(CONFIG, PARAMS, tokenizer, out, max_shard_bytes=20_000)
    export(CONFIG, PARAMS, tokenizer, out)
    assert [file.name for file in out.glob("*.safetensors*")] == ["model.safetensors"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: already exists and was not made by this command"):
        export(CONFIG, PARAMS, tokenizer, mine)
    assert [file.name for file in mine.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_what_a_person_added_to_an_export_stays(tokenizer, tmp_path, capsys):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out", max_shard_bytes=20_000)
    (out / "LICENSE").write_text("mine")
    (out / "figures" / "loss").mkdir(parents=True)
    (out / "figures" / "loss" / "curve.png").write_bytes(b"png")
    export(CONFIG, PARAMS, tokenizer, out)
    assert (out / "LICENSE").read_text() == "mine"
    assert (out / "figures" / "loss" / "curve.png").read_bytes() == b"png"
    assert [file.name for file in out.glob("*.safetensors*")] == ["model.safetensors"]
    ours = set(json.loads((out / "export.json").read_text())["files"])
    assert ours == {file.name for file in out.iterdir()} - {"LICENSE", "figures"}
    assert not capsys.readouterr().err


def test_a_card_that_a_person_edited_stays_next_to_the_new_one(tokenizer, tmp_path, capsys):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out", details=CardDetails(step=1))
    (out / "README.md").write_text("# My words")
    for step in (2, 3):
        export(CONFIG, PARAMS, tokenizer, out, details=CardDetails(step=step))
        assert (out / "README.md").read_text() == "# My words"
        assert f"trained for {step} steps" in (out / "README.generated.md").read_text(encoding="utf-8")
    assert "README.md was edited, so it stays; the new one is README.generated.md" in capsys.readouterr().err
    shutil.copyfile(out / "README.generated.md", out / "README.md")  # the person takes the new one
    export(CONFIG, PARAMS, tokenizer, out, details=CardDetails(step=4))
    assert "trained for 4 steps" in (out / "README.md").read_text(encoding="utf-8")
    assert not (out / "README.generated.md").exists()


def test_generation_settings_that_a_person_edited_stay(tokenizer, tmp_path, capsys):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out")
    ours = (out / "generation_config.json").read_text()
    edited = json.dumps(json.loads(ours) | {"temperature": 0.7})
    (out / "generation_config.json").write_text(edited)
    export(CONFIG, PARAMS, tokenizer, out)
    assert (out / "generation_config.json").read_text() == edited
    assert (out / "generation_config.generated.json").read_text() == ours
    assert "generation_config.json was edited, so it stays" in capsys.readouterr().err


def test_an_added_file_is_never_replaced_by_one_of_ours(tokenizer, tmp_path):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out")
    (out / "model-00001-of-00002.safetensors").write_text("mine")
    with pytest.raises(UserError, match="this one has a file of this name; rename it"):
        export(CONFIG, PARAMS, tokenizer, out, max_shard_bytes=100_000)
    assert (out / "model-00001-of-00002.safetensors").read_text() == "mine"
    assert (out / "model.safetensors").is_file()


def test_an_export_from_before_the_list_of_files_is_replaced_too(tokenizer, tmp_path):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out", max_shard_bytes=20_000)
    record = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({key: record[key] for key in ("format", "version", "step", "dtype")}))
    (out / "khmer_normalizer.py").unlink()
    (out / "notes.txt").write_text("mine")
    export(CONFIG, PARAMS, tokenizer, out)
    assert [file.name for file in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_export_whole(tokenizer, tmp_path):
    out = export(CONFIG, PARAMS, tokenizer, tmp_path / "out")
    before = (out / "model.safetensors").read_bytes()
    other = jax.tree.map(lambda leaf: leaf + 1, PARAMS)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(UserError, match="free some space or choose another folder"):
            export(CONFIG, other, tokenizer, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (out / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]


def test_the_weights_have_the_same_permissions_as_the_config(folder):
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_model_tokenizer_or_dtype_that_does_not_fit_is_refused(tokenizer, tmp_path):
    small = config_with(vocab_size=200)
    with pytest.raises(UserError, match="this tokenizer has 288 ids, but the model has only 200"):
        export(small, random_params(small), tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match="dtype='float8' is not known; use float32, bfloat16, float16"):
        export(CONFIG, PARAMS, tokenizer, tmp_path / "out", dtype="float8")
    large = PARAMS | {"token_embedding": PARAMS["token_embedding"].at[5, 3].set(70_000.0)}
    with pytest.raises(
        UserError, match=r"a weight of 7e\+04 is too large for float16; use --dtype bfloat16 or float32"
    ):
        export(CONFIG, large, tokenizer, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    with pytest.raises(KeyError, match="surprise"):
        export(CONFIG, PARAMS | {"surprise": jnp.zeros(3)}, tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_given_as_a_run_is_named_as_what_it_is(folder):
    with pytest.raises(UserError, match="this is an exported model, not a run; give the --workdir that `tonsai train`"):
        load_module.load_run(folder)


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line_and_the_export_stays(folder, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    with pytest.raises(UserError, match=r"sokha/tiny: cannot be uploaded .* is complete") as caught:
        push_to_hub(folder, "sokha/tiny")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="write it as USER/NAME"):
        push_to_hub(folder, "tiny")


def test_the_command_exports_and_prints_what_and_where(tokenizer, monkeypatch, capsys, tmp_path):
    run = Run("run", CONFIG, PARAMS, tokenizer, tmp_path, default_config(), step=30)
    monkeypatch.setattr(load_module, "load_run", lambda workdir, step=None: run)
    arguments = ["--workdir", "runs/tiny", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["tonsai export", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: {CONFIG.num_parameters:,} parameters of step 30" in out
    assert json.loads((tmp_path / "out" / "export.json").read_text())["step"] == 30
