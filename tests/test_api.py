"""What programs get from `import skyhold`."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import InvalidInput, NotFound
from skyhold.registry.store import Store
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Scene

NAMES = [
    "Cancel", "EventView", "Policy", "Progress", "Repository", "RequestCount", "ResyncNeeded", "SkyholdError", "Store",
    "Version",
    "connect", "init", "open", "recover", "request_counts",
]  # fmt: skip
HEAVY = ("numpy", "zstandard", "cryptography", "blake3", "botocore", "rich", "click", "pyfastcdc", "sqlite3")
EXAMPLE = '''
"""How a program uses Skyhold; a type checker reads it in strict mode, and the test runs it."""
from pathlib import Path
import sys
import typing
import skyhold

if typing.TYPE_CHECKING:
    skyhold.open(3)  # type: ignore[arg-type]  # were our types not seen, this would be an unused ignore

class Lines:
    def begin(self, phase: str, total_bytes: int | None) -> None: print(phase, total_bytes)
    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None: pass
    def note(self, message: str) -> None: print(message)
    def end(self) -> None: pass

def run(clouds: list[str], model: Path, target: Path) -> str:
    progress: skyhold.Progress = Lines()
    with skyhold.init(clouds, policy=skyhold.Policy(delta="off")) as store:
        repository: skyhold.Repository = store.repository("team/model", create=True)
        result = repository.push(model, metrics={"accuracy": 0.9}, aliases=["champion"], progress=progress)
        version: skyhold.Version = repository.show("champion")
        assert version.digest == result.version and version.metrics == {"accuracy": 0.9}
    with skyhold.open(clouds[0]) as store:
        try:
            store.repository("team/nothing")
        except skyhold.SkyholdError as error:
            assert error.code == "repository_not_found"
        return store.repository("team/model").pull("champion", target).version

print(run(sys.argv[3:], Path(sys.argv[1]), Path(sys.argv[2])))
'''


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "scene")
    with made.machine.at_work():
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", rows=64)


@pytest.fixture
def store(scene: Scene, model: Path) -> Iterator[Store]:
    with skyhold.init(scene.clouds()) as made:
        made.repository("team/model", create=True).push(model, message="One")
        yield made


def test_the_public_names_are_few_and_all_there() -> None:
    assert skyhold.__all__ == NAMES
    assert dir(skyhold) == NAMES
    for name in NAMES:
        assert getattr(skyhold, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = skyhold.nothing


def test_import_loads_no_heavy_module() -> None:
    program = f"import sys, skyhold; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_every_public_method_has_a_docstring_and_types() -> None:
    for owner in (skyhold.Store, skyhold.Repository, skyhold.connect, skyhold.init, skyhold.open, skyhold.recover):
        members = [owner] if inspect.isfunction(owner) else [
            member for name, member in inspect.getmembers(owner, inspect.isfunction) if not name.startswith("_")
        ]  # fmt: skip
        for member in members:
            assert inspect.signature(member).return_annotation is not inspect.Signature.empty, member
            assert member.__doc__, member


def test_examples_in_docstrings_run(scene: Scene, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the package itself, in a folder where `./model` and a store are, as its docstring assumes."""
    monkeypatch.chdir(scene.place)
    monkeypatch.setenv("SKYHOLD_STORE", scene.clouds()[0])
    store.repository("team/model").set_refs({"alias/champion": "main"})
    examples = doctest.DocTestFinder().find(skyhold, "skyhold")
    flags = doctest.ELLIPSIS
    assert sum(len(example.examples) for example in examples) > 0
    for example in examples:
        for line in example.examples:
            line.options.pop(doctest.SKIP, None)
        runner = doctest.DocTestRunner(optionflags=flags)
        runner.run(example)
        assert runner.summarize().failed == 0
    assert (scene.place / "model" / "model.safetensors").exists()


def test_closed_store_is_closed_also_after_an_error(scene: Scene, store: Store) -> None:
    with pytest.raises(NotFound), skyhold.open(scene.clouds()[0]) as opened:
        opened.repository("team/nothing")
    with pytest.raises(InvalidInput, match="closed"):
        opened.repositories()


def test_store_works_inside_a_running_event_loop_and_in_its_threads(store: Store, model: Path, tmp_path: Path) -> None:
    async def work() -> None:
        repository = store.repository("team/model")
        repository.push(model, message="Two")
        await asyncio.gather(
            *(asyncio.to_thread(repository.pull, "main", tmp_path / f"pulled{number}") for number in range(4)),
            asyncio.to_thread(repository.push, model, message="Three", branch="other"),
        )

    asyncio.run(work())
    for number in range(4):
        assert contents(tmp_path / f"pulled{number}") == contents(model)
    assert len(store.repository("team/model").log("other")) == 3


def test_a_typed_program_checks_strictly_and_runs(scene: Scene, model: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(EXAMPLE)
    assert (Path(skyhold.__file__).parent / "py.typed").exists()
    arguments = [sys.executable, str(program), str(model), str(tmp_path / "pulled"), *scene.clouds()]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "pulled") == contents(model)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert checked.returncode == 0, checked.stdout
