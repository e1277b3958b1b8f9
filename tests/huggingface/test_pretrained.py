"""Continuing from another model: its weights arrive unchanged, however they are stored, and what cannot be used is refused."""

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.support.eight_devices import run_on_eight_devices
from tests.support.families import VARIANTS, config_of
from tests.support.open_tokenizers import gemma3, llama2, smollm2
from tests.support.tiny_model import random_params, tiny_tokenizer
from tests.support.tiny_run import TinyRun, train_in_this_process
from tonsai_jax.config import default_config, model_config, set_model
from tonsai_jax.data.tokenize import tokenize_dataset
from tonsai_jax.errors import UserError
from tonsai_jax.files import read_json, write_json
from tonsai_jax.huggingface.card_details import details_of_run
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.names import flat
from tonsai_jax.huggingface.pretrained import open_pretrained
from tonsai_jax.inference.load import load_run
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.mesh import make_mesh, shardings
from tonsai_jax.training.state import model_graph

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


def exported(variant: str, tokenizer: Tokenizer, folder: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    """A folder of the variant, and the parameters in it; rows that pad its vocabulary are 0."""
    config = config_of(variant)
    params = random_params(config)
    for table in {"token_embedding", "head"} & params.keys():
        params[table] = params[table].at[config.vocab_size :].set(0)
    return export(config, params, tokenizer, folder, **settings), params


def tensors_in(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


@every_variant
def test_what_the_export_wrote_is_read_bit_for_bit(variant: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder, params = exported(variant, tokenizer, tmp_path / "model", max_shard_bytes=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    read = open_pretrained(str(folder))
    temperature = config_of(variant).router_temperature
    for path, array in flat(read.params()).items():
        expected = flat(params)[path] / (temperature if path == "blocks.router.kernel" else 1)
        np.testing.assert_allclose(array, expected, rtol=3e-7 if temperature != 1 else 0, err_msg=path)
    assert read.tokenizer().encode("ខ្មែរ") == tokenizer.encode("ខ្មែរ")
    read.check_tokenizer(tokenizer)


@pytest.mark.parametrize("variant", ["gpt2, odd sizes", "llama, GQA, tied", "mixtral, top-2", "gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.full)])
def test_import_and_export_give_the_same_bits(variant: str, dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first, _ = exported(variant, tokenizer, tmp_path / "first", dtype=dtype)
    read = open_pretrained(str(first))
    assert read.dtype == dtype
    second = export(read.model_config, read.params(), read.tokenizer(), tmp_path / "second", dtype=dtype)
    before, after = tensors_in(first), tensors_in(second)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        assert array.tobytes() == after[name].tobytes(), name
    assert read_json(first / "config.json") == read_json(second / "config.json")


def sharded_as_in_training() -> None:
    """Runs on eight devices."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        tokenizer = tiny_tokenizer(Path(place) / "tokenizer")
        for variant in ("mixtral, top-2", "gpt2"):
            folder, params = exported(variant, tokenizer, Path(place) / variant, dtype="bfloat16")
            expert = 2 if "mixtral" in variant else 1
            mesh = make_mesh(2, 4 // expert, expert, num_experts=4 if expert > 1 else 0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tonsai_jax.training.mesh.REPLICATED_BELOW", 0)
                placed = shardings(params, mesh)
                wanted = jax.tree.map(
                    lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), params, placed
                )
                read = open_pretrained(str(folder)).params(wanted)
            for (path, array), sharding in zip(flat(read).items(), flat(placed).values(), strict=True):
                assert array.sharding == sharding, path
                stored = np.asarray(flat(params)[path]).astype(jax.numpy.bfloat16).astype(np.float32)
                np.testing.assert_array_equal(np.asarray(array), stored, err_msg=path)
            assert not read["blocks"]["qkv"]["kernel"].sharding.is_fully_replicated


@pytest.mark.full
def test_each_device_gets_only_its_own_part() -> None:
    run_on_eight_devices(sharded_as_in_training)


# Models that transformers wrote


LLAMA = {
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
THEIRS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 301, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "llama": LLAMA | {"tie_word_embeddings": True},
    "qwen3": LLAMA | {"head_dim": 12},
    "mixtral": LLAMA | {"num_local_experts": 3},
    "gemma3_text": LLAMA | {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 6},
}


def their_model(family: str, hf: Any) -> Any:
    """A model of transformers, made from its own config class, in which every parameter is random."""
    torch, transformers = hf
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **THEIRS[family]), attn_implementation="eager"
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model.eval()


@pytest.mark.parametrize("family", [*THEIRS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_transformers_gives_its_logits(family: str, dtype: str, hf: Any, tmp_path: Path) -> None:
    torch, transformers = hf
    their_model(family, hf).to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read = open_pretrained(str(tmp_path))
    assert read.dtype == dtype
    ids = np.random.default_rng(0).integers(0, 301, (2, 50))
    graph = model_graph(dataclasses.replace(read.model_config, dtype="float32"), "xla")
    ours = nnx.merge(graph, read.params())
    logits = jax.jit(lambda ids: ours.logits(ours(ids)[0]))(ids)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_gpt2_is_read_with_and_without_its_prefix_and_with_its_masks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """openai-community/gpt2 has neither the prefix nor only parameters."""
    folder, params = exported("gpt2", tokenizer, tmp_path / "model")
    arrays = {name.removeprefix("transformer."): array for name, array in tensors_in(folder).items()}
    arrays |= {f"h.{layer}.attn.bias": np.ones((1, 1, 64, 64), np.float32) for layer in range(2)}
    save_file(arrays, folder / "model.safetensors")
    np.testing.assert_array_equal(
        open_pretrained(str(folder)).params()["position_embedding"], params["position_embedding"]
    )


# What cannot be used


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def change_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "config.json", read_json(folder / "config.json") | values)


def change_tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        arrays = tensors_in(folder)
        change(arrays)
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        save_file(arrays, folder / "model.safetensors")

    return spoil


def only_pickles(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")


def cut(folder: Path) -> None:
    file = folder / "model-00002-of-00004.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def pointer(name: str) -> Callable[[Path], object]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
    return lambda folder: (folder / name).write_text(text)


NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            remove("model-00002-of-00004.safetensors"),
            "00002-of-00004.safetensors: this file of the model is missing (1 of 4",
        ),
        (cut, "model-00002-of-00004.safetensors: not a whole safetensors file"),
        (
            pointer("model-00002-of-00004.safetensors"),
            "model-00002-of-00004.safetensors: only a Git-LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (pointer("config.json"), "config.json: only a Git-LFS pointer"),
        (remove("config.json"), "no model here (no config.json, and no checkpoints of a run)"),
        (only_pickles, "pytorch_model.bin: weights in this format can run programs"),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            "config.json: not the config of a model; download it",
        ),
        (change_tensors(dict.clear), "its weights have no tensors; download them again"),
        (change_config(model_type="phi3"), "model_type='phi3' is not supported; supported are gpt2, llama,"),
        (
            change_config(intermediate_size=40),
            "is [48, 32], but config.json makes it [40, 32]; the two files do not belong",
        ),
        (change_tensors(lambda arrays: arrays.pop(NORM)), f"has no tensor {NORM}"),
        (
            change_tensors(
                lambda arrays: arrays.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)})
            ),
            "tensor model.layers.0.self_attn.q_proj.bias has no place in the model that config.json describes (1 such",
        ),
        (
            change_tensors(lambda arrays: arrays.update({NORM: arrays[NORM].astype(np.int8)})),
            f"tensor {NORM} is stored as I8, which cannot be read; use a model that is stored in float32",
        ),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_in_one_line(
    spoil: Callable[[Path], object], message: str, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(UserError) as raised:
        open_pretrained(str(folder)).params()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def llama(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in four files."""
    folder, _ = exported("llama", tokenizer, tmp_path_factory.mktemp("llama") / "model", max_shard_bytes=50_000)
    assert len(list(folder.glob("*.safetensors"))) == 4
    return folder


def test_a_folder_that_is_absent_is_refused_and_the_hub_is_named() -> None:
    with pytest.raises(
        UserError, match="init_from=org/model: no such folder; for a model of the Hub write hf:org/model"
    ):
        open_pretrained("org/model")


def test_a_run_that_is_absent_must_be_trained_first() -> None:
    with pytest.raises(UserError, match="init_from=runs/none: no such folder; train that run first"):
        open_pretrained("runs/none")


def test_a_model_in_the_cache_of_the_hub_needs_no_network(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--org--model"
    shutil.copytree(llama, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    read = open_pretrained("hf:org/model")
    np.testing.assert_array_equal(read.params()["head"], open_pretrained(str(llama)).params()["head"])


# Runs


def test_the_model_comes_from_there_and_the_way_of_computing_from_the_config() -> None:
    config = default_config()
    config.model.d_model, config.model.remat, config.model.dropout = 999, "full", 0.1
    model = config_of("qwen3")
    assert set_model(config, model) == ["d_model=999"]
    assert (config.model.d_model, config.model.qk_norm, config.model.vocab_size) == (32, True, 300)
    assert (config.model.remat, config.model.dropout, config.model.dtype) == ("full", 0.1, "bfloat16")


@pytest.fixture(scope="module")
def base(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in Hugging Face format with the tokenizer of the rows."""
    tokenizer = Tokenizer.from_folder(rows / "tokenizer")
    config = dataclasses.replace(config_of("llama"), vocab_size=tokenizer.vocab_size + 5)
    return export(config, random_params(config), tokenizer, tmp_path_factory.mktemp("base") / "model", dtype="bfloat16")


@pytest.mark.full
def test_a_run_continues_from_a_folder_then_from_its_own_checkpoint_and_another_from_the_run(
    run: TinyRun, base: Path, rows: Path
) -> None:
    keys = (
        f"init_from={base}",
        "eval.every=100",
        "eval.prompt_suite=True",
        "export=True",
        "steps=10",
        "checkpoint.every=5",
        "model.dtype=float32",
    )
    printed = run.train(*keys, steps_today=5)
    assert f"weights: {base} (bfloat16 in {base})" in printed
    assert "not used from the config: num_heads=2, d_model=64, d_ff=256" in printed
    rest = run.train(*keys[1:])  # the model is known from the checkpoint
    assert "weights: the checkpoint of this run at step 5" in rest
    assert "changed since" not in rest
    assert read_json(run.workdir / "config.json")["init_from"] == str(base)
    assert "init_from=hf:a/b: not used, this run has a checkpoint" in run.train("init_from=hf:a/b", *keys[1:])
    record = json.loads((run.workdir / "complete.json").read_text())
    before, after = (record[name]["eval/bits_per_byte/km"] for name in ("before", "scores"))
    assert after < before
    suites = sorted(path.name for path in (run.workdir / "prompt_suite").iterdir())
    assert suites == ["step-000000.jsonl", "step-000010.jsonl"], (
        "the texts before the first step, and after the last one"
    )
    assert f"km: {after:.4f} bits per byte on held-out text ({before:.4f} before the first step, " in rest

    config = read_json(run.workdir / "export" / "config.json")
    assert (config["model_type"], config["vocab_size"]) == ("llama", read_json(base / "config.json")["vocab_size"])
    with safe_open(run.workdir / "export" / "model.safetensors", "numpy") as file:
        assert set(file.keys()) == tensors_in(base).keys()
    assert open_pretrained(str(run.workdir / "export")).model_config == open_pretrained(str(base)).model_config

    other = TinyRun(rows, run.workdir.parent / "other", ("eval.every=100", "steps=5", "model.dtype=float32"))
    printed = other.train(f"init_from={run.workdir}")
    assert f"weights: {run.workdir}" in printed
    record = json.loads((other.workdir / "complete.json").read_text())
    assert record["before"]["eval/bits_per_byte/km"] == pytest.approx(after, rel=1e-6)


@pytest.mark.full
def test_a_model_without_a_row_for_a_token_that_nothing_uses_is_continued_and_exported(
    rows: Path, tmp_path: Path
) -> None:
    """Gemma 3 1B has 262,144 rows, and its tokenizer one more token, for images."""
    tokenizer = Tokenizer.from_folder(gemma3(tmp_path / "tokenizer"))
    config = dataclasses.replace(config_of("llama, GQA, tied"), vocab_size=tokenizer.vocab_size - 1)
    export(config, random_params(config), tokenizer, tmp_path / "model")
    settings: dict[str, Any] = {"val_ratio": 0.1, "seed": 0, "row_tokens": 1024, "progress": False}
    tokenize_dataset(rows.parent / "documents", tmp_path / "tokenizer", tmp_path / "rows", **settings)
    run = TinyRun(tmp_path / "rows", tmp_path / "run")
    run.train(f"init_from={tmp_path / 'model'}", "steps=1", "optimizer.warmup_steps=0", "eval.every=1", "export=True")
    assert read_json(run.workdir / "export" / "config.json")["vocab_size"] == config.vocab_size

    smaller = dataclasses.replace(config, vocab_size=config.vocab_size - 1)
    with pytest.raises(UserError, match=f"has {config.vocab_size} ids, but the model has only {smaller.vocab_size}"):
        export(smaller, random_params(smaller), tokenizer, tmp_path / "smaller")
    given = default_config()
    given.init_from = str(tmp_path / "model")
    set_model(given, smaller)
    with pytest.raises(
        UserError, match="does not belong to the model of init_from; make the token rows with the model's own"
    ):
        model_config(given, tokenizer.required_rows)


def test_rows_of_another_tokenizer_are_refused(run: TinyRun, llama: Path) -> None:
    with pytest.raises(
        UserError, match=r"made with another tokenizer than that of .*`tonsai prepare-sft --tokenizer-dir"
    ):
        run.train(f"init_from={llama}")
    assert not run.workdir.exists()


def without_add_bos_token(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    write_json(file, read_json(file) | {"add_bos_token": False})


def change_tokenizer(**values: Any) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "tokenizer.json", read_json(folder / "tokenizer.json") | values)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (
            gemma3,
            without_add_bos_token,
            "rows have the id 1 between documents, but the tokenizer of .* has 2; make them",
        ),
        (
            llama2,
            change_tokenizer(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            "another",
        ),
        (
            smollm2,
            change_tokenizer(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}),
            "another tokenizer than that of",
        ),
    ],
)
def test_rows_whose_ids_differ_only_by_a_rule_are_refused(
    make: Callable[[Path], Path], change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    """The separator of documents, the space before a text, the pre-tokenizer."""
    tokenizer = Tokenizer.from_folder(make(tmp_path / "tokenizer"))
    config = dataclasses.replace(config_of("llama"), vocab_size=tokenizer.vocab_size)
    model = open_pretrained(str(export(config, random_params(config), tokenizer, tmp_path / "model")))
    assert model.check_tokenizer(tokenizer) == ""
    change(tokenizer.folder)
    with pytest.raises(UserError, match=message):
        model.check_tokenizer(Tokenizer.from_folder(tokenizer.folder))


def test_a_model_without_a_tokenizer_is_continued_with_a_note(
    tokenizer: Tokenizer, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer, so it is not known" in open_pretrained(str(folder)).check_tokenizer(tokenizer)
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"has vocab.json but no tokenizer\.json, which is needed; write one with"):
        open_pretrained(str(folder)).check_tokenizer(tokenizer)


@pytest.mark.full
def test_in_the_first_steps_only_the_named_parameters_change(run: TinyRun, base: Path) -> None:
    keys = (
        f"init_from={base}",
        "steps=4",
        "optimizer.frozen_steps=2",
        "optimizer.warmup_steps=0",
        "checkpoint.every=2",
    )
    run.train(*keys, "checkpoint.keep_last=3", "model.dtype=float32", "optimizer.weight_decay=0.5")
    start = open_pretrained(str(base)).params()
    for step, frozen in ((2, True), (4, False)):
        after = load_run(run.workdir, step).params
        same = {path: np.array_equal(array, flat(after)[path]) for path, array in flat(start).items()}
        assert same == {path: frozen and path not in ("token_embedding", "head") for path in same}, step


def test_a_misspelled_name_of_what_is_not_frozen_is_refused(run: TinyRun, base: Path) -> None:
    names = "optimizer.frozen_except=('token_embeddings','head')"
    with pytest.raises(UserError, match="no parameter has the name 'token_embeddings'; there are blocks/"):
        run.train(f"init_from={base}", "optimizer.frozen_steps=2", names)


@pytest.mark.full
def test_scores_before_training_are_those_of_the_model_that_was_continued(run: TinyRun, base: Path) -> None:
    """Also where a run from another model was killed here before its first checkpoint."""
    run.workdir.mkdir(parents=True)
    (run.workdir / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "eval/bits_per_byte/km": 99.0}\n')
    run.train(f"init_from={base}", "eval.every=100", "steps=4", "model.dtype=float32")
    rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    [before] = [row["eval/bits_per_byte/km"] for row in rows if row["step"] == 0]
    assert before < 90


def test_the_card_names_the_model_of_the_hub_also_through_other_runs(tmp_path: Path) -> None:
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    write_json(tmp_path / "first" / "config.json", {"init_from": "hf:org/model@v2"})
    origins = {
        "hf:org/model@v2": "org/model",
        str(tmp_path / "first"): "org/model",
        "/cache/hub/models--org--my-model/snapshots/0123/": "org/my-model",
        "models/mine/": "mine",
    }
    for init_from, name in origins.items():
        config = default_config()
        config.init_from = init_from
        assert details_of_run(tmp_path, config, 1).base_model == name


@pytest.mark.full
def test_the_recipe_runs_end_to_end_on_a_local_folder(run: TinyRun, base: Path, rows: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "continue_from_hf.py"
    words = [word for word in run.command() if not word.startswith("--config=")]
    lengths = ("epochs=0", "steps=10", "seq_len=64", "optimizer.warmup_steps=2")
    keys = (f"init_from={base}", f"data.dir={rows}", *lengths)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_in_this_process([*words, f"--config={config}:laptop", *(f"--config.{key}" for key in keys)])
    assert " before the first step, " in printed.getvalue()
    assert open_pretrained(str(run.workdir / "export")).dtype == "float32"
