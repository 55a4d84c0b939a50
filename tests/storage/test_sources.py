"""Sources that are no folder: archives, open files, bytes and arrays; also untrusted ones."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from skyhold.errors import Conflict, InvalidInput, NotFound, QuotaExceeded, SkyholdError, Unavailable
from skyhold.storage.sources import archive, member, spool, tar
from skyhold.storage.sources.open import open_source
from skyhold.storage.sources.port import Source, read_bytes, sha256_of
from skyhold.storage.tensor_files import find_tensors

KEY = b"skyhold-key-1:" + b"0" * 64
FILES = {"config.json": b"{}", "deep/weights.bin": bytes(range(256)) * 5000, "empty": b""}


def contents(source: Source) -> dict[str, bytes]:
    found = {}
    for file in source.files:
        opened = file.open()
        found[file.path] = read_bytes(opened, 0, file.size_bytes)
        opened.check_unchanged()
        opened.close()
    return found


def read(given: Any, **options: bool) -> dict[str, bytes]:
    with open_source(given, **options) as source:
        return contents(source)


def refused(given: Any, kind: type[SkyholdError] = InvalidInput) -> SkyholdError:
    with pytest.raises(kind) as error, open_source(given) as source:
        contents(source)
    return error.value


def reasons(given: Any) -> dict[str, str]:
    error = refused(given)
    assert error.code == "source_refused", error.message
    return {o["path"]: o["reason"] for o in error.fields["offenders"]}  # type: ignore[attr-defined]


def tar_of(
    files: Mapping[str, bytes],
    change: Callable[[tarfile.TarInfo], None] = lambda _: None,
    *,
    more: Iterable[tarfile.TarInfo] = (),
) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            made.addfile(info, io.BytesIO(data))
        for info in more:
            made.addfile(info)
    return body.getvalue()


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return body.getvalue()


ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "m.tar": tar_of,
    "m.tar.gz": lambda files: gzip.compress(tar_of(files)),
    "m.tgz": lambda files: gzip.compress(tar_of(files)[:1024]) + gzip.compress(tar_of(files)[1024:]),
    "m.tar.zst": lambda files: zstandard.ZstdCompressor(write_checksum=True).compress(tar_of(files)),
    "m.zip": zip_of,
    "M.ZIP": lambda files: zip_of(files, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_members_of_an_archive_are_the_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(ARCHIVES[name](FILES))
    assert read(path) == FILES
    assert read(io.BytesIO(path.read_bytes())) == FILES
    with open_source(path) as source:
        assert [file.path for file in source.files] == sorted(FILES)
        assert sha256_of(source.files[0]) == sha256_of(source.files[0])


def test_archive_that_cannot_be_sought_in_is_spooled() -> None:
    reading, writing = os.pipe()
    os.write(writing, tar_of({"a": b"1"}))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert read(pipe) == {"a": b"1"}


def test_file_that_is_called_an_archive_and_is_none_is_refused(tmp_path: Path) -> None:
    for name, body in {"a.tar": b"no tar" * 999, "b.zip": b"", "c.tar.gz": gzip.compress(b"x" * 999)}.items():
        (tmp_path / name).write_bytes(body)
        assert refused(tmp_path / name).code == "archive_damaged"


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz", "m.tar.zst", "m.zip"])
def test_archive_that_was_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    body = ARCHIVES[name]({"a": os.urandom(700), "b": os.urandom(700), "c": b"x"})
    for length in {*range(0, len(body) if "tar." in name or "zip" in name else 4608, 97)}:
        (tmp_path / name).write_bytes(body[:length])
        assert refused(tmp_path / name).code == "archive_damaged", length


@pytest.mark.parametrize("name", ["m.tar.gz", "m.tar.zst", "m.zip"])
def test_flipped_bytes_of_a_checked_archive_never_become_other_files(name: str, tmp_path: Path) -> None:
    files = {"a": os.urandom(700), "b": b"text" * 100}
    body = ARCHIVES[name](files)
    for at in range(0, len(body), 13):
        damaged = bytearray(body)
        damaged[at] ^= 0x55
        (tmp_path / name).write_bytes(damaged)
        try:
            found = read(tmp_path / name)
        except SkyholdError:
            continue
        assert set(found.values()) <= set(files.values()), at


def test_members_that_are_no_files_within_are_named_and_refused() -> None:
    more = [
        entry("device", tarfile.CHRTYPE), entry("disk", tarfile.BLKTYPE), entry("pipe", tarfile.FIFOTYPE),
        entry("out", tarfile.SYMTYPE, "/etc/passwd"), entry("up", tarfile.SYMTYPE, "../../x"),
        entry("hard", tarfile.LNKTYPE, "/etc/passwd"), entry("loop", tarfile.SYMTYPE, "loop"),
        entry("none", tarfile.SYMTYPE, "nothing"), entry("deep/out", tarfile.SYMTYPE, "../../y"),
    ]  # fmt: skip
    names = {"../escape": b"", "/etc/shadow": b"", "a/../b": b"", "back\\slash": b"", "new\nline": b"", "fine": b""}
    found = reasons(io.BytesIO(tar_of(names, more=more)))
    assert found == {
        "device": "a device",
        "disk": "a device",
        "pipe": "a named pipe",
        "out": "a link to /etc/passwd, outside the archive",
        "up": "a link to ../../x, outside the archive",
        "hard": "a link to /etc/passwd, outside the archive",
        "deep/out": "a link to ../y, outside the archive",
        "loop": "a link that leads nowhere",
        "none": "a link that leads to no file of the archive",
        "../escape": "its path has an empty part, `.` or `..`",
        "/etc/shadow": "its path has an empty part, `.` or `..`",
        "a/../b": "its path has an empty part, `.` or `..`",
        "back\\slash": "its name has a backslash or a control character",
        "'new\\nline'": "its name has a backslash or a control character",
    }


def test_links_to_members_are_followed() -> None:
    more = [
        entry("best.bin", tarfile.SYMTYPE, "deep/weights.bin"), entry("deep/hard", tarfile.LNKTYPE, "config.json"),
        entry("deep/up", tarfile.SYMTYPE, "../best.bin"),
    ]  # fmt: skip
    found = read(io.BytesIO(tar_of(FILES, more=more)))
    assert found["best.bin"] == found["deep/up"] == FILES["deep/weights.bin"]
    assert found["deep/hard"] == b"{}"


def test_link_in_a_zip_is_followed_within_and_refused_out_of_it() -> None:
    def with_link(target: str) -> io.BytesIO:
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as made:
            made.writestr("sub/real", b"12")
            info = zipfile.ZipInfo("sub/link")
            info.create_system, info.external_attr = 3, 0o120777 << 16
            made.writestr(info, target)
        body.seek(0)
        return body

    assert read(with_link("real")) == {"sub/real": b"12", "sub/link": b"12"}
    assert reasons(with_link("../../etc/passwd")) == {"sub/link": "a link to sub/../../etc/passwd, outside the archive"}


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_that_are_one_on_some_disk_are_refused(make: Callable[..., bytes]) -> None:
    collisions = reasons(io.BytesIO(make({"Model.bin": b"1", "model.bin": b"2", "a": b"", "a/b": b""})))
    assert set(collisions) == {"model.bin", "a/b"}
    assert set(reasons({"Config.json": b"1", "config.json": b"2"})) == {"config.json"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_an_archive_has_twice_is_refused() -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as made:
        for data in (b"1", b"2"):
            info = tarfile.TarInfo("model.bin")
            info.size = 1
            made.addfile(info, io.BytesIO(data))
    assert set(reasons(io.BytesIO(body.getvalue()))) == {"model.bin"}
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as zipped:
        zipped.writestr("model.bin", b"1")
        zipped.writestr("model.bin", b"2")
    body.seek(0)
    assert set(reasons(body)) == {"model.bin"}


def test_rules_of_folders_hold_for_archives() -> None:
    names = {
        "./m.bin": b"1", "./.git/config": b"", "x/__pycache__/y.pyc": b"", "logs/a": b"", "logs/keep": b"",
        ".skyholdignore": b"logs/\n!logs/keep\n", ".env": b"", "optimizer.pt": b"",
        "my.key": KEY, "part.skyhold-part": b"",
    }  # fmt: skip
    with open_source(io.BytesIO(tar_of(names)), without_optimizer=True) as source:
        assert [file.path for file in source.files] == ["m.bin"]
        assert set(source.ignored) == {".git/", "x/__pycache__/", "logs/", ".skyholdignore", "optimizer.pt"}
        assert set(source.left_out) == {".env", "my.key", "part.skyhold-part"}


def test_executable_bits_of_a_member_are_kept() -> None:
    def run(info: tarfile.TarInfo) -> None:
        info.mode = 0o755 if info.name == "run.sh" else 0o644

    with open_source(io.BytesIO(tar_of({"run.sh": b"", "a": b""}, run))) as source:
        assert {file.path: file.executable for file in source.files} == {"a": False, "run.sh": True}


def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "EXPANDED_BYTES_FREE", 1 << 20)
    appended = 0
    append = spool.Spool.append

    def counted(self: spool.Spool, pieces: Any, what: str) -> tuple[int, int]:
        nonlocal appended
        found = append(self, pieces, what)
        appended += found[1]
        return found

    monkeypatch.setattr(spool.Spool, "append", counted)
    bomb = {"zeros": bytes(8 << 20)}
    for name, body in {"m.tar.gz": gzip.compress(tar_of(bomb)), "m.zip": zip_of(bomb)}.items():
        (tmp_path / name).write_bytes(body)
        assert refused(tmp_path / name).code == "archive_too_large"
    assert appended == 0
    (tmp_path / "m.tar").write_bytes(tar_of(bomb))  # which is as large as it is
    assert read(tmp_path / "m.tar") == bomb


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_archive_of_too_many_members_is_refused_without_reading_all(
    make: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyhold.storage.sources.archive.MEMBERS_MAX", 50)
    monkeypatch.setattr("skyhold.storage.sources.zip.MEMBERS_MAX", 50)
    assert len(read(io.BytesIO(make({f"f{number}": b"" for number in range(50)})))) == 50
    assert refused(io.BytesIO(make({f"f{number}": b"" for number in range(51)}))).code == "too_many_files"
    assert member.MEMBERS_MAX == 200_000


def test_header_that_claims_to_be_long_is_not_read_into_memory() -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, tar.HEADER_BYTES_MAX + 1
    body = info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tar.HEADER_BYTES_MAX)
    assert "header" in refused(io.BytesIO(body)).message


def test_member_that_goes_on_past_the_end_is_refused() -> None:
    info = tarfile.TarInfo("model.bin")
    info.size = 1 << 40
    assert refused(io.BytesIO(info.tobuf() + bytes(4096))).code == "archive_damaged"


def test_encrypted_and_unreadable_members_of_a_zip_are_named() -> None:
    body = bytearray(zip_of({"secret": b"12"}, zipfile.ZIP_STORED))
    for at in (6, body.index(b"PK\x01\x02") + 8):
        body[at] |= 1
    assert reasons(io.BytesIO(body)) == {"secret": "it is encrypted"}
    strange = zip_of({"a": b"12" * 99}, zipfile.ZIP_LZMA)
    assert reasons(io.BytesIO(strange)) == {"a": "it is compressed in a way that is not read here"}


def test_archive_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.tar"
    path.write_bytes(tar_of(FILES))
    with open_source(path) as source:
        opened = source.files[0].open()
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(Conflict):
            opened.check_unchanged()


@given(st.dictionaries(st.text("abcé/. _", min_size=1, max_size=12), st.binary(max_size=99), min_size=1, max_size=5))
def test_archives_and_mappings_of_the_same_names_are_judged_alike(files: dict[str, bytes]) -> None:
    def outcome(given: Any) -> object:
        try:
            return read(given)
        except InvalidInput as error:
            return error.code

    plain = {name: data for name, data in files.items() if not name.startswith("./") and not name.endswith("/")}
    assert outcome(io.BytesIO(tar_of(plain))) == outcome(plain) or not plain


class Odd(io.RawIOBase):
    """An open file that returns one byte at a time, and whatever else it is made to do."""

    def __init__(self, data: bytes, *, seekable: bool = True, claimed: int | None = None) -> None:
        self.data, self.position, self.can_seek = data, 0, seekable
        self.claimed = len(data) if claimed is None else claimed

    def seekable(self) -> bool:
        return self.can_seek

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.claimed)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        data = self.data[self.position : self.position + 1]
        self.position += len(data)
        return data


@pytest.mark.parametrize("seekable", [True, False])
def test_open_file_of_short_reads_is_read_whole(seekable: bool) -> None:
    assert read({"a": Odd(b"12345", seekable=seekable), "b": b"6"}) == {"a": b"12345", "b": b"6"}


def test_open_file_is_read_from_where_it_is_and_stays_open() -> None:
    file = io.BytesIO(b"12345")
    file.seek(2)
    assert read({"a": file}) == {"a": b"345"}
    assert not file.closed


@pytest.mark.parametrize("claimed", [3, 9, 1 << 62])
def test_open_file_that_claims_another_size_is_refused(claimed: int) -> None:
    with pytest.raises(Conflict), open_source({"a": Odd(b"12345", claimed=claimed)}) as source:
        opened = source.files[0].open()
        opened.read_into(memoryview(bytearray(min(claimed, 99))), 0)
        opened.check_unchanged()


class Broken:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def read(self, size: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("text", InvalidInput), (b"x" * (2 << 20), InvalidInput), (None, Unavailable), (ValueError("closed"), Unavailable),
     (RuntimeError(), Unavailable), (3, InvalidInput)],
)  # fmt: skip
def test_open_file_that_returns_or_raises_anything_is_an_error_that_names_it(
    answer: object, kind: type[SkyholdError]
) -> None:
    assert "model.bin" in refused({"model.bin": Broken(answer)}, kind).message
    assert refused(io.StringIO("text")).code in {"archive_damaged", "invalid_source"}
    assert refused({"a": io.StringIO("text")}).code == "invalid_source"


def test_disk_that_is_full_while_a_stream_is_spooled_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", Full)
    assert "TMPDIR" in str(refused({"a": Odd(b"1", seekable=False)}, QuotaExceeded).hint)


def test_mapping_takes_bytes_paths_files_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a b")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read({
        "a": b"1", "b": bytearray(b"2"), "c": memoryview(b"34")[1:], "d": str(tmp_path / "vocab.txt"),
        "e/f": tmp_path / "vocab.txt", "g": io.BytesIO(b"5"), "m.safetensors": {"w": array},
    })  # fmt: skip
    np.testing.assert_array_equal(load(found.pop("m.safetensors"))["w"], array)
    assert found == {"a": b"1", "b": b"2", "c": b"4", "d": b"a b", "e/f": b"a b", "g": b"5"}


@pytest.mark.parametrize(
    ("content", "code"),
    [(3, "invalid_source"), (None, "invalid_source"), (np.zeros(3), "invalid_source"), ([1], "invalid_source")],
)
def test_content_that_is_none_is_refused_by_its_name(content: object, code: str) -> None:
    error = refused({"model.bin": content})
    assert (error.code, "model.bin" in error.message) == (code, True)


def test_names_and_paths_of_a_mapping_are_checked_as_those_of_a_folder(tmp_path: Path) -> None:
    assert set(reasons({"../a": b"", "/b": b"", "c\0": b"", "": b"", "fine": b""})) == {"../a", "/b", "'c\\x00'", ""}
    assert refused({}).code == "source_empty"
    assert refused({3: b""}).code == "invalid_source"
    assert refused({"a": tmp_path}).code == "invalid_source"
    assert refused({"a": tmp_path / "none"}, NotFound).code == "source_missing"
    assert refused({"a.bin": {"w": np.zeros(1)}}).code == "invalid_source"
    with open_source({".env": b"TOKEN", "my.key": KEY, "a": b""}) as source:
        assert set(source.left_out) == {".env", "my.key"}
    assert read({".env": b"TOKEN"}, allow_unsafe_names=True) == {".env": b"TOKEN"}


def test_arrays_make_the_same_file_in_whatever_order_and_layout() -> None:
    wide, byte = np.arange(12, dtype=np.float64).reshape(3, 4), np.array([1, 2, 3], np.uint8)
    one = read({"m.safetensors": {"wide": wide, "byte": byte}})
    other = read({"m.safetensors": {"byte": byte[::1], "wide": np.asfortranarray(wide.astype(">f8"))}})
    assert one == other
    assert load(one["m.safetensors"])["wide"].tolist() == wide.tolist()


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "complex64", "bool", "int64", "int32", "int16", "int8", "uint64", "uint32",
     "uint16", "uint8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 2), (2, 3)], ids=str)
def test_arrays_of_every_type_and_shape_become_tensors(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.ones(shape).astype(dtype)
    with open_source({"m.safetensors": {"layer.0 [weight]/é'\"\\": array}}) as source:
        ((tensor,),) = find_tensors(source.files).values()
        (data,) = contents(source).values()
    assert (tensor.name, tensor.shape) == ("layer.0 [weight]/é'\"\\", shape)
    assert data[tensor.start : tensor.end] == array.tobytes()


class Torch:
    """What PyTorch's tensors have in common, without PyTorch."""

    def __init__(self, values: np.ndarray[Any, Any], dtype: str) -> None:
        self.values, self.dtype, self.shape = values, dtype, values.shape

    def detach(self) -> Torch:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.values

    def __array__(self, *_: object) -> np.ndarray[Any, Any]:
        raise AssertionError("requires grad")


class DLPack:
    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> object:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


def test_tensors_of_other_libraries_are_taken_without_importing_them() -> None:
    values = np.arange(4, dtype=np.float32)
    found = load(
        read({"m.safetensors": {"torch": Torch(values, "torch.float32"), "dlpack": DLPack(values)}})["m.safetensors"]
    )
    assert found["torch"].tolist() == found["dlpack"].tolist() == values.tolist()


@pytest.mark.parametrize("name", ["", "__metadata__", "\ud800", 3])
def test_tensor_name_that_safetensors_cannot_hold_is_refused(name: Any) -> None:
    assert refused({"m.safetensors": {name: np.zeros(1)}}).code == "invalid_tensor"


@pytest.mark.parametrize(
    "value", [np.array(["a"]), np.array([None]), np.zeros(1, "c16"), np.zeros(1, "M8[s]"), [1.0], 3, None,
              np.ma.masked_array([1.0], [True])],
)  # fmt: skip
def test_array_that_safetensors_cannot_hold_is_refused_by_its_name(value: object) -> None:
    error = refused({"m.safetensors": {"layer.weight": value}})
    assert (error.code, "layer.weight" in error.message) == ("invalid_tensor", True)


@pytest.mark.slow
def test_no_more_tensors_are_written_than_are_read() -> None:
    one = np.zeros(0)
    assert refused({"m.safetensors": {f"t{number}": one for number in range((1 << 16) + 1)}}).code == "invalid_tensor"
    assert refused({"m.safetensors": {"x" * (9 << 20): one}}).code == "invalid_tensor"
    assert len(read({"m.safetensors": {}})["m.safetensors"]) > 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 30))
def test_arrays_read_alike_in_pieces_of_any_size(lengths: list[int], step: int) -> None:
    arrays = {str(number): np.arange(length, dtype=np.uint16) for number, length in enumerate(lengths)}
    with open_source({"m.safetensors": arrays}) as source:
        (file,) = source.files
        opened = file.open()
        whole = read_bytes(opened, 0, file.size_bytes)
        starts = itertools.takewhile(lambda start: start < file.size_bytes, itertools.count(0, step))
        pieces = [read_bytes(opened, start, min(step, file.size_bytes - start)) for start in starts]
    assert b"".join(pieces) == whole
