"""The endpoint and region in the environment become part of the store, for machines without that environment."""

from __future__ import annotations

from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.location import parse_location
from skyhold.errors import InvalidInput
from tests import servers
from tests.cli.running import Shell
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import head, push

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_CONNECTION_STRING")
AZURE = servers.AZURITE_ACCOUNT


@pytest.fixture(params=["s3", "gs", "az"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A bucket's bare URL, and its endpoint, which only the environment contains."""
    for name in (*ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    place = f"p-{id(request):x}"
    match request.param:
        case "s3":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
            endpoint = servers.versitygw().with_bucket("models").url
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.replace("http://", "HTTP://"))
            return f"s3://models/{place}", endpoint
        case "gs":
            endpoint = servers.fake_gcs_server().with_bucket("models").url
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint.removeprefix("http://"))
            return f"gs://models/{place}", endpoint
    endpoint = f"{servers.azurite().with_bucket('models').url}/{AZURE}"
    settings = {"AccountName": AZURE, "AccountKey": servers.AZURITE_KEY, "BlobEndpoint": endpoint}
    text = ";".join(f"{name}={value}" for name, value in settings.items())
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    return f"az://{AZURE}/models/{place}", endpoint


def without_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_KEY", servers.AZURITE_KEY)


@pytest.mark.parametrize("founding", [True, False])
def test_endpoint_of_the_environment_is_recorded(
    scene: Scene, cloud: tuple[str, str], monkeypatch: pytest.MonkeyPatch, founding: bool
) -> None:
    url, endpoint = cloud
    with skyhold.init([url] if founding else [str(scene.cloud("a"))]) as store:
        if not founding:
            store.add_bucket("cloud", url)
            store.remove_bucket("a", force=True)
        pushed = push(store, scene, 1)
        [location] = store.configuration.locations
        assert location.endpoint == endpoint
    without_endpoints(monkeypatch)
    with skyhold.open(url) as store:
        assert head(store) == pushed
    with Machine(scene.place / "ben").at_work(), skyhold.connect(location.full_url) as store:
        assert head(store) == pushed


def test_place_of_a_store_does_not_move_with_the_environment(
    scene: Scene, cloud: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = cloud
    with skyhold.init([url]) as store:
        pushed = push(store, scene, 1)
    unused = f"http://127.0.0.1:{servers.free_port()}"
    without_endpoints(monkeypatch)
    for name in ENDPOINTS[:3]:
        monkeypatch.setenv(name, unused)
    settings = f"AccountName={AZURE};AccountKey={servers.AZURITE_KEY};BlobEndpoint={unused}/{AZURE}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
    with skyhold.open(url) as store:
        assert head(store) == pushed


@pytest.mark.parametrize("variable", ENDPOINTS[:2])
@pytest.mark.parametrize(
    "value", ["127.0.0.1:7070", "minio.lab", "https://user:secret@minio.lab", "https://minio.lab?x=1"]
)
def test_endpoint_of_the_environment_that_is_none_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    error = Shell(capfd)("init", "s3://models", "--json", status=2).error
    assert error["code"] == "invalid_location"
    assert variable in error["message"]
    assert "secret" not in error["message"]


def test_endpoint_of_the_environment_over_plain_http_is_refused_beyond_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:9000")
    with pytest.raises(InvalidInput) as caught:
        parse_location("s3://models")
    assert caught.value.code == "insecure_endpoint"
    assert parse_location("s3://models?allow_http=true").endpoint == "http://10.0.0.1:9000"


def test_region_is_recorded_from_where_the_vendors_tools_find_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n[profile lab]\nregion = lab-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert parse_location("s3://models").region == "eu-west-1"
    assert parse_location("s3://models", credentials="profile:lab").region == "lab-1"
    assert parse_location("s3://models", credentials="env:LAB").region is None
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert parse_location("s3://models").region == "eu-central-1"
    assert parse_location("s3://models?region=us-east-2").region == "us-east-2"


def test_azure_account_in_a_sovereign_cloud_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=a2V5;EndpointSuffix=core.usgovcloudapi.net"
    )
    assert parse_location("az://a/models").endpoint == "https://a.blob.core.usgovcloudapi.net"
    assert parse_location("az://other/models").endpoint is None, "the variable is of another account"
    assert parse_location("az://a/models", credentials="env:LAB").endpoint is None


def test_init_prints_the_whole_address_for_other_machines(
    cloud: tuple[str, str], scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    url, endpoint = cloud
    made = Shell(capfd)("init", url)
    assert f"export SKYHOLD_STORE='{url}?endpoint={endpoint}'" in made.out + made.err


def test_prefix_inside_a_bucket_of_another_store_is_refused(scene: Scene, cloud: tuple[str, str]) -> None:
    url, _ = cloud
    skyhold.init([url]).close()
    for place in (f"{url}/inside", f"{url}/packs/deeper"):
        with pytest.raises(InvalidInput) as caught:
            skyhold.init([place])
        assert caught.value.code == "inside_bucket"
    skyhold.init([f"{url}-beside"]).close()
    with skyhold.init([str(scene.cloud("a"))]) as store, pytest.raises(InvalidInput) as caught:
        store.add_bucket("d", f"{url}/inside")
    assert caught.value.code == "inside_bucket"
