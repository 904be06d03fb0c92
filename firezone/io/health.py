"""The health check: `GET /healthz` is 200 as long as the process runs, `GET /readyz` while the portal is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.io.http_server import Answer, HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable


class HealthServer(HttpServer):
    """A listener for probes."""

    def __init__(self, address: tuple[str, int] | None, is_ready: Callable[[], bool], *, ready_body: bytes = b"") -> None:
        super().__init__(address, self._probe, what="health check")
        self._is_ready = is_ready
        self._ready_body = ready_body

    def _probe(self, method: str, target: str) -> Answer:
        path = target.split("?", 1)[0]
        if path not in ("/healthz", "/readyz"):
            return 404, b""
        if method not in ("GET", "HEAD"):
            return 405, b""
        if path == "/healthz":
            return 200, b""
        return (200, self._ready_body) if self._is_ready() else (503, b"")
