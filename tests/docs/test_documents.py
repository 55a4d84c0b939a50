"""Runnable blocks of the documents work; the reference covers the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import skyhold
from skyhold import errors
from skyhold.cli.group import skyhold as program
from skyhold.storage.sources.ignore import DEFAULT_IGNORED
from skyhold.store import settings
from tests.docs.pages import DOCUMENTS, ROOT, blocks_of, links_of, script_of

RUNNABLE = [page for page in DOCUMENTS if blocks_of(page)]
REFERENCE = ROOT / "docs" / "reference"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without state, with `skyhold` and `python` on its path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("skyhold", "-m skyhold "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (programs / name).chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SKYHOLD_", "XDG_", "AWS_"))}
    return own | {"HOME": str(tmp_path / "home"), "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("page", RUNNABLE, ids=named)
def test_blocks_of_a_page_run(page: Path, machine: dict[str, str], tmp_path: Path) -> None:
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
    ended = subprocess.run(
        ["bash", "-x", "-c", script_of(blocks_of(page))],
        cwd=tmp_path / "work",
        env=machine,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_pages_that_teach_have_something_to_run() -> None:
    taught = {ROOT / "README.md", ROOT / "docs" / "tutorial.md", *(ROOT / "docs" / "how-to").glob("*.md")}
    assert taught <= set(RUNNABLE)


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    broken = [link for link in links_of(page) if not (page.parent / link).exists()]
    assert not broken


def test_index_leads_to_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    reached = {(index.parent / link).resolve() for link in links_of(index)}
    unlisted = [named(page) for page in (ROOT / "docs").rglob("[!_]*.md") if page != index and page not in reached]
    assert not unlisted


def commands(group: click.Group, path: str) -> list[str]:
    """The full names of all commands below a group."""
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append(f"{path} {name}")
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
    return found


def test_every_command_is_in_the_reference() -> None:
    text = (REFERENCE / "cli.md").read_text("utf-8")
    missing = [command for command in commands(program, "skyhold") if f"## `{command}`" not in text]
    assert not missing


def test_every_public_name_is_in_the_reference() -> None:
    text = (REFERENCE / "python.md").read_text("utf-8")
    assert [name for name in skyhold.__all__ if f"`skyhold.{name}" not in text] == []


@pytest.mark.parametrize("kind", errors.SkyholdError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_reference_with_its_status(kind: type[errors.SkyholdError]) -> None:
    rows = [line for line in (REFERENCE / "errors.md").read_text("utf-8").splitlines() if f"`{kind.__name__}`" in line]
    assert any(f"| {kind.exit_status} |" in row for row in rows)


def test_every_setting_is_in_the_reference() -> None:
    text = (REFERENCE / "configuration.md").read_text("utf-8")
    names = {*settings._VARIABLES, *settings._VARIABLES.values(), *settings._BUCKET_KEYS, settings._PASSPHRASE}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_reference_has_every_pattern_that_a_push_leaves_out_by_default() -> None:
    page = (REFERENCE / "configuration.md").read_text("utf-8")
    listed = page.partition("Left out by default are ")[2].partition("(`!pattern`")[0]
    assert sorted(re.findall(r"`([^`]+)`", listed)) == sorted(DEFAULT_IGNORED)
