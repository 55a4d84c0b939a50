"""Write the golden help texts anew: `python -m tests.cli.regenerate` (part of `make golden`). Read the diff."""

from __future__ import annotations

from pathlib import Path

from skyhold.cli.reference import every_command, help_text

GOLDEN = Path(__file__).parent / "golden"


def golden_path(words: str) -> Path:
    return GOLDEN / f"{'-'.join(['skyhold', *words.split()])}.txt"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for stale in GOLDEN.glob("*.txt"):
        stale.unlink()
    for words in every_command():
        golden_path(words).write_text(help_text(words), "utf-8")


if __name__ == "__main__":
    main()
