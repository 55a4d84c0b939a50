"""docs/reference/errors.md, made of the code: the constants of `error_codes`, and the places that raise them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from skyhold import error_codes, errors

SOURCE = Path(error_codes.__file__).parent
CLASSES = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.SkyholdError)
}
ANY_CLASS = {"NOT_DURABLE"}
"""Codes whose class is that of what the buckets reported, where they agree."""
OF_FILES = {
    "damaged": {"Corrupt"},
    "failed": {"Unavailable"},
    "locked": {"Unavailable"},
    "not_openable": {"InvalidInput", "PermissionDenied"},
    "read_only": {"PermissionDenied"},
}
"""The classes of the fields of `FileErrors`, which names the codes of one kind of SQLite file."""
HEAD = """\
# Errors and exit statuses

<!-- Made by tools/reference from src/skyhold/error_codes.py and the places that raise each code. -->

Every error that leaves a public function is a `SkyholdError`. There are few classes, grouped by what you do next; each
has an exit status of its own on the command line.

| class | status | what it means, and what to do |
|---|---|---|
| `InvalidInput` | 2 | the request is wrong, nothing was changed: correct it |
| `NotFound` | 3 | the named thing does not exist, or no longer |
| `AlreadyExists` | 4 | the name is taken |
| `Conflict` | 5 | another client changed it first, nothing of yours took effect: look, then decide again |
| `PermissionDenied` | 6 | credentials or keys are missing, wrong, or not allowed to do this |
| `QuotaExceeded` | 7 | a limit of space, rate or size was reached: free some, raise it, or send less |
| `Unavailable` | 8 | a service cannot be reached now, the operation had no effect: try again |
| `Cancelled` | 130 | you ended it, or its deadline passed; what had no effect by then has none: run it again to go on |
| `OutcomeUnknown` | 9 | a write was sent and its reply was lost: read back before you decide |
| `Corrupt` | 10 | bytes are not what was stored, and were not returned: `skyhold verify --deep`, `skyhold repair` |

Status 0 is success, 1 a defect of Skyhold or a problem that `doctor` or `bucket check` found, 130 an interruption by
Ctrl-C, 141 a reader of the output who has gone.

An error has

| attribute | value |
|---|---|
| `code` | the exact failure, as a stable word such as `ref_moved`: match it in programs (`skyhold.error_codes`) |
| `message` | what failed, and on what |
| `hint` | the next step for a person, or None |
| `retryable` | whether trying the same again can help |
| `fields` | particulars as JSON values, such as `bucket` or `repository` |

With `--json`, the command line writes it to stderr as one document:

```json
{"error": {"class": "NotFound", "code": "ref_not_found", "message": "…", "hint": "…", "retryable": false, "fields": {}}}
```

## All codes

`yes` in the third column: trying the same again can help. A code that is raised with several classes has the status and
that answer of each.
"""
COLUMNS = "| code | class | status | retryable | meaning, and what to do |\n|---|---|---|---|---|"


def error_page() -> str:
    classes = classes_by_constant()
    page = [HEAD]
    for subject, constants in by_subject():
        page.append(f"### {subject}\n\n{COLUMNS}")
        page += [_row(name, meaning, classes[name]) for name, meaning in constants]
        page[-1] += "\n"
    return "\n".join(page).rstrip("\n") + "\n"


def by_subject() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each subject of `error_codes` with its constants and their docstrings, in the order of the module."""
    text = Path(error_codes.__file__).read_text("utf-8")
    body = ast.parse(text).body
    heads = [(row, line[2:]) for row, line in enumerate(text.splitlines(), 1) if line.startswith("# ")]
    documented = [
        (node, " ".join(ast.literal_eval(after.value).split()))
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
    ]
    for place, (row, subject) in enumerate(heads):
        end = heads[place + 1][0] if place + 1 < len(heads) else len(text)
        yield subject, [(ast.unparse(node.target), doc) for node, doc in documented if row < node.lineno < end]


def classes_by_constant() -> dict[str, list[str]]:
    """The classes that each code is raised with, in the order of their exit statuses."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    found["INTERRUPTED"].add("Interrupted")  # not an error of the library: the command line ends so
    for kind in CLASSES.values():
        found[kind.code.upper()].add(kind.__name__)
    for path in sorted(SOURCE.rglob("*.py")):
        for name, classes in _Module(ast.parse(path.read_text("utf-8"))).raised():
            found[name] |= classes
    found |= {name: {"any"} for name in ANY_CLASS}
    return {name: sorted(kinds, key=_status) for name, kinds in found.items()}


def _status(name: str) -> int:
    return CLASSES[name].exit_status if name in CLASSES else 130


def _row(name: str, meaning: str, classes: list[str]) -> str:
    kinds = [f"`{kind}`" if kind in CLASSES else kind for kind in classes]
    statuses = [str(_status(kind)) if kind != "any" else "its own" for kind in classes]
    again = ["yes" if kind in CLASSES and CLASSES[kind].retryable else "no" for kind in classes if kind != "any"]
    cells = [f"`{name.lower()}`", ", ".join(kinds), ", ".join(statuses), ", ".join(dict.fromkeys(again)), meaning]
    return f"| {' | '.join(cells)} |"


class _Module:
    """Where a module uses codes, and the classes of errors near each: in the call, the row of a table, the function."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._above: dict[ast.AST, ast.AST] = {
            below: node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)
        }
        self._named: dict[str, ast.AST] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self._named[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                self._named[ast.unparse(target)] = node.value

    def raised(self) -> Iterator[tuple[str, set[str]]]:
        for node in ast.walk(self._tree):
            is_code = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "error_codes"
            if is_code and not self._compared(node):
                yield node.attr, self._classes_near(node)

    def _compared(self, node: ast.AST) -> bool:
        """Whether the code is only compared, or is one of a set to be compared with."""
        return any(isinstance(above, ast.Compare | ast.Set) for above in self._all_above(node))

    def _classes_near(self, node: ast.AST) -> set[str]:
        for above in self._all_above(node):
            if isinstance(above, ast.Assign) and ast.unparse(above.targets[0]) == "code":
                return set()  # a finer code for an error of a table, whose row has the class
            if isinstance(above, ast.Call):
                function = ast.unparse(above.func)
                if function in CLASSES:
                    return {function}
                if function == "FileErrors":
                    return OF_FILES[next(word.arg or "" for word in above.keywords if word.value is node)]
                if function in self._named:
                    return _classes_in([self._named[function]])
            if isinstance(above, ast.Tuple | ast.Call | ast.FunctionDef) and (near := self._resolved(above)):
                return near
        return set()

    def _resolved(self, node: ast.AST) -> set[str]:
        """The classes in a piece of code, and in what it names of its module."""
        if isinstance(node, ast.Tuple | ast.Call):
            return _classes_in([node])
        names = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
        return _classes_in([node, *(self._named[name] for name in sorted(names & self._named.keys()))])

    def _all_above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self._above:
            node = self._above[node]
            yield node


def _classes_in(nodes: Iterable[ast.AST]) -> set[str]:
    found = {item.id for node in nodes for item in ast.walk(node) if isinstance(item, ast.Name)}
    return found & CLASSES.keys() - {"SkyholdError"}
