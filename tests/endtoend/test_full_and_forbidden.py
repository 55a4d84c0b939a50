"""Disks that are full and folders without access: a clear error with its exit status, nothing lost, and the same
command succeeds once the cause is gone."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import skyhold
from skyhold.cli.main import main
from tests.cli.models import contents, write_model
from tests.cli.running import Run
from tests.endtoend.killing import in_child
from tests.endtoend.machines import CLOUDS, Scene

OTHER_USER = 65534
OF_CLOUDS = tuple(f"skyhold.buckets.{name}" for name in ("azure", "google", "s3"))
DISK_BYTES = 8 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk or become another user")


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported() -> None:
    """Another user may not be able to read the folder of the modules."""
    for module in pkgutil.walk_packages(skyhold.__path__, "skyhold."):
        if not module.name.endswith("__main__") and not module.name.startswith(OF_CLOUDS):
            importlib.import_module(module.name)


@dataclass(frozen=True)
class Shop:
    """A scene with a store of one version, worked with through the command line."""

    scene: Scene
    model: Path
    target: Path

    def __call__(self, *arguments: object, status: int = 0, user: int | None = None) -> Run:
        """Run a command in a process of its own, perhaps as another user, and check how it ends."""
        out, err = self.scene.place / "out.txt", self.scene.place / "err.txt"

        def command() -> int:
            sys.stdout, sys.stderr = out.open("w"), err.open("w")
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stderr.fileno(), 2)
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            os.chdir(self.scene.place)
            status = main([str(argument) for argument in arguments])
            sys.stdout.flush()
            sys.stderr.flush()
            return status

        ended = Run(in_child(command).result, out.read_text(), err.read_text())
        assert ended.status == status, f"{arguments}: status {ended.status}\n{ended.out}\n{ended.err}"
        assert "Traceback" not in ended.err
        if status:
            assert "error: " in ended.err, ended.err
        return ended

    def push(self, status: int = 0, user: int | None = None) -> Run:
        return self("push", "fraud/scorer", self.model, "-m", "Two", "--alias", "champion", status=status, user=user)

    def pull(self, status: int = 0, user: int | None = None) -> Run:
        return self("pull", "fraud/scorer@champion", self.target, status=status, user=user)

    def whole(self) -> bool:
        """Whether `champion` is the model of the last push, and the store is sound."""
        self.pull()
        self("sync")
        self("verify", "--deep")
        return contents(self.target) == contents(self.model)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Not below pytest's folder, which every pytest that starts closes to others anew."""
    root = Path(tempfile.mkdtemp(prefix="skyhold-shop-"))
    root.chmod(0o755)
    scene = Scene(root / "scene")
    scene.place.mkdir()
    with scene.machine.at_work():
        with skyhold.init(scene.clouds()) as store:
            old = write_model(root / "old", rows=64)
            store.repository("fraud/scorer", create=True).push(old, message="One", aliases=["champion"])
        monkeypatch.setenv("SKYHOLD_STORE", scene.clouds()[0])
        yield Shop(scene, write_model(root / "model", rows=1024, seed=3), scene.place / "target")
    shutil.rmtree(root)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Move a folder onto a small disk of its own, which is full; what is yielded frees it."""
    folder.mkdir(exist_ok=True)
    aside = folder.with_name(f"{folder.name}-aside")
    subprocess.run(["cp", "-a", folder, aside], check=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode()}")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", folder], check=True)
        ballast = folder / ".ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        yield ballast.unlink
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], None]]:
    """Mount a folder onto itself, read-only as the kernel means it: also for root. What is yielded opens it again."""
    mount = ["mount", "--bind", folder, folder]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")

    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{mode}", folder], check=True)

    try:
        remount("ro")
        yield lambda: remount("rw")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@needs_root
def test_cloud_mounted_read_only_lags_is_named_and_is_filled_later(shop: Shop) -> None:
    before = contents(shop.scene.cloud("b"))
    with read_only(shop.scene.cloud("b")) as open_again:
        with pytest.raises(OSError, match="Read-only file system"):
            (shop.scene.cloud("b") / "mine").write_text("x")
        run = shop.push()
        assert "lagging: b" in run.out
        assert contents(shop.scene.cloud("b")) == before
        assert " b  " in shop("verify", status=10).out
        refused = shop("sync", status=10)
        assert "Not mended:" in refused.out
        assert "read-only" in refused.out.lower()
        shop.pull()
        assert contents(shop.target) == contents(shop.model)
        open_again()
        assert shop.whole()
        assert contents(shop.scene.cloud("b")).keys() > before.keys()


@needs_root
def test_clouds_mounted_read_only_refuse_a_push_that_succeeds_later(shop: Shop) -> None:
    before = contents(shop.scene.place / "clouds")
    with read_only(shop.scene.place / "clouds") as open_again:
        assert "read-only" in shop.push(status=6).err.lower()
        assert contents(shop.scene.place / "clouds") == before
        shop.pull()
        assert contents(shop.target) == contents(shop.scene.place.with_name("old"))
        open_again()
        shop.push()
        assert shop.whole()


@needs_root
def test_full_disks_of_all_clouds_refuse_a_push_that_succeeds_later(shop: Shop) -> None:
    (shop.scene.place / "clouds").chmod(0o700)
    before = {cloud: contents(shop.scene.cloud(cloud)) for cloud in CLOUDS}
    with small_disk(shop.scene.place / "clouds") as free:
        run = shop.push(status=7)
        assert "no space left" in run.err
        for cloud in CLOUDS:
            assert before[cloud].items() <= contents(shop.scene.cloud(cloud)).items()
        assert shop("log", "fraud/scorer").out.count("One") == 1
        free()
        shop.push()
        assert shop.whole()


@needs_root
def test_full_disk_of_one_cloud_makes_it_lag(shop: Shop) -> None:
    with small_disk(shop.scene.cloud("b")) as free:
        run = shop.push()
        assert "lagging: b" in run.out
        shop.pull()
        free()
        assert shop.whole()


@needs_root
def test_full_disk_of_the_state_folder_refuses_a_push_that_succeeds_later(shop: Shop) -> None:
    with small_disk(shop.scene.machine.folder / "state") as free:
        run = shop.push(status=7)
        assert "hint: " in run.err
        free()
        shop.push()
        assert shop.whole()


@needs_root
def test_full_disk_of_the_cache_is_not_noticed(shop: Shop) -> None:
    with small_disk(shop.scene.machine.folder / "cache"):
        shop.push()
        assert shop.whole()


@needs_root
def test_full_disk_of_the_target_refuses_a_pull_that_succeeds_later(shop: Shop) -> None:
    shop.push()
    with small_disk(shop.target) as free:
        run = shop.pull(status=7)
        assert "disk" in run.err or "space" in run.err
        assert [path for path in contents(shop.target) if path.endswith(".safetensors")] == []
        free()
        shop.pull()
        assert contents(shop.target) == contents(shop.model)


@pytest.fixture
def for_other_user(shop: Shop) -> Shop:
    """Everything of the scene belongs to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for path in (shop.scene.place, *shop.scene.place.rglob("*"), shop.model, *shop.model.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
    return shop


@pytest.mark.parametrize(
    ("closed", "command", "status", "named"),
    [
        ("clouds", "push", 6, "Bucket `a`"),
        ("machine/state", "push", 6, "machine/state"),
        ("machine/state/stores", "push", 6, "machine/state/stores"),
        ("machine/cache", "push", 0, ""),
        ("machine/cache", "pull", 0, ""),
        ("target", "pull", 6, "target"),
        ("../model/model.safetensors", "push", 2, "model.safetensors"),
        ("../model", "push", 6, "model"),
        ("skyhold.toml", "push", 6, "skyhold.toml"),
    ],
)
def test_closed_folder_or_file_is_named_and_the_command_succeeds_once_it_is_open(
    closed: str, command: str, status: int, named: str, for_other_user: Shop
) -> None:
    shop = for_other_user
    path = shop.scene.place / closed
    if closed in {"target", "machine/cache"}:
        path.mkdir(exist_ok=True)
    if closed == "skyhold.toml":
        path.write_text("")
    os.chown(path, OTHER_USER, OTHER_USER)
    if command == "pull":
        shop.push(user=OTHER_USER)
    mode = path.stat().st_mode
    path.chmod(0o000)
    run = getattr(shop, command)(status=status, user=OTHER_USER)
    assert named in run.err
    path.chmod(mode)
    getattr(shop, command)(user=OTHER_USER)
    shop.pull(user=OTHER_USER)
    assert contents(shop.target) == contents(shop.model)
    shop("sync", user=OTHER_USER)
    shop("verify", "--deep", user=OTHER_USER)


def test_one_cloud_that_is_closed_to_us_lags_and_reading_goes_on(for_other_user: Shop) -> None:
    shop = for_other_user
    shop.scene.cloud("a").chmod(0o000)
    assert "lagging: a" in shop.push(user=OTHER_USER).out
    shop.pull(user=OTHER_USER)
    assert contents(shop.target) == contents(shop.model)
    shop.scene.cloud("a").chmod(0o755)
    shop("sync", user=OTHER_USER)
    shop("verify", "--deep", user=OTHER_USER)
