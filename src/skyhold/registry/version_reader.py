"""One version of a repository, to read it: as files in a folder, as an open file, tensor by tensor, or as a record."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable
from skyhold.registry import validate
from skyhold.registry.arguments import PullArguments
from skyhold.registry.by_digest import OpenVersion, with_version
from skyhold.registry.names import parse_reference
from skyhold.registry.reading import (
    place_of,
    read_model_card,
    reading,
)
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.tensors import TensorSummary, TensorView, view_tensors
from skyhold.registry.version import VersionFile
from skyhold.registry.views import AttachedView, PullPlan, PullResult, Version
from skyhold.storage.blob_cache import VersionPlace
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.file_stream import open_stream
from skyhold.storage.named_tensors import find_tensor
from skyhold.storage.progress import Progress
from skyhold.storage.version_files import StoredFile
from skyhold.store.connection import Connection
from skyhold.store.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyhold.storage.tensor_values import TensorValues

T = TypeVar("T")


class VersionReader:
    """A repository, to read one of its versions. Every method opens what it needs and closes it again."""

    def __init__(
        self,
        connection: Connection,
        repository_id: str,
        name: str,
        *,
        create: bool = False,
        unresolved: SkyholdError | None = None,
    ) -> None:
        """`unresolved` is the error where the name cannot be resolved now; the repository id is then unknown. Every
        method raises it, except for versions by their full digest."""
        self._connection = connection
        self._create = create
        self._unresolved = unresolved
        self.id = repository_id
        self.name = name

    def __repr__(self) -> str:
        return f"Repository({self.name!r})"

    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: Literal[False] = ..., **options: Unpack[PullArguments],
    ) -> PullResult: ...  # fmt: skip
    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: Literal[True], **options: Unpack[PullArguments],
    ) -> PullPlan: ...  # fmt: skip
    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: bool, **options: Unpack[PullArguments],
    ) -> PullResult | PullPlan: ...  # fmt: skip
    def pull(
        self,
        reference: str = "main",
        destination: str | Path = ".",
        *,
        include: Sequence[str] = (),
        tensors: Sequence[str] = (),
        dry_run: bool = False,
        force: bool = False,
        allow_unsafe_names: bool = False,
        place: VersionPlace | None = None,
        max_age_s: float | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> PullResult | PullPlan:
        """Restore a version, or the files that match one of the globs in `include`, into a folder.

        With `tensors` (names or globs) only these are fetched, into `tensors.safetensors`, each as the library of its
        format returns it; the array of a `.npy` file has the name of the file. What safetensors cannot hold is left
        out, or refused where its name was given. Every byte is checked before a file appears under its name. A
        `dry_run` fetches and writes nothing, and reports what would come from where.

        A file that is there with other content is replaced where some version of the repository has that content;
        otherwise nothing is done and `Conflict`, code `target_edited`, names it, unless `force`. Files whose names
        control other programs are not written, unless `allow_unsafe_names`; the result names them in `left_out`. Raises
        `NotFound` where a glob matches nothing, and `InvalidInput` where another file or folder obstructs a file.

        A version that is named by its full digest is read from the cache of this machine, or from any bucket that has
        it, without a majority: with a `place` (see `place`) also where no voter answers.
        """
        from skyhold.registry.pulling import Pulling, PullRequest, pull_version, stored_with  # loads what decodes

        request = PullRequest(
            validate.path(destination, "the destination"),
            validate.texts(include, "include"),
            validate.texts(tensors, "tensors"),
            dry_run,
            force,
            allow_unsafe_names,
        )

        def pull(opened: OpenVersion) -> PullResult | PullPlan:
            pulling = Pulling(self.name, opened.digest, opened.version, opened.space, stored_with(opened))
            return replace(pull_version(pulling, request, watching), found_by=opened.found_by)

        with cancelled_by(validate.cancel(cancel), progress) as watching:
            return self._with_version(
                reference, pull, cached_first=True, keep=not dry_run, at=place, max_age_s=max_age_s
            )

    def place(self, reference: str = "main") -> VersionPlace:
        """Where the blobs of a version are, for a later pull of its digest that needs no majority."""
        with self._reading() as (_, snapshot):
            return place_of(snapshot, self._resolve(snapshot, reference))

    def show(self, reference: str = "main", *, max_age_s: float | None = None) -> Version:
        """A version with its files, parameters, lineage, metrics, notes, refs and model card. For one that was found in
        this machine's cache, what was attached to it and which refs point to it are not read."""

        def show(opened: OpenVersion) -> Version:
            snapshot, digest, version, document = opened.snapshot, opened.digest, opened.version, opened.document
            refs = () if snapshot is None else snapshot.refs()
            tensor_count, model_card = None, None
            # A pull of whole files reads no names of tensors, so they may not be in the cache.
            with suppress(*((Corrupt, NotFound, Unavailable) if opened.found_by == "cache" else ())):
                tensor_count = sum(len(tensors) for tensors in version.tensors.values())
                model_card = read_model_card(version, opened.space)
            return Version(
                repository=self.name,
                digest=digest,
                found_by=opened.found_by,
                message=document.message,
                author=document.author,
                time=document.time,
                parents=document.parents,
                files=document.files,
                size_bytes=sum(file.size_bytes for file in version.files),
                tensor_count=tensor_count,
                parameters=document.parameters,
                metadata=document.metadata,
                lineage=document.lineage,
                attached=tuple(map(AttachedView.of, () if snapshot is None else snapshot.attached(digest))),
                refs=tuple(str(state.ref) for state in refs if state.version == digest),
                model_card=model_card,
            )

        return self._with_version(reference, show, cached_first=False, max_age_s=max_age_s)

    def files(self, reference: str = "main", *, max_age_s: float | None = None) -> tuple[VersionFile, ...]:
        """The files of a version, by path, with size and digests. No content is fetched."""
        return self._with_version(
            reference, lambda opened: opened.document.files, cached_first=False, max_age_s=max_age_s
        )

    def tensors(self, reference: str = "main", *, max_age_s: float | None = None) -> tuple[TensorView, ...]:
        """The tensors of a version, by file and position: name, type, shape, file and size. No weights are fetched."""
        return self._with_version(
            reference, lambda opened: view_tensors(opened.version), cached_first=False, max_age_s=max_age_s
        )

    def open(self, reference: str, path: str, *, max_age_s: float | None = None) -> io.BufferedReader:
        """A file of a version, open for reading and seeking; it stays that of this version. Only what is read is
        fetched, from the cache or the buckets, and each chunk is checked. Read from the beginning to the end, the whole
        is checked against its SHA-256 too. Close it, before the store.

        Reads raise `Corrupt` and `Unavailable`; this raises `NotFound` code `file_not_found` as well.
        """
        wanted = validate.text(path, "the path of a file")

        def open_(opened: OpenVersion) -> io.BufferedReader:
            version = opened.version
            file = StoredFile(version, version.index_of(wanted), ChunkReader(opened.space))
            return open_stream(file, opened.resources.pop_all())

        return self._with_version(reference, open_, cached_first=True, max_age_s=max_age_s)

    def read_tensor(
        self, reference: str, name: str, *, file: str | None = None, max_age_s: float | None = None
    ) -> NDArray[Any]:
        """A tensor of a version as an array of NumPy; `file` is the path of its file, where several have the name. Only
        its own chunks are fetched, and each is checked.

        Its type is NumPy's own for the stored one, in the byte order of this machine. Types that NumPy lacks, `BF16`
        and 8-bit floats, are returned as float32, which holds each of their values exactly. An array that was stored in
        Fortran order is returned in that. Raises `NotFound` code `tensor_not_found`, and `InvalidInput`:
        `tensor_ambiguous`, and `tensor_type` for packed and block-quantised types.
        """
        return self._with_tensor(reference, name, file, lambda _, values: values.array(), max_age_s)

    def summarize_tensor(
        self,
        reference: str,
        name: str,
        *,
        file: str | None = None,
        first: int = 8,
        npy: str | Path | None = None,
        max_age_s: float | None = None,
    ) -> TensorSummary:
        """A summary of the values of a tensor, in bounded memory, with the `first` of them. With `npy` they are also
        written to a new file of NumPy's format. Raises as `read_tensor`, and `AlreadyExists` code `file_exists`."""
        count = validate.count(first, "first", least=0)
        target = None if npy is None else validate.path(npy, "the file to write")

        def summarize_(view: TensorView, values: TensorValues) -> TensorSummary:
            from skyhold.registry.tensors import summarize

            if target is None:
                return summarize(view, values, first=count)
            from skyhold.storage.npy_file import npy_file

            with npy_file(target, values) as keep:
                return summarize(view, values, first=count, keep=keep)

        return self._with_tensor(reference, name, file, summarize_, max_age_s)

    def _with_tensor(
        self,
        reference: str,
        name: str,
        file: str | None,
        use: Callable[[TensorView, TensorValues], T],
        max_age_s: float | None,
    ) -> T:
        from skyhold.storage.tensor_values import TensorValues  # loads NumPy

        wanted = validate.text(name, "the name of a tensor", long=True)
        path = None if file is None else validate.text(file, "the path of a file")

        def with_(opened: OpenVersion) -> T:
            named = find_tensor(opened.version, wanted, path)
            stored = StoredFile(opened.version, named.file, ChunkReader(opened.space))
            return use(TensorView.of(opened.version, named), TensorValues(stored, named))

        return self._with_version(reference, with_, cached_first=True, max_age_s=max_age_s)

    @contextmanager
    def _reading(self, max_age_s: float | None = None) -> Iterator[tuple[Session, Snapshot]]:
        if self._unresolved is not None:
            raise self._unresolved
        with self._connection.within(validate.age_s(max_age_s)) as connection, reading(connection, self.id) as found:
            yield found

    def _register(self, session: Session) -> RepositoryRegister:
        return Repositories(session.registers, session.blobs).repository(self.id)

    def _with_version(
        self,
        reference: str,
        use: Callable[[OpenVersion], T],
        *,
        cached_first: bool,
        keep: bool = True,
        at: VersionPlace | None = None,
        max_age_s: float | None = None,
    ) -> T:
        id_ = None if self._unresolved else self.id
        text = validate.text(reference, "a reference")
        with self._connection.within(validate.age_s(max_age_s)) as connection:
            return with_version(connection, self.name, id_, text, use, cached_first=cached_first, keep=keep, place=at)

    def _resolve(self, snapshot: Snapshot, reference: str) -> str:
        parsed = parse_reference(f"{self.name}@{validate.text(reference, 'a reference')}")
        return snapshot.resolve(parsed.ref or "main", parsed.ancestor)
