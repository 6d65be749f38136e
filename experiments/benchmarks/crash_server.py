"""A server on this machine that sends a file slowly, so that a download can be ended in its middle."""

from __future__ import annotations

import contextlib
import http.server
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

CONTENT = random.Random(0).randbytes(1 << 20)  # of the file


class Slow(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in a quarter of a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(CONTENT), len(CONTENT) // 16):
                self.wfile.write(CONTENT[at : at + len(CONTENT) // 16])
                time.sleep(1 / 64)

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of CONTENT on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file.bin"
    finally:
        server.shutdown()
        server.server_close()
