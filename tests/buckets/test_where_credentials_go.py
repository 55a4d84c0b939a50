"""The rule of docs/how-to/credentials.md, driver by driver, with servers that catch what they are sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from skyhold.buckets import google
from skyhold.buckets.azure_credentials import STORAGE_SCOPE, StorageTokens
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.consent import Destination, allow, destination_of, is_allowed, override, refused
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.consensus.etcd import open_etcd
from skyhold.consensus.etcd_location import parse_etcd_location
from skyhold.errors import InvalidInput, PermissionDenied, SkyholdError
from skyhold.store.settings import BucketSettings, Settings
from tests.buckets.catching_server import CatchingServer, catching

ONCE = RetryPolicy(attempts_max=1)
SECRETS = ("SESSION-TOKEN-OF-ADA", "ACCESS-KEY-OF-ADA", "BEARER-OF-ADA", "SIGNATURE-OF-ADA", "NETRC-OF-ADA")
URLS = {"s3": "s3://models/p", "gs": "gs://models/p", "az": "az://account/models/p"}


@pytest.fixture(autouse=True)
def of_ada(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The credentials of the machine's user, where each vendor's tools look for them."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ACCESS-KEY-OF-ADA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SESSION-TOKEN-OF-ADA")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024-11-04&sig=SIGNATURE-OF-ADA")
    monkeypatch.setenv("ETCDCTL_USER", "ada:BEARER-OF-ADA")
    (tmp_path / "netrc").write_text("default login ada password NETRC-OF-ADA\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def bearer(*_arguments: object, **_options: object) -> object:
        from google.oauth2.credentials import Credentials

        return Credentials(token="BEARER-OF-ADA")

    monkeypatch.setattr(google, "credentials_of", bearer)


@pytest.fixture
def attacker() -> Iterator[CatchingServer]:
    with catching() as server:
        yield server


def use(bucket: Bucket) -> list[SkyholdError]:
    """Try everything that a bucket is for; what came of it."""
    calls: list[Callable[[], object]] = [
        lambda: bucket.read("k"),
        lambda: bucket.read_tagged("k"),
        lambda: list(bucket.read_stream("k")),
        lambda: bucket.write("k", b"body"),
        lambda: bucket.write_if("k", b"body", expected_tag=None, deadline_s=2.0),
        lambda: list(bucket.list()),
        lambda: bucket.delete("k"),
    ]
    errors = []
    for call in calls:
        try:
            call()
        except SkyholdError as error:
            errors.append(error)
    return errors


def from_document(url: str, endpoint: str, **more: object) -> BucketLocation:
    """As a bucket's `store.json` or the store's configuration has it."""
    provider = {"s3": "aws", "gs": "google", "az": "azure"}[url.partition(":")[0]]
    return BucketLocation.from_json({"name": "lab", "url": url, "provider": provider, "endpoint": endpoint, **more})


@pytest.mark.parametrize("scheme", URLS)
def test_endpoint_that_a_document_names_is_sent_nothing(scheme: str, attacker: CatchingServer) -> None:
    errors = use(open_bucket(from_document(URLS[scheme], attacker.url), ONCE))
    assert [error.code for error in errors] == ["endpoint_not_trusted"] * 7
    assert isinstance(errors[0], PermissionDenied)
    assert f"--trust '{scheme}://?endpoint={attacker.url}'" in (errors[0].hint or "")
    assert attacker.caught == []


@pytest.mark.parametrize("scheme", URLS)
def test_endpoint_that_its_user_names_is_sent_credentials(scheme: str, attacker: CatchingServer) -> None:
    """So the test above does not pass because nothing is ever sent."""
    use(open_bucket(parse_location(URLS[scheme], endpoint=attacker.url), ONCE))
    assert any(secret in request for request in attacker.caught for secret in SECRETS[:4])


@pytest.mark.parametrize("scheme", URLS)
def test_consent_covers_what_was_agreed_to_and_nothing_else(scheme: str, attacker: CatchingServer) -> None:
    location = from_document(URLS[scheme], attacker.url)
    agreed = destination_of(location)
    assert allow(location, [agreed]).named
    others = [
        replace(location, credentials="env:OTHER"),
        replace(location, ca_file="/tmp/evil.pem"),
        replace(location, endpoint=f"{attacker.url}/other"),
        replace(location, url={"s3": URLS["gs"], "gs": URLS["az"], "az": URLS["s3"]}[scheme]),
    ]
    assert not any(allow(other, [agreed]).named for other in others)


def test_reference_that_the_user_chooses_needs_consent_to_the_endpoint_alone(attacker: CatchingServer) -> None:
    agreed = Destination("s3", attacker.url, "env:LAB")
    lab = from_document(URLS["s3"], attacker.url, credentials="env:LAB")
    mine = BucketSettings(credentials="file:/mine")
    for found, endpoint, named in (
        (False, attacker.url, True),
        (True, attacker.url, False),
        (False, "https://x", False),
    ):
        settings = Settings(buckets={"lab": mine}, found=found)
        assert settings.locate(replace(lab, endpoint=endpoint), [agreed]).named == named


def test_agreed_reference_serves_a_sibling_whose_credentials_are_not_named(attacker: CatchingServer) -> None:
    location = from_document(URLS["s3"], attacker.url)
    lab = Destination("s3", attacker.url, "env:LAB")
    assert allow(location, [lab]).credentials == "env:LAB"
    assert not allow(location, [lab, Destination("s3", attacker.url, "env:OTHER")]).named


@pytest.mark.parametrize(
    ("scheme", "variable"), [("s3", "AWS_ENDPOINT_URL"), ("s3", "AWS_ENDPOINT_URL_S3"), ("gs", "STORAGE_EMULATOR_HOST")]
)
def test_endpoint_of_the_environment_is_named_for_its_own_vendor(
    scheme: str, variable: str, attacker: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, attacker.url)
    named = {other: allow(from_document(url, attacker.url), ()).named for other, url in URLS.items()}
    assert named == {"s3": False, "gs": False, "az": False} | {scheme: True}
    assert not allow(from_document(URLS[scheme], attacker.url, credentials="env:OTHER"), ()).named


def test_etcd_cluster_that_a_document_names_is_sent_nothing(attacker: CatchingServer) -> None:
    location = replace(parse_etcd_location(f"etcd://{attacker.url.removeprefix('http://')}"), named=False)
    with pytest.raises(PermissionDenied) as caught:
        open_etcd(location, store_id="0" * 32, epoch=1, writer="ada", deadline_s=1.0).read("config")
    assert caught.value.code == "endpoint_not_trusted"
    assert attacker.caught == []
    with suppress(SkyholdError):
        open_etcd(replace(location, named=True), store_id="0" * 32, epoch=1, writer="ada", deadline_s=1.0).read(
            "config"
        )
    assert attacker.caught


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", URLS)
def test_no_redirect_takes_a_request_to_another_host(scheme: str, status: int) -> None:
    with catching("127.0.0.2") as attacker, catching(status=status, location=attacker.url) as named:
        errors = use(open_bucket(parse_location(URLS[scheme], endpoint=named.url), ONCE))
        assert named.caught
        assert attacker.caught == []
    assert len(errors) == 7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", URLS)
def test_no_redirect_takes_a_request_to_another_port_of_its_host(scheme: str, status: int) -> None:
    with catching() as attacker, catching(status=status, location=attacker.url) as named:
        use(open_bucket(parse_location(URLS[scheme], endpoint=named.url), ONCE))
        assert named.caught
        assert attacker.caught == []


@pytest.mark.parametrize("scheme", URLS)
def test_no_redirect_is_followed_where_the_environment_names_a_proxy(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with catching("127.0.0.2") as attacker, catching(status=307, location=attacker.url) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.2")
        use(open_bucket(parse_location(URLS[scheme], endpoint="http://minio.invalid", allow_http=True), ONCE))
        assert proxy.caught
        assert attacker.caught == []


def test_tls_goes_through_a_proxy_as_a_tunnel_with_its_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    with catching() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//ada:word@"))
        errors = use(open_bucket(parse_location("s3://models", endpoint="https://minio.invalid"), ONCE))
        assert proxy.caught[0].startswith("CONNECT minio.invalid:443")
        assert "Proxy-Authorization: Basic YWRhOndvcmQ=" in proxy.caught[0]
    assert not any(secret in request for request in proxy.caught for secret in SECRETS)
    assert {error.code for error in errors} == {"unreachable"}


def test_proxy_of_a_kind_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(InvalidInput) as caught:
        open_bucket(parse_location("s3://models", endpoint="https://minio.invalid"), ONCE).read("k")
    assert caught.value.code == "unsupported_proxy"


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_proxy_of_the_environment_is_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with catching() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        use(open_bucket(parse_location("s3://models", endpoint="http://minio.invalid", allow_http=True), ONCE))
        assert proxy.caught
        assert proxy.caught[0].startswith("GET http://minio.invalid/models/k")


@pytest.mark.parametrize("variable", ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"])
def test_servers_of_roles_are_asked_for_credentials(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named by the variables of the vendor's own chain, and are not hosts of the bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("token")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    with catching("127.0.0.2") as role, catching() as endpoint:
        monkeypatch.setenv(variable, role.url)
        with suppress(SkyholdError):
            open_bucket(parse_location("s3://models", endpoint=endpoint.url), ONCE).read("k")
        assert role.caught


def test_endpoint_in_a_v6_network_is_reached() -> None:
    with catching("::1") as server:
        use(open_bucket(parse_location("s3://models", endpoint=server.url), ONCE))
        assert server.caught


def test_no_redirect_takes_etcd_to_another_host() -> None:
    with catching("127.0.0.2") as attacker, catching(status=307, location=attacker.url) as named:
        location = parse_etcd_location(f"etcd://{named.url.removeprefix('http://')}")
        with pytest.raises(SkyholdError):
            open_etcd(location, store_id="0" * 32, epoch=1, writer="ada", deadline_s=1.0).read("config")
        assert named.caught
        assert attacker.caught == []


@pytest.mark.parametrize("scheme", URLS)
def test_what_netrc_has_for_all_hosts_goes_nowhere(scheme: str, attacker: CatchingServer) -> None:
    use(open_bucket(parse_location(URLS[scheme], endpoint=attacker.url), ONCE))
    assert attacker.caught
    assert not any("authorization: basic" in request.lower() for request in attacker.caught)


def test_azure_tokens_are_for_storage_whatever_a_service_asks_for() -> None:
    asked: list[tuple[str, ...]] = []

    class Chain:
        def get_token(self, *scopes: str, **_options: object) -> object:
            asked.append(scopes)
            return object()

    StorageTokens(Chain()).get_token("https://management.azure.com/.default")  # type: ignore[arg-type]
    assert asked == [(STORAGE_SCOPE,)]


@pytest.mark.parametrize(
    ("scheme", "endpoint"),
    [
        ("s3", "https://s3.amazonaws.com"), ("s3", "https://s3.eu-central-1.amazonaws.com"),
        ("s3", "https://s3-us-west-2.amazonaws.com"), ("s3", "https://s3.dualstack.us-gov-west-1.amazonaws.com"),
        ("s3", "https://s3-fips.us-east-1.amazonaws.com"), ("s3", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("gs", "https://storage.googleapis.com"), ("gs", "https://storage.me-central2.rep.googleapis.com"),
        ("az", "https://account.blob.core.windows.net"), ("az", "https://account.blob.core.usgovcloudapi.net"),
        ("az", "https://account.blob.core.chinacloudapi.cn"),
    ],
)  # fmt: skip
def test_vendors_own_hosts_need_no_consent(scheme: str, endpoint: str) -> None:
    assert is_allowed(from_document(URLS[scheme], endpoint))


@pytest.mark.parametrize(
    ("scheme", "endpoint"),
    [
        ("s3", "https://evil.execute-api.us-east-1.amazonaws.com"),  # a customer behind Amazon's certificate
        ("s3", "https://evil-1.us-east-1.elb.amazonaws.com"),
        ("s3", "https://ec2-203-0-113-1.compute-1.amazonaws.com"),
        ("s3", "https://s3-website-us-east-1.amazonaws.com"), ("s3", "https://evil.s3-object-lambda.us-east-1.amazonaws.com"),
        ("s3", "https://s3.amazonaws.com.evil.example"), ("s3", "https://s3.amazonaws.com:8443"),
        ("s3", "https://storage.googleapis.com"), ("gs", "https://s3.amazonaws.com"),
        ("gs", "https://evil.run.app"), ("gs", "https://evil-storage.googleapis.com"),
        ("az", "https://evil.z6.web.core.windows.net"), ("az", "https://blob.core.windows.net.evil.example"),
        ("az", "https://evil.azurewebsites.net"), ("az", "https://account.blob.core.windows.net/evil"),
    ],
)  # fmt: skip
def test_hosts_of_vendors_customers_and_of_other_vendors_need_consent(scheme: str, endpoint: str) -> None:
    assert not is_allowed(from_document(URLS[scheme], endpoint))


@pytest.mark.parametrize(
    "setting",
    [{"credentials": "env:OTHER"}, {"credentials": "profile:prod"}, {"credentials": "file:/k"}, {"ca_file": "/k"}],
)
def test_document_chooses_neither_credentials_nor_certificates_for_a_vendors_host(setting: dict[str, str]) -> None:
    location = BucketLocation.from_json({"name": "a", "url": "s3://models", "provider": "aws", **setting})
    assert use(open_bucket(location))[0].code == "endpoint_not_trusted"


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
@pytest.mark.parametrize("host", ["s3.amazonaws.com", "10.0.0.1"])
def test_document_does_not_permit_plain_http(host: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location = from_document(URLS["s3"], f"{scheme}://{host}", allow_http=True)
    assert not is_allowed(location)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    assert not allow(location, [replace(destination_of(location), allow_http=False)]).named
    with pytest.raises(InvalidInput) as caught:
        Destination.parse(f"s3://?endpoint=http://{host}")
    assert caught.value.code == "insecure_endpoint"
    assert allow(location, [Destination.parse(f"s3://?endpoint=http://{host}&allow_http=true")]).named


@pytest.mark.parametrize(
    "region", ["evil.example/x?", "eu-1.evil.example", "eu-1@evil.example", "eu-1\\evil", "eu-1#", "a" * 3 + ":8080"]
)
def test_region_is_no_part_of_another_host(region: str) -> None:
    """A region is a part of the host's name, and of that of the service to which a web identity is shown."""
    location = BucketLocation.from_json({"name": "a", "url": "s3://models", "provider": "aws", "region": region})
    errors = use(open_bucket(location, ONCE))
    assert {error.code for error in errors} == {"invalid_location"}


@pytest.mark.parametrize(
    "endpoint",
    ["https://s3.amazonaws.com\\@evil.example", "https://s3.amazonaws.com%2f.evil.example", "https://evil.example/..//",
     "https://a b", "https://[::1", "https://x:0", "https://x:99999", "https://ex?x", "https://u@x", "https://x#f",
     "ftp://x", "x:7070", "//x", "https://"],
)  # fmt: skip
def test_endpoint_that_two_parsers_may_read_differently_is_none(endpoint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_location("s3://models", endpoint=endpoint)
    assert caught.value.code == "invalid_location"


def test_settings_of_a_document_take_the_name_away_and_those_of_the_user_give_it() -> None:
    typed = parse_location("s3://models", endpoint="https://minio.lab")
    given = from_document("s3://models", "https://minio.lab")
    assert not override(typed, {"endpoint": "https://evil.example"}, by_user=False).named
    assert override(given, {"endpoint": "https://minio.lab"}, by_user=True).named
    assert not override(given, {"credentials": "env:LAB"}, by_user=True).named, "the endpoint is the document's still"
    both = {"endpoint": "https://minio.lab", "credentials": "env:LAB"}
    assert override(replace(given, credentials="profile:prod"), both, by_user=True).named


@pytest.mark.parametrize(
    "destination",
    [Destination("s3", "https://minio.lab:9000"), Destination("gs", "", "env:KEY"),
     Destination("az", "", "file:/a b&c=d#e"),
     Destination("s3", "http://10.0.0.1", "profile:a", "/etc/ca.pem", allow_http=True),
     Destination("etcds", "a:1,b:2", "env:ETCD"), Destination("s3", "http://[::1]:9000")],
)  # fmt: skip
def test_destination_is_written_as_it_is_read(destination: Destination) -> None:
    assert Destination.parse(str(destination)) == destination


@pytest.mark.parametrize(
    "text", ["", "s3", "s3://bucket", "s3://?region=x", "s3://?endpoint=https://a&endpoint=https://b", "file:///x", "etcds://",
             "https://minio.lab", "s3://?endpoint=https://a#x", "s3://?secret=1"],
)  # fmt: skip
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Destination.parse(text)


def test_name_is_never_written_or_read() -> None:
    location = parse_location("s3://models", endpoint="https://minio.lab")
    assert location.named
    assert "named" not in json.dumps(location.to_json())
    with pytest.raises(InvalidInput):
        BucketLocation.from_json({**location.to_json(), "named": True})
    with pytest.raises(InvalidInput):
        parse_location("s3://models?named=true")


def test_service_account_is_not_used_over_plain_http(monkeypatch: pytest.MonkeyPatch, attacker: CatchingServer) -> None:
    """An emulator has no TLS and needs no token, so the chain is not asked for one."""
    monkeypatch.undo()
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {"type": "service_account", "client_email": "a@b", "private_key": key.decode(), "token_uri": attacker.url}
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", json.dumps(account))
    with catching() as emulator:
        use(open_bucket(parse_location("gs://models", endpoint=emulator.url), ONCE))
        assert emulator.caught
        assert not any("authorization" in request.lower() for request in emulator.caught)
    assert attacker.caught == []


@pytest.mark.parametrize(
    ("endpoint", "reported"),
    [
        ("https://minio.lab:99999", "its port must be a number from 1 to 65535"),
        ("https://minio.lab:0", "its port must be a number from 1 to 65535"),
        ("https://minio.lab:90a0/models", "its port must be a number from 1 to 65535"),
        ("https://minio.lab:", "its port must be a number from 1 to 65535"),
        ("http://[::1]:70000", "its port must be a number from 1 to 65535"),
        ("minio.lab:9000", "it must begin with https:// or http://"),
        ("ftp://minio.lab", "it must begin with https:// or http://"),
        ("https://ada:secret@minio.lab", "it must be a scheme, a host and perhaps a port and a path"),
        ("https://minio.lab?x=1", "it must be a scheme, a host and perhaps a port and a path"),
        ("https://[::1", "it must be a scheme, a host and perhaps a port and a path"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_reported(endpoint: str, reported: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(reported)) as caught:
        parse_location("s3://models", endpoint=endpoint)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


def test_error_of_a_place_without_consent_names_its_source_and_how_to_agree() -> None:
    error = refused([("b", Destination.parse("s3://?endpoint=https://minio.lab"))], "s3://models")
    assert error.message == (
        "No credentials were sent to b (s3://?endpoint=https://minio.lab). You have not agreed to that place on this "
        "machine. It was named by a document of the store, or by a skyhold.toml that was found in a folder"
    )
    assert error.hint == (
        "If you trust it, agree once: skyhold connect s3://models --trust 's3://?endpoint=https://minio.lab'"
    )
