"""What is measured: each scenario runs the tools in turn (A B C A B C), never one tool's runs in a block.

Before every timed command the machine is brought to rest (`rest`). What the command reads (the files that are pushed
or the server's data) and the tool's own state are in the page cache. Every pull is compared with what was pushed, after
the clock has stopped.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from contestants import Contestant, Rclone, RcloneStreams, Restic, Skyhold
from gateway import Gateway, running_gateway
from link import SERVER_ADDRESS, shaped_link, why_not_possible
from measure import Command, Sample, run, total
from rest import bring_to_rest
from results import Results

Folders = Mapping[str, Path]
PULLED = ("base", "finetune")
"""The versions that are pulled: one stored whole, and one that Skyhold stores as differences to it."""


class MismatchError(RuntimeError):
    """A pull returned other files than were pushed."""


class Bench:
    """A run: the tools taking part, the folder for servers, states and targets, and how often to repeat."""

    def __init__(self, work: Path, tools: Sequence[str], rounds: int, results: Results):
        self.work = work
        self.tools = tools
        self.rounds = rounds
        self.results = results
        self._states = 0

    def contestants(
        self, kinds: Sequence[type[Contestant]], gateways: Sequence[Gateway], prefix: Sequence[str] = ()
    ) -> list[Contestant]:
        """The tools with an empty store each, prepared."""
        made = []
        for kind in (kind for kind in kinds if kind.name.partition(",")[0] in self.tools):
            self._states += 1
            bucket = f"bench-{kind.name.partition(',')[0]}{self._states}"
            endpoints = [gateway.make_bucket(bucket) for gateway in gateways]
            contestant = kind(endpoints, self.work / f"state-{self._states}", prefix)
            for command in contestant.preparations():
                run(command)
            made.append(contestant)
        return made

    def retire(self, contestants: Sequence[Contestant], gateways: Sequence[Gateway]) -> None:
        """Free the disk that the tools' stores took."""
        for contestant in contestants:
            for gateway, endpoint in zip(gateways, contestant.endpoints, strict=True):
                gateway.drop_bucket(endpoint.bucket)
            shutil.rmtree(contestant.state)

    def timed(
        self, group: str, row: str, contestant: Contestant, commands: Sequence[Command], read: Sequence[Path]
    ) -> Sample:
        """Run commands, which read these folders, as one row's sample."""
        bring_to_rest([contestant.state, *read], self.work)
        sample = total([run(command) for command in commands])
        self.results.add(group, row, contestant.name, sample)
        print(f"  {group:8} {row:28} {contestant.name:18} {sample.wall_s:7.2f} s", file=sys.stderr, flush=True)
        return sample

    def timed_pull(
        self, group: str, row: str, contestant: Contestant, gateway: Gateway, source: Path,
        command: Callable[[Path], Command],
    ) -> None:  # fmt: skip
        """Pull from a server into a new folder as one row's sample, then compare every byte."""
        target = self.work / "pulled"
        target.mkdir()
        try:
            self.timed(group, row, contestant, [command(target)], [gateway.folder_of(contestant.endpoints[0])])
            check_same_files(source, contestant.pulled_folder(source, target))
        finally:
            shutil.rmtree(target)


def push_family(bench: Bench, folders: Folders) -> None:
    """Push all versions in turn, a new store each round."""
    bench.results.raw_bytes["family"] = sum(map(folder_bytes, folders.values()))
    with running_gateway(bench.work / "family") as gateway:
        for _ in range(bench.rounds):
            contestants = bench.contestants([Skyhold, Restic, Rclone], [gateway])
            spent: dict[str, list[Sample]] = {contestant.name: [] for contestant in contestants}
            server_s = dict.fromkeys(spent, 0.0)
            for label, folder in folders.items():
                for contestant in contestants:
                    before_s = gateway.cpu_s()
                    sample = bench.timed(
                        "family", f"push {label}", contestant, contestant.push(label, folder), [folder]
                    )
                    server_s[contestant.name] += gateway.cpu_s() - before_s
                    spent[contestant.name].append(sample)
            for contestant in contestants:
                bench.results.add("family", "push, whole family", contestant.name, total(spent[contestant.name]))
                bench.results.add_server_cpu("family", contestant.name, server_s[contestant.name])
                stored = gateway.stored_bytes(contestant.endpoints[0].bucket)
                bench.results.add_stored("family", contestant.name, stored)
            bench.retire(contestants, [gateway])


def pull_versions(bench: Bench, folders: Folders) -> None:
    """Pull a version stored whole and a fine-tune, each time with empty caches; ours also with the base cached."""
    bench.results.raw_bytes["pull"] = folder_bytes(folders[PULLED[0]])
    with running_gateway(bench.work / "pull") as gateway:
        contestants = bench.contestants([Skyhold, Restic, Rclone, RcloneStreams], [gateway])
        for label in PULLED:
            for contestant in contestants:
                for command in contestant.push(label, folders[label]):
                    run(command)
        for _ in range(bench.rounds):
            pull_round(bench, "pull", contestants, gateway, folders)


def pull_round(bench: Bench, group: str, contestants: Sequence[Contestant], gateway: Gateway, folders: Folders) -> None:
    """Every tool pulls every version once. The base last, so that ours then has it in its cache."""
    for label in reversed(PULLED):
        for contestant in contestants:
            pull = partial(contestant.pull, label)
            bench.timed_pull(group, f"pull {label}", contestant, gateway, folders[label], pull)
    for contestant in contestants:
        if isinstance(contestant, Skyhold):
            pull = partial(contestant.pull_with_cache, "finetune")
            bench.timed_pull(group, "pull finetune, base cached", contestant, gateway, folders["finetune"], pull)


def over_shaped_link(bench: Bench, folders: Folders) -> None:
    """Push and pull with the server behind a link of 1 Gb/s."""
    if reason := why_not_possible():
        bench.results.notes.append(f"The table of the 1 Gb/s link was skipped: {reason}.")
        return
    bench.results.raw_bytes["shaped"] = folder_bytes(folders[PULLED[0]])
    with shaped_link("1gbit") as link:
        rate = link.measured_bits_per_s()
        bench.results.notes.append(f"The shaped link gave one plain TCP connection {rate / 1e9:.2f} Gb/s.")
        with running_gateway(bench.work / "shaped", SERVER_ADDRESS, 9701, link.server_prefix) as gateway:
            for _ in range(bench.rounds):
                contestants = bench.contestants([Skyhold, Rclone], [gateway], link.client_prefix)
                for label in PULLED:
                    for contestant in contestants:
                        push = contestant.push(label, folders[label])
                        bench.timed("shaped", f"push {label}", contestant, push, [folders[label]])
                pull_round(bench, "shaped", contestants, gateway, folders)
                bench.retire(contestants, [gateway])


def to_three_buckets(bench: Bench, folders: Folders) -> None:
    """Push one version so that three servers have it: ours at once, rclone one after another."""
    bench.results.raw_bytes["three"] = folder_bytes(folders["base"])
    with ExitStack() as stack:
        gateways = [stack.enter_context(running_gateway(bench.work / f"three-{number}")) for number in range(3)]
        for _ in range(bench.rounds):
            contestants = bench.contestants([Skyhold, Rclone], gateways)
            for contestant in contestants:
                commands = contestant.push("base", folders["base"])
                bench.timed("three", "push base to all three", contestant, commands, [folders["base"]])
                stored = [
                    gateway.stored_bytes(endpoint.bucket)
                    for gateway, endpoint in zip(gateways, contestant.endpoints, strict=True)
                ]
                if min(stored) < 0.95 * max(stored):
                    raise MismatchError(f"{contestant.name} has not filled all three buckets: {stored} bytes")
                bench.results.add_stored("three", contestant.name, sum(stored))
            bench.retire(contestants, gateways)


def real_weights(bench: Bench, folders: Folders) -> None:
    """Push and pull a real network and fine-tunes of it."""
    bench.results.raw_bytes["real"] = sum(map(folder_bytes, folders.values()))
    with running_gateway(bench.work / "real") as gateway:
        for _ in range(bench.rounds):
            contestants = bench.contestants([Skyhold, Restic, Rclone], [gateway])
            for label, folder in folders.items():
                for contestant in contestants:
                    bench.timed("real", f"push {label}", contestant, contestant.push(label, folder), [folder])
            for label, folder in folders.items():
                for contestant in contestants:
                    pull = partial(contestant.pull, label)
                    bench.timed_pull("real", f"pull {label}", contestant, gateway, folder, pull)
            for contestant in contestants:
                stored = gateway.stored_bytes(contestant.endpoints[0].bucket)
                bench.results.add_stored("real", contestant.name, stored)
            bench.retire(contestants, [gateway])


def regular_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it, sorted."""
    return iter(sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()))


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder."""
    return sum((folder / name).stat().st_size for name in regular_files(folder))


def check_same_files(expected: Path, actual: Path) -> None:
    """Raise `MismatchError` unless both folders hold the same files with the same bytes."""
    names, pulled = list(regular_files(expected)), list(regular_files(actual))
    if names != pulled:
        raise MismatchError(f"Expected the files {[*map(str, names)]} in {actual} but found {[*map(str, pulled)]}")
    for name in names:
        with (expected / name).open("rb") as ours, (actual / name).open("rb") as theirs:
            if hashlib.file_digest(ours, "sha256").digest() != hashlib.file_digest(theirs, "sha256").digest():
                raise MismatchError(f"{actual / name} differs from {expected / name}")
