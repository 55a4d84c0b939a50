from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.errors import Corrupt, InvalidInput
from skyhold.registry.version import Lineage, VersionDocument, VersionFile, check_path, check_paths, public_id

TIME = "2026-11-23T20:05:02Z"
GOLDEN = VersionDocument(
    files=(
        VersionFile("weights/é.safetensors", 3, {"sha256": hashlib.sha256(b"abc").hexdigest()}),
        VersionFile("README.md", 0, {"sha256": hashlib.sha256(b"").hexdigest(), "git-sha1": "e69de29b" + "00" * 16}),
        VersionFile("run.sh", 7, {"sha256": "0" * 64}, executable=True),
    ),
    time=TIME,
    author="Ann <ann@example.org>",
    message="First\n",
    parents=("ab" * 32,),
    parameters={"lr": 1e-5, "steps": 20, "big": 1e300, "none": None},
    metadata={"tags": ["a", "ü"], "nested": {"b": True, "a": 1.0}},
    lineage=Lineage(base=("cd" * 32,), code=("git+https://example.org/x@abc",)),
)
GOLDEN_BYTES = (
    '{"author":"Ann <ann@example.org>","files":[{"digests":{"git-sha1":"e69de29b00000000000000000000000000000000",'
    '"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"path":"README.md","size":0},'
    '{"digests":{"sha256":"0000000000000000000000000000000000000000000000000000000000000000"},"executable":true,'
    '"path":"run.sh","size":7},{"digests":{"sha256":'
    '"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},"path":"weights/é.safetensors","size":3}],'
    '"lineage":{"base":["cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"],'
    '"code":["git+https://example.org/x@abc"]},"message":"First\\n",'
    '"metadata":{"nested":{"a":1,"b":true},"tags":["a","ü"]},'
    '"parameters":{"big":1e+300,"lr":0.00001,"none":null,"steps":20},'
    '"parents":["abababababababababababababababababababababababababababababababab"],'
    '"skyhold":"version/1","time":"2026-11-23T20:05:02Z"}'
).encode()
GOLDEN_DIGEST = "64608c51112bfb1e7ed41e658d5c9a1db80c95606898e2f941fe3c7e5e19df45"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
objects = st.dictionaries(st.text("xyz", min_size=1, max_size=3), json_values, max_size=4)
sha256s = st.binary(min_size=32, max_size=32).map(bytes.hex)
files = st.lists(
    st.builds(
        VersionFile,
        path=st.from_regex(r"\A[a-c]{1,2}(/[d-f]{1,2}){0,2}\Z"),
        size_bytes=st.integers(0, 2**53 - 1),
        digests=sha256s.map(lambda digest: {"sha256": digest}),
        executable=st.booleans(),
    ),
    unique_by=lambda file: file.path.partition("/")[0],
    max_size=6,
).map(tuple)


def document(**fields: object) -> VersionDocument:
    return VersionDocument(**{"files": (), "time": TIME, **fields})  # type: ignore[arg-type]


def test_golden_document_has_its_bytes_and_digest() -> None:
    assert GOLDEN.encode() == GOLDEN_BYTES
    assert GOLDEN.digest == GOLDEN_DIGEST
    assert VersionDocument.decode(GOLDEN_BYTES, GOLDEN_DIGEST) == GOLDEN
    assert public_id(GOLDEN_DIGEST) == GOLDEN_DIGEST[:40]


@given(
    files,
    objects,
    objects,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(sha256s, max_size=3, unique=True),
)
def test_any_version_reads_back_as_itself(
    files: tuple[VersionFile, ...],
    parameters: dict[str, object],
    metadata: dict[str, object],
    text: str,
    parents: list[str],
) -> None:
    version = document(
        files=files, parameters=parameters, metadata=metadata, message=text, author=text, parents=tuple(parents)
    )
    again = VersionDocument.decode(version.encode(), version.digest)
    assert again == version
    assert again.encode() == version.encode()


@given(st.integers(0, len(GOLDEN_BYTES) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(place: int, flip: int) -> None:
    body = bytearray(GOLDEN_BYTES)
    body[place] ^= flip
    with pytest.raises(Corrupt):
        VersionDocument.decode(bytes(body), GOLDEN_DIGEST)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/.",
        "a\\b",
        "a\nb",
        "a\0",
        "\x7f",
        "\x85",
        "\ud800",
        "x" * 256,
        "/".join(["y" * 200] * 6),
        ".0123456789abcdef-0123456789abcdef.skyhold-part",
        ".skyhold-part/x",
        "a/w.SKYHOLD-Part. ",
        "w.skyhold\u200c-part::$DATA",
    ],
)
def test_path_outside_the_rules_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_path(path)
    assert caught.value.code == "invalid_path"


@pytest.mark.parametrize(
    "path", ["a", ".hidden", "a b/c", "..a", "模型/é.bin", "C:x", "x" * 255, "skyhold-part", "a.skyhold-p"]
)
def test_path_within_the_rules_is_taken(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["A", "a"],
        ["é", "e\u0301"],
        ["straße", "STRASSE"],
        ["a", "a/b"],
        ["A/x/y", "a/X"],
        ["a", "a.b", "A/b"],
    ],
)
def test_paths_that_a_file_system_may_take_for_one_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"is the same name as|has the name of its folder"):
        check_paths(paths)


def test_paths_in_one_folder_are_taken() -> None:
    check_paths(["a/b", "a/c", "ab", "a.b", "b/a/b"])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"parameters": {"lr": float("nan")}}, "parameters.lr"),
        ({"parameters": {"deep": {"x": float("inf")}}}, "parameters.deep.x"),
        ({"metadata": {"n": 2**53}}, "beyond 2"),
        ({"metadata": {"n": b"x"}}, "bytes"),
        ({"metadata": {1: "x"}}, "name 1"),
        ({"metadata": {"s": "\ud800"}}, "surrogate"),
        ({"message": "x" * 65537}, "message"),
        ({"author": "\udfff"}, "author"),
        ({"time": "2026-11-23 20:05:02"}, "2026-11-23 20:05:02"),
        ({"time": "2026-02-30T00:00:00Z"}, "2026-02-30"),
        ({"parents": ("xy",)}, "'xy'"),
        ({"parents": ("ab" * 32,) * 2}, "each once"),
        ({"metadata": {"x": "y" * 2**20}}, "metadata"),
    ],
)
def test_value_outside_the_rules_is_refused_and_named(fields: dict[str, object], names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        document(**fields)


def test_values_nested_too_deep_are_refused() -> None:
    value: object = 1
    for _ in range(40):
        value = [value]
    with pytest.raises(InvalidInput, match="nested deeper"):
        document(metadata={"x": value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", {}),
        ("files", [{}]),
        ("parents", [1]),
        ("message", 1),
        ("lineage", {"x": []}),
        ("skyhold", "version/2"),
        ("extra", 1),
        ("parameters", []),
    ],
)
def test_document_with_a_wrong_field_is_corrupt(field: str, value: object) -> None:
    body = json.dumps(json.loads(GOLDEN_BYTES) | {field: value}, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(Corrupt):
        VersionDocument.decode(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"a":1,"a":2}', b"[" * 100_000, GOLDEN_BYTES + b" "])
def test_bytes_that_are_no_document_are_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        VersionDocument.decode(body)
