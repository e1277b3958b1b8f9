"""A Hub with one model on this machine, for tests of the upload."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
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
