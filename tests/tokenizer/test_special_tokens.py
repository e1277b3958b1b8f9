"""Special tokens: the same ids in every format, and conversations written with them."""

import jinja2
import pytest
import sentencepiece
import tokenizers

from tonsai_jax.errors import UserError
from tonsai_jax.samples.stories import stories
from tonsai_jax.tokenizer.examples import Example
from tonsai_jax.tokenizer.loading import Tokenizer
from tonsai_jax.tokenizer.special_tokens import SPECIAL_TOKENS, check_special_tokens, read_special_tokens
from tonsai_jax.tokenizer.training import train_tokenizer

MESSAGES = [
    {"role": "system", "content": "Answer in Khmer."},
    {"role": "user", "content": " សួស្តី "},
    {"role": "assistant", "content": "ជំរាបសួរ"},
]
WRITTEN = "<|endoftext|><|system|>Answer in Khmer.<|end|><|user|>សួស្តី<|end|><|assistant|>ជំរាបសួរ<|end|>"


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / request.param
    examples = [Example(text, language) for language in ("km", "en") for text in stories(language, 100, seed=1)]
    train_tokenizer(examples, vocab_size=1000, output_dir=path, model_type=request.param)
    return path


def test_special_tokens_have_the_first_ids_in_every_format(folder):
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [plain.id_to_token(id) for id in range(len(SPECIAL_TOKENS))] == list(SPECIAL_TOKENS)
    assert all(plain.get_added_tokens_decoder()[id].special for id in range(len(SPECIAL_TOKENS)))
    if (folder / "spm.model").exists():
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
        assert [model.id_to_piece(id) for id in range(len(SPECIAL_TOKENS))] == list(SPECIAL_TOKENS)


def test_text_that_spells_a_special_token_stays_text(folder):
    tokenizer = Tokenizer.from_folder(folder)
    text = "".join(SPECIAL_TOKENS)
    ids = tokenizer.encode(text)
    assert min(ids) >= len(SPECIAL_TOKENS)
    assert tokenizer.decode(ids) == text


def test_transformers_knows_the_special_tokens_and_writes_a_conversation(folder):
    transformers = pytest.importorskip("transformers", reason="needs transformers: uv sync --extra hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (theirs.pad_token, theirs.bos_token, theirs.eos_token) == ("<pad>", "<|endoftext|>", "<|endoftext|>")
    assert theirs.apply_chat_template(MESSAGES, tokenize=False) == WRITTEN
    assert theirs.apply_chat_template(MESSAGES[:2], tokenize=False, add_generation_prompt=True).endswith(
        "<|assistant|>"
    )
    told = theirs.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    answer = [id for id, said in zip(told["input_ids"], told["assistant_masks"], strict=True) if said]
    assert theirs.decode(answer) == "ជំរាបសួរ<|end|>"
    with pytest.raises(jinja2.TemplateError, match="role robot is not one of"):
        theirs.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)


def test_own_special_tokens_are_read_from_a_list_and_without_roles_there_is_no_chat_template(tmp_path):
    (tmp_path / "own.yaml").write_text("['<|endoftext|>', '<verse>']")
    own = read_special_tokens(tmp_path / "own.yaml")
    train_tokenizer([Example("a verse", "en")] * 2, vocab_size=300, special_tokens=own, output_dir=tmp_path / "t")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    assert (plain.id_to_token(0), plain.id_to_token(1)) == ("<|endoftext|>", "<verse>")
    assert not (tmp_path / "t" / "chat_template.jinja").exists()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<|endoftext|>", "<sep>", "<sep>"], "'<sep>' is in the list 2 times"),
        (["<pad>"], "the first must be '<|endoftext|>'"),
        ([], "the first must be '<|endoftext|>'"),
        (["<|endoftext|>", " "], "one of them is empty"),
        (["<|endoftext|>", "<unk>"], "'<unk>' is already used by the tokenizer formats"),
        (["<|endoftext|>", "<0x41>"], "'<0x41>' is already used by the tokenizer formats"),
        *((["<|endoftext|>", word], f"{word!r} could be text") for word in ("a", "the", "<x", "2026", "=>")),
    ],
)
def test_special_tokens_that_are_not_valid_are_refused_in_one_line(tokens, expected):
    with pytest.raises(UserError, match="special tokens") as caught:
        check_special_tokens(tokens)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{a: 1}", "not a list of strings"),
        ("[1]", "not a list of strings"),
        ("[", "not valid YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_special_tokens(tmp_path / "s.yaml")
    assert "s.yaml" in str(caught.value)
