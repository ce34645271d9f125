"""The local S3, by the real server."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services import s3 as module
from services.s3 import LocalS3, start_s3
from tasks.errors import MissingPart
from tests.live import eventually

USER = """
import sys
from pathlib import Path
from services.s3 import start_s3
with start_s3(Path(sys.argv[1])) as s3:
    print(s3.endpoint_url, flush=True)
    sys.stdin.read()
"""


def client(s3: LocalS3, **changes: Any) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key, **changes}
    config = Config(proxies={}, retries={"total_max_attempts": 1})
    return Session().client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1", config=config, **keys)


def user(home: Path) -> tuple["subprocess.Popen[str]", str]:
    """Another process that uses the server, and where it found it."""
    process = subprocess.Popen([sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate()


def pid(home: Path, lock: str) -> int:
    return int((home / "s3" / lock).read_text())


def lives(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stopped(home: Path) -> bool:
    return not (home / "s3" / "state.json").exists() and not lives(pid(home, "keeper.lock")) and not lives(pid(home, "server.lock"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def s3(home: Path) -> Iterator[LocalS3]:
    with start_s3(home) as s3:
        client(s3).create_bucket(Bucket="shelf")
        yield s3


def status(refusal: Any) -> int:
    return int(refusal.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_what_was_put_is_read_back_whole_also_in_parts(s3: LocalS3) -> None:
    body = os.urandom(9_000_000)
    client(s3).put_object(Bucket="shelf", Key="a/b", Body=body)
    assert client(s3).get_object(Bucket="shelf", Key="a/b")["Body"].read() == body


def test_a_first_write_wins_and_a_second_is_refused(s3: LocalS3) -> None:
    from botocore.exceptions import ClientError

    client(s3).put_object(Bucket="shelf", Key="once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as refusal:
        client(s3).put_object(Bucket="shelf", Key="once", Body=b"2", IfNoneMatch="*")
    assert status(refusal) == 412
    assert client(s3).get_object(Bucket="shelf", Key="once")["Body"].read() == b"1"


def test_a_write_on_an_old_version_is_refused(s3: LocalS3) -> None:
    from botocore.exceptions import ClientError

    seen = client(s3).put_object(Bucket="shelf", Key="pointer", Body=b"1")["ETag"]
    client(s3).put_object(Bucket="shelf", Key="pointer", Body=b"2", IfMatch=seen)
    with pytest.raises(ClientError) as refusal:
        client(s3).put_object(Bucket="shelf", Key="pointer", Body=b"3", IfMatch=seen)
    assert status(refusal) == 412
    assert client(s3).get_object(Bucket="shelf", Key="pointer")["Body"].read() == b"2"


def test_wrong_credentials_are_refused(s3: LocalS3) -> None:
    from botocore.exceptions import ClientError

    for changes in ({"aws_secret_access_key": "x" * 40}, {"aws_access_key_id": "SOMEBODYELSE"}):
        with pytest.raises(ClientError) as refusal:
            client(s3, **changes).list_objects_v2(Bucket="shelf")
        assert status(refusal) == 403


def test_who_gives_no_credentials_is_refused(s3: LocalS3) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{s3.endpoint_url}/shelf")
    assert refusal.value.code == 403


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
def test_every_port_listens_on_loopback_alone(s3: LocalS3, home: Path) -> None:
    listening = [one for one in psutil.Process(pid(home, "server.lock")).net_connections("inet") if one.status == "LISTEN"]
    assert len(listening) >= 8
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_secret_shows_in_no_process_list_environment_or_log(s3: LocalS3, home: Path) -> None:
    for number in (pid(home, "server.lock"), pid(home, "keeper.lock")):
        for name in ("cmdline", "environ"):
            assert s3.secret_key.encode() not in Path(f"/proc/{number}/{name}").read_bytes()
    assert s3.secret_key not in (home / "s3" / "log").read_text()
    assert s3.secret_key not in repr(s3)


def test_files_with_the_secret_are_for_the_owner_alone(s3: LocalS3, home: Path) -> None:
    files = [home / "s3" / "state.json", home / "s3" / "config" / "s3.json", home / "s3" / "config" / "security.toml"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    assert s3.secret_key in files[0].read_text()


def test_a_second_process_shares_the_server(s3: LocalS3, home: Path) -> None:
    other, url = user(home)
    leave(other)
    assert url == s3.endpoint_url
    client(s3).head_bucket(Bucket="shelf")


def test_two_homes_have_two_servers(s3: LocalS3, tmp_path: Path) -> None:
    from botocore.exceptions import ClientError

    with start_s3(tmp_path) as other:
        assert other.endpoint_url != s3.endpoint_url
        with pytest.raises(ClientError):
            client(other).head_bucket(Bucket="shelf")


def test_it_stops_when_its_user_is_killed(tmp_path: Path) -> None:
    process, _ = user(tmp_path)
    process.kill()
    process.communicate()
    eventually(lambda: stopped(tmp_path))
    assert not list((tmp_path / "s3" / "users").iterdir())


def test_data_survives_a_kill_of_the_server_and_the_next_user_gets_a_new_one(tmp_path: Path) -> None:
    with start_s3(tmp_path) as first:
        client(first).create_bucket(Bucket="shelf")
        client(first).put_object(Bucket="shelf", Key="kept", Body=b"kept")
        server = pid(tmp_path, "server.lock")
        os.kill(server, signal.SIGKILL)
        eventually(lambda: not lives(server))
        with start_s3(tmp_path) as second:
            assert second.access_key != first.access_key
            assert client(second).get_object(Bucket="shelf", Key="kept")["Body"].read() == b"kept"


def test_a_killed_keeper_leaves_no_orphan_and_is_replaced(tmp_path: Path) -> None:
    with start_s3(tmp_path) as first:
        server = pid(tmp_path, "server.lock")
        os.kill(pid(tmp_path, "keeper.lock"), signal.SIGKILL)
        if sys.platform == "linux":
            eventually(lambda: not lives(server))
        with start_s3(tmp_path) as second:
            assert second.access_key != first.access_key
            client(second).list_buckets()
        assert not lives(server)
    eventually(lambda: stopped(tmp_path))


def test_without_seaweedfs_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPart, match=r"make setup.*demo"), start_s3(tmp_path):
        pass
