"""Each error code is one constant, and the code of Skyhold spells none of them out."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from skyhold import error_codes

SOURCE = Path(error_codes.__file__).parent
CONSTANTS = {name: value for name, value in vars(error_codes).items() if name.isupper()}
TREES = {path: ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")}
OF_CODES = Path(error_codes.__file__)


def strings(node: ast.AST) -> Iterator[ast.Constant]:
    return (item for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str))


def spelled_out(tree: ast.AST) -> Iterator[ast.Constant]:
    """Strings that are given or compared as a code; and words of several parts that are one, wherever they are."""
    known = set(CONSTANTS.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code" and not isinstance(node.value, ast.Call):
            yield from strings(node.value)
        elif isinstance(node, ast.Compare) and ".code" in ast.unparse(node):
            yield from strings(node)
    yield from (item for item in strings(tree) if "_" in item.value and item.value in known)


def test_no_error_code_is_spelled_out_in_the_code() -> None:
    literal = [
        f"{path.relative_to(SOURCE)}:{item.lineno}: {item.value}"
        for path, tree in TREES.items()
        if path != OF_CODES
        for item in spelled_out(tree)
    ]
    assert not literal


def test_every_error_code_is_used() -> None:
    used = {
        node.attr
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "error_codes"
    }
    assert used == CONSTANTS.keys()


def test_every_error_code_is_its_name_in_small_letters_and_there_once() -> None:
    assert {name: value for name, value in CONSTANTS.items() if value != name.lower()} == {}
    written = Counter(ast.unparse(node.target) for node in TREES[OF_CODES].body if isinstance(node, ast.AnnAssign))
    assert {name for name, count in written.items() if count > 1} == set()


def test_every_error_code_has_its_meaning_and_the_next_step_behind_it() -> None:
    body = TREES[OF_CODES].body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert documented, ast.unparse(node.target)
            assert str(after.value.value).endswith("."), ast.unparse(node.target)  # type: ignore[union-attr]
