"""The code conforms to the documented drawing of the house."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_rooms_import_only_from_lower_floors_and_drivers_alone_know_their_sdk() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout


def test_every_room_of_the_source_is_in_the_drawing() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    drawn = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    source = ROOT / "src" / "skyhold"
    rooms = {f"skyhold.{path.parent.name}" for path in source.glob("*/__init__.py")}
    assert rooms <= drawn


def test_no_module_is_named_for_nothing() -> None:
    empty = {"utils", "helpers", "common", "base", "manager", "misc"}
    assert not [path for path in (ROOT / "src").rglob("*.py") if path.stem in empty]


def test_file_that_contributors_are_sent_to_is_there() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| to change |")[2].partition("\n\n")[0]
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", table)
    assert len(named) > 30
    assert not [name for name in named if not (ROOT / "src" / "skyhold" / name).exists()]


def test_command_in_a_text_can_be_copied_as_it_is() -> None:
    """In backticks, or last: a full stop or the next sentence right behind a command would be copied with it."""
    wrong = []
    for path in sorted((ROOT / "src" / "skyhold").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = _text(node)
            bare = re.search(r"\bskyhold [a-z].*", re.sub(r"`[^`]*`", "", text), re.DOTALL)
            if bare and _BREAKS_A_COMMAND.search(bare[0].partition("   #")[0]):
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {text}")
    assert not wrong


_BREAKS_A_COMMAND = re.compile(r"[.;,](\s|$)(?!--)")
"""An option may follow a path such as `.`"""


def _text(node: ast.AST) -> str:
    """A literal of a message or hint, with `X` for what is put into it; nothing of a docstring or other code."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
    return str(node.value) if is_text else ""  # type: ignore[attr-defined]
