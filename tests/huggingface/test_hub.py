"""The upload, against a small Hub on this machine: what is sent, what a failure leaves, and how to go on from it."""

import json
import shlex
import sys

import pytest

from tests.support.small_hub import running_hub, sent, uploaded
from tests.support.tiny_model import CONFIG, random_params, tiny_tokenizer
from tonsai_jax.commands.export import main
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.hub import push_to_hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return export(CONFIG, random_params(CONFIG), tokenizer, tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as server:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


def test_every_file_of_the_export_is_sent(folder, hub):
    assert push_to_hub(folder, "sokha/tiny") == f"{hub.url}/sokha/tiny"
    header, files = uploaded(hub)
    assert header["summary"] == "Export of a model trained with tonsai_jax"
    assert files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sent(hub, "/commit/")[0][0] == "/api/models/sokha/tiny/commit/main"
    assert "private" not in json.loads(sent(hub, "/repos/create")[0][1])


def test_a_private_model_a_branch_and_a_message(folder, hub):
    push_to_hub(folder, "sokha/tiny", private=True, revision="half", message="Two epochs")
    created = json.loads(sent(hub, "/repos/create")[0][1])
    assert created.get("private") is True or created.get("visibility") == "private"
    assert [path for path, _ in sent(hub, "/branch/")] == ["/api/models/sokha/tiny/branch/half"]
    assert sent(hub, "/commit/")[0][0] == "/api/models/sokha/tiny/commit/half"
    assert uploaded(hub)[0]["summary"] == "Two epochs"


def test_a_public_model_does_not_get_what_must_be_private(folder, hub):
    hub.private = False
    with pytest.raises(UserError, match="sokha/tiny: exists on the Hub and is public, so nothing was uploaded"):
        push_to_hub(folder, "sokha/tiny", private=True)
    assert not sent(hub, "/commit/")


def test_a_failed_upload_is_repeated_without_the_export(folder, hub, monkeypatch, capsys):
    hub.refuses = True
    with pytest.raises(UserError, match=r"cannot be uploaded .* is complete") as caught:
        push_to_hub(folder, "sokha/tiny", private=True, message="Two epochs")
    assert "\n" not in str(caught.value)
    command = str(caught.value).partition(": tonsai ")[2]
    hub.refuses = False
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    main()
    assert capsys.readouterr().out == f"uploaded to {hub.url}/sokha/tiny\n"
    header, files = uploaded(hub)
    assert header["summary"] == "Two epochs"
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_only_a_complete_export_is_uploaded(folder, hub, tmp_path):
    with pytest.raises(UserError, match=r"no export here \(no export.json\); give --workdir to make one"):
        push_to_hub(tmp_path, "sokha/tiny")
    record = json.loads((folder / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="this file of the export is missing"):
        push_to_hub(tmp_path, "sokha/tiny")
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir", "run", "--private"], "--private has no effect without --push-to-hub"),
        (["--workdir", "run", "--commit-message", "x"], "--commit-message has no effect without --push-to-hub"),
        ([], "--workdir is missing"),
        (["--push-to-hub", "sokha/tiny", "--dtype", "bfloat16"], "--workdir is missing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tonsai export", "--output-dir", str(tmp_path / "out"), *arguments])
    with pytest.raises(UserError, match=message):
        main()
