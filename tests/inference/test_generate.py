"""Generation: a continuation depends only on its prompt, the settings and the seed."""

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tests.support.open_tokenizers import llama2
from tests.support.tiny_model import CONFIG, ENGLISH, KHMER, config_with, random_params, tiny_tokenizer
from tonsai_jax.errors import UserError
from tonsai_jax.inference import decoding, generate
from tonsai_jax.inference import load as load_module
from tonsai_jax.inference.decoding import Decoder
from tonsai_jax.inference.generate import Generator
from tonsai_jax.inference.load import Run
from tonsai_jax.reporting.samples import sample_text
from tonsai_jax.sampling import Sampling
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.training.state import model_graph

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate.py"
GREEDY = Sampling(temperature=0)
PARAMS = random_params(CONFIG)
PARAMS["token_embedding"] = PARAMS["token_embedding"].at[0].set(0.0)  # end of text is never the likeliest
KHMER = KHMER[:11]  # room for more in the context
PROMPTS = [[5, 17, 100], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")


def rows(prompts, *, params=PARAMS, config=CONFIG, ends=(), new=12, sampling=GREEDY, seed=0, num_ids=300):
    """The ids of each sequence."""
    given: list[list[int]] = [[] for _ in prompts]
    decoder = Decoder(config, params, num_ids)
    for step in decoder.generate(prompts, end_ids=ends, max_new_tokens=new, sampling=sampling, seed=seed):
        for row, id in zip(given, step, strict=True):
            if id is not None:
                row.append(id)
    return given


def texts(tokenizer, prompts, new=12, seed=0, **settings):
    sampling = Sampling(**{"temperature": 1.0, "top_k": 0} | settings)
    return Generator(CONFIG, PARAMS, tokenizer).texts(prompts, max_new_tokens=new, sampling=sampling, seed=seed)


def test_greedy_takes_the_most_likely_token_of_a_forward_pass_over_the_whole_text():
    ids = list(PROMPTS[0])
    model = nnx.merge(model_graph(CONFIG, "xla"), PARAMS)

    @jax.jit
    def next_id(tokens, length):
        return jnp.argmax(model.logits(model(tokens)[0])[0, length - 1])

    for _ in range(12):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(ids)] = ids
        ids.append(int(next_id(padded, len(ids))))
    assert rows([PROMPTS[0]]) == [ids[len(PROMPTS[0]) :]]


def test_a_batch_of_different_lengths_gives_the_same_as_each_prompt_alone():
    assert rows(PROMPTS) == [rows([prompt])[0] for prompt in PROMPTS]


@pytest.mark.full
def test_more_prompts_than_fit_in_a_batch_follow_in_the_next(tokenizer, monkeypatch):
    prompts = [ENGLISH[:n] for n in range(4)]
    together = texts(tokenizer, prompts)
    monkeypatch.setattr(generate, "BATCH_SIZE", 2)
    assert texts(tokenizer, prompts) == together


@pytest.mark.full
def test_the_same_seed_gives_the_same_text_and_another_seed_another(tokenizer):
    first = texts(tokenizer, [KHMER], seed=1)
    assert texts(tokenizer, [KHMER], seed=1) == first
    assert texts(tokenizer, [KHMER], seed=2) != first
    one, other = texts(tokenizer, [KHMER, KHMER], seed=1)
    assert one == first[0]
    assert one != other


@pytest.mark.parametrize("new", [1, 12])
def test_a_sequence_stops_before_end_of_text_and_the_others_continue(new):
    free = rows(PROMPTS, new=new)
    end = free[0][new // 2]
    cut = [row[: row.index(end)] if end in row else row for row in free]
    assert rows(PROMPTS, new=new, ends=(end,)) == cut


def test_each_of_several_end_ids_ends_a_sequence():
    free = rows(PROMPTS)
    ends = (free[0][5], free[1][3])
    cut = [row[: next((at for at, id in enumerate(row) if id in ends), len(row))] for row in free]
    assert rows(PROMPTS, ends=ends) == cut
    assert len(cut[0]) <= 5
    assert len(cut[1]) <= 3


def test_a_repetition_penalty_counts_the_ids_of_prompt_and_continuation_but_not_the_padding():
    sampling = Sampling(temperature=0, repetition_penalty=1e6)  # no id comes twice while others have positive logits
    together = rows(PROMPTS, sampling=sampling)
    assert together == [rows([prompt], sampling=sampling)[0] for prompt in PROMPTS]
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert len({*prompt, *row}) == len(prompt) + len(row)
    assert 0 not in {id for prompt in PROMPTS for id in prompt}  # the padding
    params = PARAMS | {"token_embedding": PARAMS["token_embedding"].at[0].set(PARAMS["token_embedding"][7] * 9)}
    assert any(0 in row for row in rows(PROMPTS, params=params, sampling=sampling))


def test_generation_ends_where_the_context_is_full():
    long = [7] * (CONFIG.context_length - 3)
    short, full = rows([[7], long], new=10)
    assert len(short) == 10
    assert len(full) == 3
    assert short == rows([[7]], new=10)[0]
    assert rows([long], new=10)[0] == full


def test_a_prompt_that_fills_the_context_is_refused_by_number_and_length():
    message = "prompt 2 has 64 tokens and leaves no room in the model's context_length=64; use a shorter prompt"
    with pytest.raises(UserError, match=message):
        rows([[7], [7] * CONFIG.context_length])


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn():
    params = PARAMS | {"token_embedding": PARAMS["token_embedding"].at[290:].multiply(50.0)}
    assert max(rows([[5]], params=params, new=40, sampling=Sampling(2.0, 0, 1.0))[0]) >= 290
    assert max(rows([[5]], params=params, new=40, sampling=Sampling(2.0, 0, 1.0), num_ids=290)[0]) < 290


def compiled_programs() -> list[int]:
    return [step._cache_size() for step in (decoding._prefill, decoding._step)]  # type: ignore[attr-defined]  # nnx.jit's


def test_few_shapes_are_compiled():
    rows([[5] * 3], new=4)
    compiled = compiled_programs()
    for length in (1, 4, 9, 12):
        rows([[5] * length], new=4)
    assert compiled_programs() == compiled


def test_a_second_model_of_the_same_shape_and_a_second_batch_compile_nothing():
    rows([[5] * 3, [6] * 3], new=4)
    compiled = compiled_programs()
    rows([[5] * 7, [6] * 12], new=4, params=random_params(CONFIG, seed=1))
    assert compiled_programs() == compiled


def test_weights_are_made_ready_once(tokenizer, monkeypatch):
    """Not for each batch, and not for each call: they are most of the memory that decoding reads."""
    ready, calls = decoding._decoding_params, []

    def counted(*args):
        calls.append(args)
        return ready(*args)

    monkeypatch.setattr(decoding, "_decoding_params", counted)
    monkeypatch.setattr(generate, "BATCH_SIZE", 1)
    generator = Generator(CONFIG, PARAMS, tokenizer)
    for _ in range(2):
        generator.texts(["a", "b"], max_new_tokens=2, sampling=GREEDY, seed=0)
    assert len(calls) == 1


def test_bfloat16_generation_uses_the_dtype_of_the_model():
    half = rows(PROMPTS, config=config_with(dtype="bfloat16"))
    assert [len(row) for row in half] == [12] * 3


def pieces_of(tokenizer, ids, monkeypatch, stop=()):
    """The pieces of a stream whose model gives these ids."""
    monkeypatch.setattr(Decoder, "generate", lambda *_, **__: ([id] for id in ids))
    sampling = Sampling(temperature=0, stop=stop)
    return list(Generator(CONFIG, PARAMS, tokenizer).stream([""], max_new_tokens=99, sampling=sampling, seed=0))


def stream_of(tokenizer, ids, monkeypatch):
    return [piece.text for piece in pieces_of(tokenizer, ids, monkeypatch)]


def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tokenizer, monkeypatch):
    text = KHMER + " 👩🏽‍🚀 " + ENGLISH
    ids = tokenizer.encode(text)
    pieces = stream_of(tokenizer, ids, monkeypatch)
    assert len(pieces) == len(ids)  # nothing was held back until the end, after a full stop
    assert "" in pieces  # some characters need several tokens
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_off_at_the_end_is_left_out_and_wrong_bytes_are_shown(tokenizer, monkeypatch):
    emoji = tokenizer.encode("👩")
    assert len(emoji) == 4  # a token a byte
    letter = tokenizer.encode("a")
    assert "".join(stream_of(tokenizer, letter + emoji[:3], monkeypatch)) == "a"
    assert "".join(stream_of(tokenizer, emoji[:3] + letter, monkeypatch)) == "\ufffda"
    assert "".join(stream_of(tokenizer, emoji[:1] * 3 + letter, monkeypatch)) == "\ufffd\ufffd\ufffda"


def test_streamed_text_is_the_text_of_a_batch(tokenizer):
    whole = texts(tokenizer, [KHMER, "", ENGLISH[:9]], temperature=1.0)
    streamed = ["", "", ""]
    generator = Generator(CONFIG, PARAMS, tokenizer)
    for number, piece, _ in generator.stream(
        [KHMER, "", ENGLISH[:9]], max_new_tokens=12, sampling=Sampling(1.0, 0), seed=0
    ):
        streamed[number] += piece
    assert streamed == whole


def test_a_stop_text_ends_its_own_continuation_and_no_token_follows(tokenizer):
    prompts = [KHMER, ENGLISH[:9], ENGLISH[:20]]
    free = texts(tokenizer, prompts, new=24, temperature=0)
    stop = free[1][3:6]
    assert len(stop) == 3
    cut = [text.partition(stop)[0] for text in free]
    assert texts(tokenizer, prompts, new=24, temperature=0, stop=(stop,)) == cut
    sampling = Sampling(temperature=0, stop=(stop,))
    pieces = list(
        Generator(CONFIG, PARAMS, tokenizer).stream([prompts[1]], max_new_tokens=24, sampling=sampling, seed=0)
    )
    assert sum(piece.new_tokens for piece in pieces) < 24


def test_a_batch_ends_with_its_last_continuation(tokenizer, monkeypatch):
    """The model is not asked for more tokens after the stop text of every continuation."""
    asked = []

    def steps(*_, **__):
        for id in tokenizer.encode("one two three"):
            asked.append(id)
            yield [id]

    monkeypatch.setattr(Decoder, "generate", steps)
    sampling = Sampling(temperature=0, stop=("two",))
    pieces = list(Generator(CONFIG, PARAMS, tokenizer).stream([""], max_new_tokens=99, sampling=sampling, seed=0))
    assert "".join(piece.text for piece in pieces) == "one "
    assert tokenizer.decode(asked).startswith("one two")
    assert "three" not in tokenizer.decode(asked)


def test_a_stop_text_is_normalized_like_the_training_text(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "normalize_prompt", lambda self, text: text.replace("Z", "z").replace("!", ""))
    ids = tokenizer.encode("a!z b")
    assert "".join(piece.text for piece in pieces_of(tokenizer, ids, monkeypatch, stop=("Z",))) == "a!"
    assert "".join(piece.text for piece in pieces_of(tokenizer, ids, monkeypatch, stop=("!",))) == "a"


def test_a_prompt_is_the_start_of_a_document(tokenizer):
    with_start = [[tokenizer.end_of_text_id, *tokenizer.encode(ENGLISH[:9])], [tokenizer.end_of_text_id]]
    ids = rows(with_start, ends=tokenizer.end_ids, num_ids=tokenizer.vocab_size)
    expected = [tokenizer.decode(row).removesuffix("\ufffd") for row in ids]
    assert texts(tokenizer, [ENGLISH[:9], ""], temperature=0) == expected


def test_a_text_without_a_prompt_begins_after_the_prefix_of_the_tokenizer(tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_folder(llama2(tmp_path / "llama2"))
    assert tokenizer.prefix == " "
    assert "".join(stream_of(tokenizer, tokenizer.encode("  story"), monkeypatch)) == "  story"
    monkeypatch.setattr(Decoder, "generate", lambda *_, **__: ([id] for id in tokenizer.encode("story")))
    assert Generator(CONFIG, PARAMS, tokenizer).texts(["A"], max_new_tokens=9, sampling=GREEDY, seed=0) == [" story"]


def run_script(monkeypatch, capsys, tokenizer, *arguments):
    run = Run("run", CONFIG, PARAMS, tokenizer, Path("runs/tiny"), ConfigDict(), step=30)
    monkeypatch.setattr(load_module, "load_run", lambda workdir, step=None: run)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--workdir", "runs/tiny", *map(str, arguments)])
    code: str | int | None = 0
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_prints_prompt_and_continuation(tokenizer, monkeypatch, capsys):
    code, out, err = run_script(
        monkeypatch, capsys, tokenizer, "--prompt", KHMER, "--max-new-tokens", 12, "--temperature", 0
    )
    assert code == 0
    assert out == f"{KHMER} → {texts(tokenizer, [KHMER], temperature=0)[0]}\n"
    assert "12 tokens" in err
    assert "tokens/s (step 30)" in err


def test_the_command_takes_many_prompts_and_writes_json(tokenizer, monkeypatch, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{KHMER}\n\n{ENGLISH[:9]}\n", encoding="utf-8")
    arguments: tuple[object, ...] = (
        "--prompts-file",
        tmp_path / "prompts.txt",
        "--num-samples",
        2,
        "--max-new-tokens",
        12,
        "--top-k",
        0,
    )
    arguments += ("--temperature", 1.0, "--json", tmp_path / "out.json")
    code, out, _ = run_script(monkeypatch, capsys, tokenizer, *arguments)
    prompts = [KHMER, KHMER, ENGLISH[:9], ENGLISH[:9]]
    expected = [{"prompt": p, "text": t} for p, t in zip(prompts, texts(tokenizer, prompts), strict=True)]
    assert code == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["samples"] == expected
    assert out == "\n\n".join(f"{sample['prompt']} → {sample['text']}" for sample in expected) + "\n"


def test_the_command_ends_at_stop_texts_and_counts_tokens(tokenizer, monkeypatch, capsys):
    ids = tokenizer.encode("abcdefgh")
    monkeypatch.setattr(Decoder, "generate", lambda *_, **__: ([id] for id in ids))
    code, out, err = run_script(monkeypatch, capsys, tokenizer, "--prompt", "one", "--stop", "no", "--stop", "de")
    assert code == 0
    assert out == "one → abc\n"
    assert "5 tokens" in err  # those up to the end of the stop text


@pytest.mark.parametrize("prompts", [["one"], ["one", "two"]])
def test_the_command_says_that_the_model_ended_a_text_at_once(tokenizer, monkeypatch, capsys, prompts):
    monkeypatch.setattr(Generator, "stream", lambda *_, **__: iter(()))
    code, out, err = run_script(monkeypatch, capsys, tokenizer, *(f"--prompt={prompt}" for prompt in prompts))
    assert code == 0
    assert out == "\n\n".join(f"{prompt} → (the model ended the text)" for prompt in prompts) + "\n"
    assert "0 tokens" in err


def test_a_continuation_of_white_space_is_not_taken_for_an_ended_text():
    assert sample_text("one", "") == "one → (the model ended the text)"
    assert sample_text("one", "\n\n") == "one → "


def test_a_prompts_file_may_begin_with_a_byte_order_mark(tokenizer, monkeypatch, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffone\n", encoding="utf-8")
    code, out, _ = run_script(monkeypatch, capsys, tokenizer, "--prompts-file", tmp_path / "prompts.txt")
    assert code == 0
    assert out.startswith("one → ")


def test_the_command_says_when_the_context_ended_a_text(tokenizer, monkeypatch, capsys):
    code, _, err = run_script(monkeypatch, capsys, tokenizer, "--prompt", KHMER, "--max-new-tokens", 500)
    assert code == 0
    assert "note: 1 of 1 continuation ended because the model's context of 64 tokens is full" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate: give --prompt or --prompts-file"),
        (["--prompts-file", str(SCRIPT.parents[1] / "docs")], "docs: cannot be read (Is a directory); check the path"),
        (["--prompts-file", "absent.txt"], "absent.txt: cannot be read"),
        (["--prompt", "a", "--top-p", "2"], "top_p=2.0 must be in"),
        (["--prompt", "a", "--min-p", "-1"], "min_p=-1.0 must be in"),
        (["--prompt", "a", "--repetition-penalty", "0"], "repetition_penalty=0.0 must be above 0"),
        (["--prompt", "a", "--stop", ""], "stop=('',) must be texts of at least one character"),
        (
            ["--prompt", "a", "--prompt", "\udcff"],
            "b'\\xff' is not UTF-8 text; set the terminal to UTF-8, or rename the file",
        ),
        (["--prompt", "a" * 500], "prompt 1 has 501 tokens and leaves no room"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(tokenizer, monkeypatch, capsys, arguments, message):
    code, _, err = run_script(monkeypatch, capsys, tokenizer, *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
