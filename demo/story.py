"""The steps of the demo: three clouds, two families of models, four failures, one proof."""

from __future__ import annotations

import math
import re
import shutil
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models import ModelVersion, check_same_predictions
from shell import Answer, DemoShell, show

from skyhold.units import format_bytes

CLOUDS: Final = ("amazon", "google", "azure")
DIGITS: Final = "digits/reader"
ENCODER: Final = "search/encoder"
FINDER: Final = "search/finder"
STEPS: Final = 10
PROGRESS_EVERY_S: Final = 5.0
FLIPPED_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push as it was measured: `model_bytes` on disk, `grown_bytes` of the first cloud's folder."""

    reference: str
    version: ModelVersion
    model_bytes: int
    grown_bytes: int
    how: str
    elapsed_s: float


@dataclass
class Story:
    """What has happened so far: the steps share the shell and the list of pushes."""

    shell: DemoShell
    pushes: list[Pushed] = field(default_factory=list)
    waiting: list[ModelVersion] = field(default_factory=list)
    step: int = 0

    def begin(self) -> None:
        """Make a store of three clouds."""
        self._step("Make one store of three clouds")
        show("Folders stand in for them; the same commands take s3://, gs:// and az:// addresses.")
        show("$ cd demo-output")
        for name, value in self.shell.variables.items():
            show(f"$ export {name}={value}")
        self.shell.skyhold("init", *(f"clouds/{cloud}" for cloud in CLOUDS))

    def keep_classifiers(self, versions: list[ModelVersion]) -> None:
        """Push the classifiers but the last, which is pushed while a cloud is unreachable."""
        self._step("Keep every version of a model: scikit-learn classifiers, trained just now")
        *early, last = versions
        self.waiting.append(last)
        for version in early:
            self._push(DIGITS, version)
        self.shell.skyhold("log", DIGITS)
        self.shell.skyhold("diff", f"{DIGITS}@main~1", f"{DIGITS}@main")

    def promote_and_roll_back(self) -> None:
        """Move the alias `champion`, and take the move back."""
        self._step("Put one to work, move on, and take it back")
        self.shell.skyhold("ref", "set", DIGITS, "alias/champion=main~1", "--reason", "Best on held-out digits")
        self.shell.skyhold("ref", "set", DIGITS, "alias/champion=main", "--reason", "Answers faster")
        self.shell.skyhold("rollback", f"{DIGITS}@champion", "--reason", "Reads too many digits wrong")
        self.shell.skyhold("ref", "history", f"{DIGITS}@champion")
        self.shell.skyhold("show", f"{DIGITS}@champion")
        self.shell.skyhold("search", "accuracy>0.96")

    def keep_network(self, training: Future[list[ModelVersion]]) -> None:
        """Push the network, and its fine-tunes as differences to it."""
        self._step("Keep a network and its fine-tunes: MiniLM, 22.7 million weights, tuned just now")
        published, *tunes = _await(training)
        self._push(ENCODER, published, "--tag", "v1")
        for tune in tunes:
            self._push(FINDER, tune, "--base", f"{ENCODER}@v1")
        self.shell.skyhold("diff", f"{ENCODER}@v1", f"{FINDER}@main~1", lines=12)
        self.shell.skyhold("pull", f"{ENCODER}@v1", "one-tensor", "--tensor", "encoder.layer.0.output.dense.weight")

    def lose_a_cloud(self) -> None:
        """Take a cloud away; push and pull go on."""
        self._step("Lose a cloud, and go on")
        show("$ mv clouds/google clouds/google-is-gone")
        self._cloud("google").rename(self._cloud("google-is-gone"))
        self._push(DIGITS, self.waiting.pop(), "--alias", "champion")
        self.shell.skyhold("pull", f"{DIGITS}@champion", "pulled/while-google-is-gone")
        self.shell.skyhold("status")

    def bring_it_back_empty(self) -> None:
        """The cloud returns with nothing in it and is filled from the others."""
        self._step("It comes back with nothing in it: fill it from the others")
        show("$ rm -r clouds/google-is-gone; mkdir clouds/google")
        shutil.rmtree(self._cloud("google-is-gone"))
        self._cloud("google").mkdir()
        self.shell.skyhold("repair")
        self.shell.skyhold("verify")

    def damage_a_pack(self) -> None:
        """Flip bytes in the largest object of a cloud; a deep verification finds it and `repair` replaces it."""
        self._step("Bytes rot in one cloud: find them, mend them")
        pack = max(self._cloud("azure").glob("packs/*/*"), key=lambda path: path.stat().st_size)
        middle = pack.stat().st_size // 2
        with pack.open("r+b") as stream:
            stream.seek(middle)
            taken = stream.read(FLIPPED_BYTES)
            stream.seek(middle)
            stream.write(bytes(byte ^ 0xFF for byte in taken))
        show(f"(flipped {FLIPPED_BYTES} bytes in the middle of {pack.relative_to(self.shell.folder)})")
        self.shell.skyhold("verify", "--deep", status=10)
        self.shell.skyhold("repair")
        self.shell.skyhold("verify", "--deep")

    def lose_the_machine(self) -> None:
        """Delete the state of this machine; one bucket's address is enough to continue."""
        self._step("Lose the machine: go on from the address of one cloud")
        show("$ rm -r machine")
        shutil.rmtree(self.shell.folder / "machine")
        self.shell.skyhold("connect", "clouds/azure")
        self.shell.skyhold("store", "voters", "show")
        self.shell.skyhold("ref", "history", f"{DIGITS}@champion")

    def prove(self) -> None:
        """Pull every version anew and compare what the models answer, to the last bit."""
        self._step("Pull every version, and ask each model what it answered before")
        for push in self.pushes:
            target = Path("pulled") / push.version.label
            self.shell.skyhold("pull", push.reference, str(target), "--quiet")
            answers = check_same_predictions(push.version.path, self.shell.folder / target)
            show(f"  {answers} answers of {push.version.label}, all equal to the last bit")
        self.shell.skyhold("verify", "--deep")
        self.shell.skyhold("status")

    def sum_up(self, elapsed_s: float) -> None:
        """What was kept, what it took, and what to try next."""
        show("\nIn sum (measured: the folders of the models, and the growth of the first cloud)\n")
        show(f"  {'version':<14}{'model':>10}{'stored':>11}{'saved':>8}{'push':>8}   how")
        for push in self.pushes:
            show(
                f"  {push.version.label:<14}{format_bytes(push.model_bytes):>10}{format_bytes(push.grown_bytes):>11}"
                f"{_saved(push.model_bytes, push.grown_bytes):>8}{push.elapsed_s:>6.1f} s   {push.how}"
            )
        models, held = sum(push.model_bytes for push in self.pushes), _tree_bytes(self._cloud(CLOUDS[0]))
        total = f"{len(self.pushes)} versions"
        show(f"  {total:<14}{format_bytes(models):>10}{format_bytes(held):>11}{_saved(models, held):>8}\n")
        held_each = (f"{cloud} {format_bytes(_tree_bytes(self._cloud(cloud)))}" for cloud in CLOUDS)
        show(f"  in each cloud: {', '.join(held_each)}")
        show(f"  in all: {elapsed_s:.0f} s, training included\n")
        show(NEXT)

    def _push(self, repository: str, version: ModelVersion, *more: str) -> None:
        """Push a version with all its metadata."""
        first = self._cloud(CLOUDS[0])
        before = _tree_bytes(first)
        answer = self.shell.skyhold(
            *("push", repository, str(version.path.relative_to(self.shell.folder)), "-m", version.message),
            *(part for name, value in version.metrics.items() for part in ("--metric", f"{name}={value}")),
            *(part for name, value in version.parameters.items() for part in ("--param", f"{name}={value}")),
            *more,
        )
        pushed = _pushed_id(answer)
        self.pushes.append(
            Pushed(
                reference=f"{repository}@{pushed}",
                version=version,
                model_bytes=_tree_bytes(version.path),
                grown_bytes=_tree_bytes(first) - before,
                how=", ".join(" ".join(words) for words in re.findall(r"(deduplicated|as deltas) +(.+)", answer.text)),
                elapsed_s=answer.elapsed_s,
            )
        )

    def _cloud(self, name: str) -> Path:
        return self.shell.folder / "clouds" / name

    def _step(self, title: str) -> None:
        self.step += 1
        show(f"\n[{self.step}/{STEPS}] {title}\n")


NEXT: Final = """What to try next

  cd demo-output; export SKYHOLD_STORE=clouds/amazon SKYHOLD_STATE=machine/state SKYHOLD_CACHE=machine/cache
  skyhold show search/finder@main            everything about one version
  skyhold search 'accuracy>0.95'             find versions by their properties
  skyhold doctor                             examine this machine's set-up
  make demo-read                             restore all of it with a reader that knows docs/format.md alone

  skyhold init 's3://models/skyhold?region=eu-central-1' gs://models-eu/skyhold az://account/models
  docs/tutorial.md                           from nothing to a rollback, then over three clouds"""


def _await(training: Future[list[ModelVersion]]) -> list[ModelVersion]:
    """The trained versions; reports now and then that they are not ready yet."""
    began_s = time.monotonic()
    while True:
        try:
            return training.result(timeout=PROGRESS_EVERY_S)
        except NotYet:
            if training.done():  # the training itself timed out
                raise
            show(f"  training … {time.monotonic() - began_s:.0f} s")


def _pushed_id(answer: Answer) -> str:
    """The short id in the first line that a push prints."""
    found = re.search(r"version ([0-9a-f]{10})\b", answer.text)
    if found is None:
        raise ValueError(f"No version in what push printed:\n{answer.text}")
    return found[1]


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _saved(model_bytes: int, stored_bytes: int) -> str:
    return f"{math.floor(100 * (1 - stored_bytes / model_bytes))} %"
