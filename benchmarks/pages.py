"""Put the tables of committed results into the pages that show them, or check that they are there.

    python benchmarks/pages.py            writes; --check only compares (exit code 1 where a page and its files differ)

A place is ``<!-- table FOLDER TASK -->`` to ``<!-- end -->`` in RESULTS.md or the README; FOLDER is one that
``ei reproduce`` wrote, less its run folders.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ei.commands.reproduce import table

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "RESULTS.md", ROOT / "README.md")
PLACE = re.compile(r"(<!-- table (?P<folder>\S+) (?P<task>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with the tables of its places as the files say."""
    return PLACE.sub(lambda place: f"{place[1]}{table(ROOT / place['folder'], place['task'])}\n{place[4]}", text)


def main() -> None:
    differ = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            differ.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    print("; ".join(f"{name} {'differs' if '--check' in sys.argv else 'written'}" for name in differ) or "all equal")
    sys.exit(bool(differ) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
