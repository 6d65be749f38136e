"""Opens pages in a headless Chromium, over its debugging protocol, without a driver."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SECONDS = 60  # until the browser has to have started, or to have answered


class Opened(NamedTuple):
    """A page as a browser shows it.

    width: of the window, scroll_width: of what is in it, in CSS pixels. wider: elements that reach past the
    window and are in no box that scrolls. errors: of the console. requests: addresses that were loaded.
    """

    width: int
    scroll_width: int
    wider: list[str]
    errors: list[str]
    requests: list[str]


_MEASURE = """(() => {
  const width = document.documentElement.clientWidth, scrolls = e => e && (e.closest(".scroll") !== null);
  const wider = [...document.body.querySelectorAll("*")].filter(e => !scrolls(e.parentElement)
    && !e.closest("svg:not(.chart)") && e.className !== "skip"
    && e.getBoundingClientRect().right > width + 0.5);
  return {width, scroll_width: document.documentElement.scrollWidth, wider: wider.map(e => e.tagName)};
})()"""


def open_page(
    page: Path, profile: Path, *, width: int, picture: Path | None = None, dark: bool = False
) -> Opened:
    """Opens a page in a window of a width. profile: an empty folder. picture: PNG of the whole page."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}",
               "about:blank"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = _page_address(profile / "DevToolsActivePort", process)
        return asyncio.run(asyncio.wait_for(_open(address, page.as_uri(), width, picture, dark), SECONDS))
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def _page_address(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the protocol of the first tab, once the browser has started."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise RuntimeError(f"{CHROMIUM} did not start (exit code {process.poll()})")


async def _open(address: str, url: str, width: int, picture: Path | None, dark: bool) -> Opened:
    from tornado.websocket import websocket_connect

    socket: Any = await websocket_connect(address, max_message_size=2**27)
    events: list[dict[str, Any]] = []
    sent = 0

    async def call(method: str, **params: Any) -> dict[str, Any]:
        nonlocal sent
        sent += 1
        await socket.write_message(json.dumps({"id": sent, "method": method, "params": params}))
        while (message := json.loads(await socket.read_message())).get("id") != sent:
            events.append(message)
        return dict(message["result"])

    for domain in ("Page", "Runtime", "Log", "Network"):
        await call(f"{domain}.enable")
    await call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
    )
    if dark:
        feature = {"name": "prefers-color-scheme", "value": "dark"}
        await call("Emulation.setEmulatedMedia", features=[feature])
    await call("Page.navigate", url=url)
    while not any(event.get("method") == "Page.loadEventFired" for event in events):
        events.append(json.loads(await socket.read_message()))
    found = await call("Runtime.evaluate", expression=_MEASURE, returnByValue=True)
    if picture is not None:
        shot = await call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        picture.write_bytes(base64.b64decode(shot["data"]))
    socket.close()
    while await socket.read_message() is not None:
        pass  # until the browser has closed its side
    return Opened(**found["result"]["value"], errors=_errors(events), requests=_requests(events))


def _errors(events: list[dict[str, Any]]) -> list[str]:
    """What the console shows as an error: exceptions, refused loads, calls of console.error."""
    errors = []
    for event in events:
        params = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            errors.append(str(params["entry"]["text"]))
        if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            errors.append(json.dumps(params))
    return errors


def _requests(events: list[dict[str, Any]]) -> list[str]:
    sent = [event for event in events if event.get("method") == "Network.requestWillBeSent"]
    return [str(event["params"]["request"]["url"]) for event in sent]
