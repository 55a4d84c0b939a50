"""Help texts, the reference made of them, and how little `--help` may load."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import click
import pytest

from skyhold.cli.command import VerbCommand
from skyhold.cli.exits import MEANINGS
from skyhold.cli.reference import every_command, find_command, help_text
from skyhold.cli.verbs import GROUPS, VERBS
from tests.cli.regenerate import GOLDEN, golden_path

ROOT = Path(__file__).parents[2]
VERB_WORDS = [verb.words for verb in VERBS]

OUTSIDE_THE_STANDARD_LIBRARY = {"click", "skyhold"}
OF_SKYHOLD = {
    "skyhold",
    "skyhold.error_codes",
    "skyhold.errors",
    "skyhold.cli",
    "skyhold.cli.exits",
    "skyhold.cli.group",
    "skyhold.cli.program",
    "skyhold.cli.interrupt",
    "skyhold.cli.main",
    "skyhold.cli.output",
    "skyhold.cli.verbs",
}
HEAVY = {
    "asyncio", "concurrent", "ctypes", "decimal", "email", "hashlib", "http", "importlib.metadata",
    "json", "logging", "multiprocessing", "random", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "tomllib",
    "urllib", "xml", "zipfile",
}  # fmt: skip


def modules_loaded_by(*arguments: str) -> set[str]:
    """Names of the modules that a `skyhold` of these arguments loads, beyond those of a bare interpreter."""
    program = (
        "import sys; before = set(sys.modules); from skyhold.cli.main import main; status = main(sys.argv[1:]);"
        "sys.stderr.write('\\n'.join(set(sys.modules) - before)); sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines())


@pytest.mark.parametrize("words", list(every_command()))
def test_help_is_as_in_its_golden_file(words: str) -> None:
    """`python -m tests.cli.regenerate` writes them anew; then read the diff."""
    assert help_text(words) == golden_path(words).read_text("utf-8")


def test_every_golden_file_is_of_a_command() -> None:
    assert {path.name for path in GOLDEN.glob("*.txt")} == {golden_path(words).name for words in every_command()}


def test_reference_matches_the_code() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "tools/reference", "--check"], check=False, capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr.decode()


def test_every_module_of_verbs_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "src/skyhold/cli/verbs").glob("*.py")} - {"__init__"}
    assert files == {words.replace(" ", "_") for words in VERB_WORDS}


@pytest.mark.parametrize("words", VERB_WORDS)
def test_command_has_help_examples_and_known_exit_statuses(words: str) -> None:
    command, _ = find_command(words)
    assert isinstance(command, VerbCommand)
    assert command.help
    assert command.name == words.rsplit(maxsplit=1)[-1]
    assert command.examples
    assert command.exits
    assert set(command.exits) <= set(MEANINGS)


@pytest.mark.parametrize("words", VERB_WORDS)
def test_examples_of_a_command_are_accepted_by_it(words: str) -> None:
    command, _ = find_command(words)
    assert isinstance(command, VerbCommand)
    lines = [shlex.split(example, comments=True) for example in command.examples]
    assert any(_parse(line) == words for line in lines)
    for line in lines:
        _parse(line)


def called(words: list[str]) -> str:
    """The words of the command that begins a line."""
    name = words[0]
    for word in words[1:]:
        name = f"{name} {word}" if name in GROUPS else name
    return name


def _parse(line: list[str]) -> str:
    """The words of the command that a shell line calls, once Click has accepted its arguments."""
    while "=" in line[0]:
        line = line[1:]
    line = list(takewhile(lambda word: word not in {"<", ">"}, line))
    assert line[0] == "skyhold"
    words = called(line[1:])
    command, context = find_command(words)
    command.make_context(words, line[1 + len(words.split()) :], parent=context.parent)
    return words


@pytest.mark.parametrize("words", VERB_WORDS)
def test_every_option_has_help(words: str) -> None:
    command, context = find_command(words)
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("words", [words for words in VERB_WORDS if words not in {"cat", "completion", "serve"}])
def test_command_that_answers_takes_json_and_quiet(words: str) -> None:
    command, _ = find_command(words)
    assert {"as_json", "quiet"} <= {parameter.name for parameter in command.params}


def test_help_loads_click_and_little_else() -> None:
    loaded = modules_loaded_by("--help")
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert foreign == OUTSIDE_THE_STANDARD_LIBRARY
    assert {name for name in loaded if name.split(".")[0] == "skyhold"} == OF_SKYHOLD
    assert not {name for name in loaded if name in HEAVY or name.split(".")[0] in HEAVY}


def test_import_of_the_package_loads_nothing_foreign() -> None:
    program = "import sys; before = set(sys.modules); import skyhold; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"skyhold"}


@pytest.mark.parametrize("words", VERB_WORDS)
def test_help_of_a_verb_loads_only_click(words: str) -> None:
    """A verb's own module imports the registry only when it runs."""
    loaded = modules_loaded_by(*words.split(), "--help")
    assert {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) == OUTSIDE_THE_STANDARD_LIBRARY


COMMAND_LINE = re.compile(r"(?:`|hint=f?\"|: )skyhold ((?:--?)?[a-z][^`\"\n]*)")


def command_lines_in_the_source() -> list[tuple[str, str]]:
    """Every command line that a message, hint or docstring of ours recommends, with its file."""
    return [
        (str(path.relative_to(ROOT)), match[1])
        for path in sorted((ROOT / "src").rglob("*.py"))
        for match in COMMAND_LINE.finditer(path.read_text("utf-8"))
    ]


def test_every_command_that_a_message_names_exists() -> None:
    found = command_lines_in_the_source()
    assert len(found) > 50
    for place, line in found:
        words = [word for word in line.rstrip(".,;)").split() if word not in {"…", "--help"}]
        if not words or words[0].startswith("-"):
            continue
        name = called(words)
        assert name in {*VERB_WORDS, *GROUPS}, f"{place}: skyhold {line}"
        command, context = find_command(name)
        known = {flag for parameter in command.get_params(context) for flag in parameter.opts}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"{place}: skyhold {line}"
