"""S3 endpoints of one's own: TLS under a private CA, either addressing style, and several vendors in one process."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.s3_options import endpoint_of
from skyhold.errors import InvalidInput, PermissionDenied, Unavailable
from tests import servers
from tests.buckets.conformance import QUICK
from tests.buckets.scripted_server import Reply, scripted

_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate_of(
    subject: str, public_key: ec.EllipticCurvePublicKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate of a day; of an authority where subject and issuer are one, else of 127.0.0.1."""
    now, is_authority = datetime.now(UTC), subject == issuer
    builder = (
        x509.CertificateBuilder(name_of(issuer), name_of(subject), public_key, x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if is_authority:  # Python 3.13 asks for these
        builder = builder.add_extension(_AUTHORITY_USAGE, critical=True)
    if not is_authority:
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def write_authority(folder: Path, name: str) -> tuple[Path, Path]:
    """The PEM files of a new authority's certificate, and of a server's certificate of it with its key."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate_of(name, authority_key.public_key(), name, authority_key)
    server = certificate_of("versitygw", server_key.public_key(), name, authority_key)
    ca_file, server_file = folder / f"{name}.pem", folder / f"{name}-server.pem"
    ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    server_file.write_bytes(
        server.public_bytes(serialization.Encoding.PEM)
        + server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca_file, server_file


@pytest.fixture
def right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHT_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("RIGHT_SECRET_ACCESS_KEY", servers.SECRET_KEY)


@pytest.mark.usefixtures("right")
def test_certificate_of_a_private_authority_is_trusted_where_its_file_is_given_and_nowhere_else(tmp_path: Path) -> None:
    ca_file, certificate = write_authority(tmp_path, "lab")
    other_ca_file, _ = write_authority(tmp_path, "other")
    server = servers.versitygw(certificate=certificate).with_bucket("models")

    def at(ca: Path | None) -> BucketLocation:
        ca_text = str(ca) if ca else None
        return parse_location("s3://models/p", endpoint=server.url, credentials="env:RIGHT", ca_file=ca_text)

    bucket = open_bucket(at(ca_file), QUICK)
    bucket.write("k", b"over TLS")
    assert bytes(bucket.read("k")) == b"over TLS"
    assert bucket.rules().retention.verdict == "absent"  # type: ignore[attr-defined]
    for distrusting in (None, other_ca_file):
        stranger = open_bucket(at(distrusting), QUICK)
        with pytest.raises(Unavailable):
            stranger.read("k")
        with pytest.raises(Unavailable):
            stranger.write_if("new", b"x", expected_tag=None)
    assert [info.key for info in bucket.list()] == ["k"]


@pytest.mark.parametrize(
    ("path_style", "sent_to"),
    [(None, "https://s3.invalid/styled"), (True, "https://s3.invalid/styled"), (False, "https://styled.s3.invalid")],
)
def test_bucket_is_in_the_path_of_an_endpoint_unless_the_host_is_asked_for(
    path_style: bool | None, sent_to: str
) -> None:
    location = parse_location("s3://styled/p", endpoint="https://s3.invalid")
    assert endpoint_of(replace(location, path_style=path_style)).url == sent_to


@pytest.mark.parametrize(
    ("region", "sent_to"),
    [(None, "https://styled.s3.us-east-1.amazonaws.com"), ("eu-west-3", "https://styled.s3.eu-west-3.amazonaws.com"),
     ("cn-north-1", "https://styled.s3.cn-north-1.amazonaws.com.cn")],
)  # fmt: skip
def test_bucket_of_amazon_is_a_host_of_its_region(region: str | None, sent_to: str) -> None:
    assert endpoint_of(replace(parse_location("s3://styled"), region=region)).url == sent_to


def test_region_that_the_store_names_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("ANY_SECRET_ACCESS_KEY", "any")
    wrong = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>"
    for reply in (Reply(301, headers={"x-amz-bucket-region": "eu-west-3"}), Reply(400, wrong)):
        with scripted(reply) as server, pytest.raises(InvalidInput) as caught:
            open_bucket(parse_location("s3://models", endpoint=server.url, credentials="env:ANY"), QUICK).read("k")
        assert "region=eu-west-3" in (caught.value.hint or "")


def test_directory_bucket_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        open_bucket(parse_location("s3://models--use1-az4--x-s3")).read("k")
    assert caught.value.code == "invalid_location"


def test_three_vendors_with_three_kinds_of_credentials_serve_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"A_ACCESS_KEY_ID": "of-a", "A_SECRET_ACCESS_KEY": "secret-of-a", "AWS_PROFILE": "none",
                        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "profiles"), "AWS_ACCESS_KEY_ID": "stray",
                        "AWS_CONFIG_FILE": str(tmp_path / "no-config")}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    file = tmp_path / "b.json"
    file.write_text(json.dumps({"access_key_id": "of-b", "secret_access_key": "secret-of-b"}))
    file.chmod(0o600)
    (tmp_path / "profiles").write_text("[c]\naws_access_key_id = of-c\naws_secret_access_key = secret-of-c\n")
    references = {"a": "env:A", "b": f"file:{file}", "c": "profile:c"}
    endpoints = {name: servers.versitygw(f"of-{name}", f"secret-of-{name}").with_bucket("models").url for name in "abc"}
    buckets = {
        name: open_bucket(
            parse_location("s3://models/p", endpoint=endpoints[name], credentials=reference, name=name), QUICK
        )
        for name, reference in references.items()
    }
    for name, bucket in buckets.items():
        bucket.write("k", name.encode())
    assert {name: bytes(bucket.read("k")) for name, bucket in buckets.items()} == {"a": b"a", "b": b"b", "c": b"c"}
    for reference in ("env:A", references["b"]):
        with pytest.raises(PermissionDenied):
            open_bucket(parse_location("s3://models/p", endpoint=endpoints["c"], credentials=reference), QUICK).read(
                "k"
            )
