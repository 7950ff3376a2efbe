"""A bare grpc.aio server that returns what it was sent. `python -m bench.echo --directory DIR`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.service import run_loop, serve


async def echo(request: bytes, context: Any) -> bytes:
    """Return the request."""
    return request


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    run_loop(serve(parser.parse_args().directory, {"Echo": echo}))


if __name__ == "__main__":
    main()
