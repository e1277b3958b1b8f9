"""A page in headless Chromium, driven over its DevTools pipe, so that no package is needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome on the PATH; on Debian and Ubuntu: apt-get install chromium"
)
QUIET = [  # as root, without a GPU, and asking nothing of the network
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FLAGS = ["--headless", *QUIET, "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe"]
# Chromium expects the pipes at 3 and 4; they may be any others here.
LAUNCH = """
import os, sys
first, second = (os.dup(int(end)) for end in sys.argv[1:3])
while min(first, second) < 5:
    first, second = os.dup(first), os.dup(second)
os.dup2(first, 3)
os.dup2(second, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """Context manager: a file of this machine, opened in a window of `width` CSS pixels.

    Attributes:
      requests: the addresses that the page asked for, in order.
      complaints: what it wrote to the console, and its errors.
    """

    def __init__(self, path: Path, folder: Path, *, width: int, dark: bool = False, script: bool = True) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._path, self._profile = path, folder / f"profile-{width}"
        self._width, self._dark, self._script = width, dark, script
        self._count = 0

    def __enter__(self) -> "Page":
        assert CHROMIUM is not None
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        chromium = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), *chromium],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._answers = os.fdopen(self._from, "rb")
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=self._width,
            height=800,
            deviceScaleFactor=1,
            mobile=self._width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        if not self._script:
            self._call("Emulation.setScriptExecutionDisabled", value=True)
        self._call("Page.navigate", url=self._path.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        self._answers.close()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; what the DevTools evaluate is no script of the page."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def click(self, selector: str) -> None:
        """Presses and releases the mouse in the middle of an element."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView();"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _call(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            text += byte
        message = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(params))
        return message
