"""One run as a picture: rates against the echo. `python -m bench.plot bench.json docs/explanation/performance.svg`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROW_PIXELS = 24
LABEL_PIXELS = 170
BAR_PIXELS = 430
SKIPPED = ("echo c1", "textbook 1", "one-shot 1", "sqlite 1")
"""One caller at a time: their rate says nothing; their latency stands in the table."""


def main() -> None:
    """Read the results, write the picture."""
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text())), encoding="utf-8")


def draw(document: dict[str, Any]) -> str:
    """An SVG with one bar a stage."""
    echo = document["figures"]["echo"]
    rows = [
        (one["name"], echo if one["name"] == "echo" else one["rate"]) for one in document["results"] if one["name"] not in SKIPPED
    ]
    longest = max(rate for _, rate in rows)
    bars = "\n".join(_bar(number, name, rate, rate / longest, rate / echo) for number, (name, rate) in enumerate(rows, 1))
    height = ROW_PIXELS * (len(rows) + 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {height}" font-family="sans-serif" font-size="13">\n'
        '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        '<text x="10" y="18">Transactions or calls a second, and the ratio to the bare echo of the same run</text>\n'
        f"{bars}\n</svg>\n"
    )


def _bar(number: int, name: str, rate: float, share: float, ratio: float) -> str:
    y = number * ROW_PIXELS + 4
    colour = "#888888" if name.startswith(("echo", "textbook", "plain", "floor")) else "#2a6fb0"
    width = max(1.0, share * BAR_PIXELS)
    return (
        f'<text x="10" y="{y + 14}">{escape(name)}</text>'
        f'<rect x="{LABEL_PIXELS}" y="{y}" width="{width:.0f}" height="{ROW_PIXELS - 6}" fill="{colour}"/>'
        f'<text x="{LABEL_PIXELS + width + 8:.0f}" y="{y + 14}">{rate:,.0f}/s · {ratio:.2f}</text>'
    )


if __name__ == "__main__":
    main()
