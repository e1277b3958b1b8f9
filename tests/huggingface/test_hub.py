"""The upload, against a small Hub on this machine: what is sent, what a failure leaves, and how to go on from it."""

import base64
import json
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.tiny_model import CONFIG, random_params, tiny_tokenizer
from tonsai_jax.commands.export import main
from tonsai_jax.errors import UserError
from tonsai_jax.huggingface.export import export
from tonsai_jax.huggingface.hub import push_to_hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return export(CONFIG, random_params(CONFIG), tokenizer, tmp_path_factory.mktemp("export") / "tiny")


class Hub(ThreadingHTTPServer):
    """A Hub with one model, which keeps the requests that it gets."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, bytes]] = []
        self.private, self.refuses = True, False


class Answers(BaseHTTPRequestHandler):
    """Answers what `create_repo`, `model_info`, `create_branch` and `upload_folder` ask."""

    server: Hub

    def do_GET(self):
        self.answer({"id": "sokha/tiny", "private": self.server.private, "siblings": [], "tags": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests.append((self.path, body))
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path and self.server.refuses:
            self.answer({"error": "the disk of the Hub is full"}, status=403)
        elif "/commit/" in self.path:
            self.answer({"commitUrl": f"{self.server.url}/sokha/tiny/commit/1", "commitOid": "1", "success": True})
        else:
            self.answer({"url": f"{self.server.url}/sokha/tiny"})

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server
        server.shutdown()


def sent(hub, part):
    return [(path, body) for path, body in hub.requests if part in path]


def uploaded(hub):
    """The header of the last commit, and the files in it by name."""
    lines = [json.loads(line) for line in sent(hub, "/commit/")[-1][1].splitlines()]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    return lines[0]["value"], files


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
