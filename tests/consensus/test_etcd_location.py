"""Where an etcd cluster is, and from where credentials for it come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skyhold.consensus.etcd_client import tls_context
from skyhold.consensus.etcd_credentials import EtcdCredentials, credentials_of
from skyhold.consensus.etcd_location import EtcdLocation, parse_etcd_location
from skyhold.errors import InvalidInput, PermissionDenied


def test_location_names_nodes_with_their_ports_and_a_prefix() -> None:
    location = parse_etcd_location("etcds://etcd-1,etcd-2:12379,[2001:db8::1]/team/models/")
    assert location.endpoints == ("etcd-1:2379", "etcd-2:12379", "[2001:db8::1]:2379")
    assert location.prefix == "team/models"
    assert location.tls
    assert location.url == "etcds://etcd-1:2379,etcd-2:12379,[2001:db8::1]:2379/team/models"


def test_location_without_a_prefix_gets_one() -> None:
    assert parse_etcd_location("etcds://etcd-1").prefix == "skyhold"


def test_settings_come_from_the_query_and_keyword_arguments_win(tmp_path: Path) -> None:
    url = f"etcds://etcd-1/x?credentials=env:TEAM&ca_file={tmp_path}/ca.pem"
    location = parse_etcd_location(url)
    assert (location.credentials, location.ca_file) == ("env:TEAM", f"{tmp_path}/ca.pem")
    assert parse_etcd_location(url, credentials="chain").credentials == "chain"
    assert "?" not in location.url


def test_location_survives_json() -> None:
    for location in (
        parse_etcd_location("etcds://etcd-1/x", credentials="env:TEAM", ca_file="/etc/ssl/etcd.pem"),
        parse_etcd_location("etcd://10.0.0.1/x?allow_http=true"),
    ):
        assert EtcdLocation.from_json(json.loads(json.dumps(location.to_json()))) == location


@pytest.mark.parametrize("document", [None, [], {}, {"url": 1}, {"url": "etcds://a:1/x", "else": 1}])
def test_malformed_json_is_no_location(document: object) -> None:
    with pytest.raises(InvalidInput):
        EtcdLocation.from_json(document)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://etcd-1:2379/x",
        "etcds://",
        "etcds:///x",
        "etcds://etcd-1:0/x",
        "etcds://etcd-1:65536/x",
        "etcds://etcd-1:port/x",
        "etcds://etcd-1,,etcd-2/x",
        "etcds://etcd-1,etcd-1/x",
        "etcds://etcd-1/../x",
        "etcds://etcd-1/x#y",
        "etcds://etcd-1/x?password=s3cret",
        "etcds://etcd-1/x?allow_http=perhaps",
        "etcds://ada:s3cret@etcd-1/x",
        "etcd://127.0.0.1/x?ca_file=/ca.pem",
        "etcds://" + ",".join(f"etcd-{number}" for number in range(17)),
    ],
)
def test_malformed_url_is_refused_and_its_secrets_are_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_etcd_location(url)
    assert "s3cret" not in caught.value.message + str(caught.value.hint)


@pytest.mark.parametrize("host", ["etcd-1", "10.0.0.1", "127.0.0.1,10.0.0.1"])
def test_plain_http_over_a_network_has_to_be_allowed(host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_etcd_location(f"etcd://{host}/x")
    assert caught.value.code == "insecure_endpoint"
    assert not parse_etcd_location(f"etcd://{host}/x?allow_http=true").tls


def test_plain_http_on_this_machine_needs_no_permission() -> None:
    assert parse_etcd_location("etcd://127.0.0.1:1,localhost:2,[::1]:3/x").endpoints[2] == "[::1]:3"


@pytest.mark.parametrize("reference", ["", "secret", "profile:x", "env:", "env:a-b", "file:"])
def test_malformed_reference_is_refused(reference: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_etcd_location("etcds://etcd-1", credentials=reference)
    assert caught.value.code == "invalid_credentials_reference"
    with pytest.raises((InvalidInput, PermissionDenied)):
        credentials_of(reference, {})


# ---- credentials


def test_chain_reads_the_variables_of_etcdctl() -> None:
    assert credentials_of("chain", {}) == EtcdCredentials()
    given = {"ETCDCTL_USER": "ada:pass:word", "ETCDCTL_CERT": "/c.pem", "ETCDCTL_KEY": "/k.pem"}
    assert credentials_of("chain", given) == EtcdCredentials("ada", "pass:word", "/c.pem", "/k.pem")
    apart = {"ETCDCTL_USER": "ada", "ETCDCTL_PASSWORD": "secret"}
    assert credentials_of("chain", apart) == EtcdCredentials("ada", "secret")


def test_environment_is_read_under_its_prefix_alone() -> None:
    environ = {"TEAM_USER": "ada", "TEAM_PASSWORD": "secret", "ETCDCTL_USER": "root:root"}
    assert credentials_of("env:TEAM", environ) == EtcdCredentials("ada", "secret")
    with pytest.raises(PermissionDenied) as caught:
        credentials_of("env:OTHER", environ)
    assert caught.value.code == "credentials_missing"


def test_file_holds_them_as_json_with_paths_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "etcd.json"
    file.write_text(
        '{"user": "ada", "password": "secret", "cert_file": "client.pem", "key_file": "/keys/client-key.pem"}'
    )
    file.chmod(0o600)
    assert credentials_of(f"file:{file}") == EtcdCredentials(
        "ada", "secret", str(tmp_path / "client.pem"), "/keys/client-key.pem"
    )


def test_file_that_everybody_can_read_is_refused_and_named_as_that_of_etcd(tmp_path: Path) -> None:
    file = tmp_path / "etcd.json"
    file.write_text('{"user": "ada", "password": "s3cret"}')
    file.chmod(0o644)
    with pytest.raises(PermissionDenied, match="of the etcd cluster is accessible") as caught:
        credentials_of(f"file:{file}")
    assert caught.value.code == "credentials_exposed"
    assert "s3cret" not in str(caught.value)


def test_file_that_is_not_json_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "etcd.json"
    file.write_text("user=ada password=s3cret")
    file.chmod(0o600)
    with pytest.raises(InvalidInput) as caught:
        credentials_of(f"file:{file}")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("names", [{"USER": "ada"}, {"PASSWORD": "x"}, {"CERT_FILE": "c"}, {"KEY_FILE": "k"}])
def test_half_of_a_pair_is_not_enough(names: dict[str, str]) -> None:
    with pytest.raises(PermissionDenied, match="belong together"):
        credentials_of("env:TEAM", {f"TEAM_{name}": value for name, value in names.items()})


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdCredentials("ada", "secret"))


def test_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied, match=r"nothing\.pem") as caught:
        tls_context(str(tmp_path / "nothing.pem"), EtcdCredentials())
    assert caught.value.code == "credentials_missing"
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(PermissionDenied, match=r"empty\.pem"):
        tls_context(None, EtcdCredentials(cert_file=str(tmp_path / "empty.pem"), key_file=str(tmp_path / "empty.pem")))
