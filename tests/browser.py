"""A real browser, driven over the WebDriver protocol: Debian's chromium and chromium-driver, without a window or a network."""

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1360,900",
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which the protocol names an element."""

KEYS = {"Enter": "\ue007", "Tab": "\ue004", "Down": "\ue015", "Right": "\ue014", "Space": " "}
"""Keys as the protocol writes them."""


def missing() -> str:
    """Return which program is not installed, or nothing."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed: apt-get install chromium chromium-driver" if absent else ""


@dataclass(frozen=True, slots=True)
class Browser:
    """One window."""

    port: int
    session: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a command of the protocol; an answer that is an error fails the test."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = json.dumps({} if body is None else body) if method == "POST" else None
        connection.request(
            method, f"/session{self.session}{path}", text, {"Content-Type": "application/json"}
        )
        answer = json.loads(connection.getresponse().read())["value"]
        connection.close()
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, page: Path) -> None:
        """Show a file."""
        self.call("POST", "/url", {"url": page.as_uri()})

    def find(self, css: str) -> str:
        """Return the first element that a selector names."""
        return str(self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT])

    def click(self, css: str) -> None:
        """Click an element as a user does: it must be seen."""
        self.call("POST", f"/element/{self.find(css)}/click")

    def type(self, css: str, text: str) -> None:
        """Type into an element."""
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, one after another, wherever the focus is."""
        actions = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def run(self, script: str) -> Any:
        """Return what a script returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def prefer(self, scheme: str) -> None:
        """Prefer ``dark`` or ``light``, as a system setting does."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        body = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self.call("POST", "/goog/cdp/execute", body)

    def complaints(self) -> list[str]:
        """Return what the console was told since the last call, of whatever level."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty ``profile`` folder, and end it."""
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            told = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
            port = int(next(match for match in told if match)[1])
            options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            started = Browser(port, "").call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
            window = Browser(port, f"/{started['sessionId']}")
            try:
                yield window
            finally:
                window.call("DELETE", "")
        finally:
            driver.terminate()
