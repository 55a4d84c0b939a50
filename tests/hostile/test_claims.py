"""`docs/security.md` names the tests that show what it claims, and holds the rules of the hostile suite."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.docs.pages import ROOT
from tests.hostile.rules import table_of_rules

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGE)))


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 20
    missing = [
        f"{file}::{name}" for file, name in NAMED if not (ROOT / file).is_file() or name not in functions_of(file)
    ]
    assert not missing


def test_the_page_has_the_rules_as_they_are_asserted() -> None:
    shown = PAGE.partition("<!-- rules -->\n")[2].partition("\n<!-- end of rules -->")[0]
    assert shown == table_of_rules(), "write it anew: python -m tests.hostile --write-table"
