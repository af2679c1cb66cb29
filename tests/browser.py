"""A headless browser for tests: Chromium over the pipe of its DevTools protocol, which needs no package."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def executable():
    """The path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of one browser. All that it requests and complains about is kept."""

    def __init__(self, profile):
        commands, answers = os.pipe(), os.pipe()

        def place():
            # The protocol is read from descriptor 3 and written to 4; copies first, for these may be in use.
            reads, writes = os.dup(commands[0]), os.dup(answers[1])
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        words = [executable(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            words, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(commands[0])
        os.close(answers[1])
        self.to, self.source = os.fdopen(commands[1], "wb", buffering=0), os.fdopen(answers[0], "rb", buffering=0)
        self.number, self.rest, self.session = 0, b"", None
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.to.close()
        self.source.close()

    # The protocol
    def call(self, method, **parameters):
        """Sends a command and returns its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.to.write(json.dumps({**message, **({"sessionId": self.session} if self.session else {})}).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self):
        """The next message; events are noted."""
        while b"\0" not in self.rest:
            part = self.source.read(1 << 16)
            assert part, "the browser ended"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        known = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(known["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(known["exceptionDetails"]["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and known["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(known["args"]))
        elif message.get("method") == "Log.entryAdded" and known["entry"]["level"] in ("error", "warning"):
            self.complaints.append(known["entry"]["text"])
        return message

    # What a reader does
    def open(self, path, width=1280, height=900, dark=False):
        """Loads a file at a width, in a light or dark environment."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        for _ in range(200):
            if self.run("document.readyState + location.protocol") == "completefile:":
                return
            time.sleep(0.05)
        raise AssertionError("the page does not load")

    def run(self, expression):
        """The value of an expression of JavaScript."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def click(self, selector):
        """Presses the mouse in the middle of the first element that matches."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key, text=""):
        """Presses a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        known = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text):
        """Types text into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, whole=False):
        """A PNG of what is seen, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def printed(self):
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])
