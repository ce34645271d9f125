import hashlib
import os
import traceback
from pathlib import Path

import pytest

from services.places import LivePlaces
from services.s3 import LocalS3
from tasks.errors import BadConfig, IntegrityError, StoreError
from tasks.registry.store import StoreClient, check_store, connect, open_store
from tasks.settings import Settings, Store
from tests.registry.conftest import credentials
from tests.registry.proxy import Proxy


def error_xml(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def test_the_check_passes_on_a_real_store_again_and_again(places: LivePlaces) -> None:
    check_store(places, "direct")
    check_store(places, "direct")


def test_a_missing_bucket_is_refused_with_what_to_do_or_made_where_the_settings_say_so(s3_server: LocalS3, proxy: Proxy) -> None:
    made: list[str] = []

    def as_on_aws(method: str, path: str) -> tuple[int, bytes] | None:
        """Seaweedfs makes a bucket by itself when something is put into it."""
        if method == "PUT" and path.count("/") == 1:
            made.append(path)
        return None if made else (404, error_xml("NoSuchBucket"))

    proxy.answer = as_on_aws
    store = Store(bucket="there-is-none", endpoint_url=proxy.url)
    with pytest.raises(StoreError, match=r"there-is-none.*NoSuchBucket.*create: true"):
        connect("aws", store, credentials(s3_server)).check()
    connect("local", store.model_copy(update={"create": True}), credentials(s3_server)).check()
    assert made == ["/there-is-none"]


def test_wrong_keys_are_refused_before_anything_and_without_showing_them(s3_server: LocalS3, bucket: str) -> None:
    store = Store(bucket=bucket, endpoint_url=s3_server.endpoint_url)
    for key, secret in ((s3_server.access_key, "wrong-canary"), ("nobody", "wrong-canary")):
        extra = {"aws_access_key_id": key, "aws_secret_access_key": secret}
        with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID") as caught:
            connect("aws", store, extra).check()
        assert "wrong-canary" not in "".join(traceback.format_exception(caught.value))


def test_missing_credentials_are_named(s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = Store(bucket=bucket, endpoint_url=s3_server.endpoint_url)
    with pytest.raises(StoreError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        connect("aws", store).check()
    with pytest.raises(BadConfig, match="nobody"):
        connect("aws", store.model_copy(update={"profile": "nobody"}))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredToken", "expired: sign in again"),
        ("AccessDenied", "allow s3:GetObject, s3:PutObject"),
        ("RequestTimeTooSkewed", "clock is off"),
        ("SomethingNew", "answered SomethingNew"),
    ],
)
def test_what_a_store_refuses_is_said_plainly(places: LivePlaces, proxy: Proxy, code: str, said: str) -> None:
    proxy.answer = lambda method, path: (403, error_xml(code))
    with pytest.raises(StoreError, match=said):
        check_store(places, "proxied")


def test_a_clock_two_hours_off_is_called_a_clock(places: LivePlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.auth

    real = botocore.auth.get_current_datetime
    from datetime import timedelta

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kw: real(*args, **kw) - timedelta(hours=2))
    with pytest.raises(StoreError, match="clock"):
        check_store(places, "direct")


def test_a_store_out_of_reach_is_an_error_that_says_so(s3_server: LocalS3) -> None:
    store = Store(bucket="anything", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1.*cannot be reached"):
        connect("aws", store, credentials(s3_server)).check()


def test_a_store_that_ignores_conditions_is_refused(places: LivePlaces, proxy: Proxy) -> None:
    proxy.strip_conditions = True
    with pytest.raises(StoreError, match="ignores conditional writes"):
        check_store(places, "proxied")


def test_a_first_write_happens_once_and_a_replacement_needs_the_etag(client: StoreClient) -> None:
    assert client.write_once("k", b"1")
    assert not client.write_once("k", b"2")
    _, etag = client.read("k") or (b"", "")
    assert client.replace("k", b"3", etag)
    assert not client.replace("k", b"4", etag)
    assert not client.replace("gone", b"4", etag)
    assert (client.read("k") or (b"", ""))[0] == b"3"


@pytest.mark.parametrize("size", [1, 40 << 20], ids=["one piece", "in parts"])
def test_a_file_that_is_there_is_not_sent_again_and_a_changed_one_is(client: StoreClient, tmp_path: Path, size: int) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(os.urandom(size))
    first = hashlib.sha256(file.read_bytes()).hexdigest()
    moved: list[int] = []
    assert client.upload(file, "w", first, moved.append) == size
    assert client.upload(file, "w", first, moved.append) == 0
    assert sum(moved) == 2 * size
    assert client.upload(file, "w", first, moved.append, again=True) == size
    file.write_bytes(os.urandom(size) + b"x")
    assert client.upload(file, "w", hashlib.sha256(file.read_bytes()).hexdigest(), moved.append) == size + 1
    client.download("w", tmp_path / "back", moved.append)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_bytes_corrupted_on_the_way_down_are_noticed(places: LivePlaces, proxy: Proxy, tmp_path: Path) -> None:
    client = open_store(places, "proxied")
    (tmp_path / "f").write_bytes(b"true bytes")
    client.upload(tmp_path / "f", "f", hashlib.sha256(b"true bytes").hexdigest(), lambda _: None)
    proxy.corrupt = "/f"
    with pytest.raises(IntegrityError, match="corrupted on the way"):
        client.download("f", tmp_path / "g", lambda _: None)


def test_a_prefix_that_climbs_is_refused() -> None:
    with pytest.raises(BadConfig, match="prefix"):
        connect("aws", Store(bucket="bucket", prefix="a/../b"))


def test_the_address_comes_from_the_environment_where_the_settings_have_none(
    s3_server: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    connect("aws", Store(bucket=bucket)).check()
