"""Who looks at a coordinator that is measured; none of this is counted.

    python -m bench.onlooker --directory DIR        takes spans over HTTP, and drops them
    python -m bench.onlooker --look URL …           scrapes what ends in /metrics, and has the other one open, as a browser has it
"""

from __future__ import annotations

import argparse
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from bench.processes import write_address

SCRAPE_SECONDS = 5.0
"""Prometheus' own default is a minute, and many take fifteen seconds."""


class Backend(BaseHTTPRequestHandler):
    """Takes whatever it is sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Some spans."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is said of it."""


def scrape(url: str) -> None:
    """Read the metrics, for ever."""
    while True:
        with urllib.request.urlopen(url) as answer:
            answer.read()
        time.sleep(SCRAPE_SECONDS)


def watch(url: str) -> None:
    """Have the console's first page open."""
    with urllib.request.urlopen(f"{url}live?page=/") as answer:
        while answer.readline():
            pass


def main() -> None:
    """Parse what to be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--look", nargs="*", default=[])
    options = parser.parse_args()
    looking = [Thread(target=scrape if url.endswith("/metrics") else watch, args=(url,)) for url in options.look]
    for one in looking:
        one.start()
    if options.directory is not None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
        write_address(options.directory, f"127.0.0.1:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
