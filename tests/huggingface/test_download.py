"""The download, from a small Hub on this machine: what is asked for, what comes, and what each refusal means."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tonsai_jax.errors import TemporaryError, UserError, exit_code
from tonsai_jax.huggingface.download import download, tokenizer_folder
from tonsai_jax.huggingface.pretrained import open_pretrained

COMMIT = "0123456789" * 4
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"another format",
    "original/params.json": b"{}",
}


class Hub(ThreadingHTTPServer):
    """A Hub with one model, org/model, or with an error for whoever asks for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = dict(FILES)
        self.sent: list[str] = []
        self.error = ""
        self.status = 200
        self.closes_at = "nothing"  # a part of the path at which no answer comes


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if hub.closes_at in path:
            self.close_connection = True
            return
        if hub.error or hub.status != 200:
            self.answer(b'{"error": "no"}', {"X-Error-Code": hub.error}, hub.status)
        elif "/resolve/" in path:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            content = hub.files[name]
            etag = hashlib.sha1(content).hexdigest()
            if self.command == "GET":
                hub.sent.append(name)
            self.answer(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in hub.files.items()
            ]
            self.answer(json.dumps(entries).encode(), {})
        else:
            siblings = [{"rfilename": name} for name in hub.files]
            self.answer(json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode(), {})

    def answer(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()


def test_config_tokenizer_and_safetensors_come_and_nothing_else(hub: Hub) -> None:
    folder = download("org/model")
    assert sorted(hub.sent) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    download("org/model")
    assert len(hub.sent) == 3  # the second time from the cache


def test_a_tokenizer_comes_without_the_weights(hub: Hub) -> None:
    folder = Path(tokenizer_folder("hf:org/model"))
    assert sorted(hub.sent) == ["config.json", "tokenizer.json"]
    assert (folder / "tokenizer.json").is_file()
    assert tokenizer_folder("some/folder") == "some/folder"


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (
            403,
            "GatedRepo",
            "its owners ask you to accept their terms first, at https://huggingface.co/org/model; then make",
        ),
        (404, "RepoNotFound", "no such model at https://huggingface.co/org/model, or a private one; check the name"),
        (404, "RevisionNotFound", "this model has no revision 'v2'; see https://huggingface.co/org/model/commits"),
        (400, "", "cannot be downloaded ("),
        (500, "", "cannot be downloaded ("),
        (503, "", "cannot be downloaded ("),
        (429, "", "cannot be downloaded ("),
    ],
)
def test_a_refusal_is_explained_in_one_line(hub: Hub, status: int, error: str, message: str) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(UserError) as raised:
        open_pretrained("hf:org/model@v2")
    assert str(raised.value).startswith("hf:org/model@v2: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert exit_code(raised.value) == (75 if status == 429 or status >= 500 else 1)


def test_a_hub_that_does_not_answer_may_do_so_at_the_next_try(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.closes_at = "/resolve/"  # in the middle of the download
    with pytest.raises(TemporaryError, match=r"^hf:org/model: cannot be downloaded "):
        download("org/model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(
            TemporaryError, match=r"^hf:org/model: cannot be downloaded .*check the network and run the same"
        ):
            download("org/model")


def test_weights_that_are_pickles_are_refused(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(
        UserError, match="hf:org/model: has no weights as safetensors, and other formats can run programs"
    ):
        open_pretrained("hf:org/model")
    assert hub.sent.count("pytorch_model.bin") == 0


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="hf:gpt2: not a model of the Hub; write hf:ORG/NAME"):
        open_pretrained("hf:gpt2")
