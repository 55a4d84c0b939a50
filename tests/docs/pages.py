"""The documents of the project: which there are, and what of them runs.

A block with the fence `sh run` or `python run` is run by the tests, in page order, in one shell that begins in an
empty folder on a machine without state. `sh fails N` is run too, and must end with status N.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("[!_]*.md")))

_BLOCK: Final = re.compile(r"^```(sh|python) (run|fails (\d+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_CODE: Final = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A runnable block of a page, and the status with which it ends."""

    language: str
    text: str
    status: int


def blocks_of(page: Path) -> list[Block]:
    """The runnable blocks of a page, in order."""
    return [
        Block(language, text, int(status or 0)) for language, _, status, text in _BLOCK.findall(page.read_text("utf-8"))
    ]


def script_of(blocks: list[Block]) -> str:
    """One script of bash that runs the blocks after each other and stops at the first that goes wrong."""
    parts = ["set -euo pipefail"]
    for number, block in enumerate(blocks):
        if block.language == "python":
            parts.append(f"python - <<'END_OF_BLOCK_{number}'\n{block.text}END_OF_BLOCK_{number}")
        elif block.status:
            parts.append(f"status=0; (\n{block.text}) || status=$?\n[ $status = {block.status} ] || exit 99")
        else:
            parts.append(block.text)
    return "\n".join(parts) + "\n"


def links_of(page: Path) -> list[str]:
    """Where a page's links to files of the project point, as written."""
    prose = _CODE.sub("", page.read_text("utf-8"))
    return [link for link in _LINK.findall(prose) if "://" not in link and not link.startswith("mailto:")]
