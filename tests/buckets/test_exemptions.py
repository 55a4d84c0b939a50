"""The exemptions hold for tests that exist, and nothing else skips; servers end with the process that started them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import servers
from tests.buckets.exemptions import EXEMPT

ROOT = Path(__file__).parents[2]
UNDECLARED = """
import pytest
from tests.buckets.conformance import BucketConformance
from tests.buckets.conftest import pytest_itemcollected, pytest_runtest_makereport

class TestLazy(BucketConformance):
    @pytest.fixture
    def location(self):
        pytest.skip("not today")
"""


@pytest.mark.parametrize("name", EXEMPT)
def test_exempted_test_exists(name: str) -> None:
    module, owner, test = name.split("::")
    found = importlib.import_module(f"tests.buckets.{module.removesuffix('.py')}")
    assert callable(getattr(getattr(found, owner), test))


def test_undeclared_skip_fails_and_a_declared_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(UNDECLARED.split("class", maxsplit=1)[0])
    (tmp_path / "test_lazy.py").write_text(UNDECLARED)
    files = (str(tmp_path / "test_lazy.py"), "tests/buckets/test_memory.py")
    only = ("-k", "(TestLazy and object_is_read_back_whole) or (TestMemory and gone_bucket)")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files, *only]
    environment = os.environ | {"SKYHOLD_REQUIRE_ALL": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "exemptions.py does not declare it" in run.stdout
    assert run.returncode == 1
    assert "1 skipped, " in run.stdout, "the declared one"


def test_missing_server_skips_and_names_what_brings_it_unless_all_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "PROGRAMS", tmp_path)
    monkeypatch.setenv("SKYHOLD_REQUIRE_ALL", "0")
    with pytest.raises(servers.MissingServer, match="run tools/servers/build"):
        servers.program("versitygw")
    monkeypatch.setenv("SKYHOLD_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="run tools/servers/build"):
        servers.program("versitygw")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_server_ends_when_the_process_that_started_it_is_killed() -> None:
    servers.program("versitygw")
    code = "import time; from tests import servers; print(servers.versitygw().port, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        assert servers.answers(port, tls=False)
        starter.send_signal(signal.SIGKILL)
    give_up_s = time.monotonic() + 30
    while servers.answers(port, tls=False):
        assert time.monotonic() < give_up_s, "the server outlives its starter"
        time.sleep(0.02)
