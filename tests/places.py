"""Where names lead in a test that has no services."""

from tasks.settings import Endpoint, Settings, SharedLimit, Store


class NamedPlaces:
    """Places for a test: endpoints that it names, or none at all."""

    def __init__(self, settings: Settings, endpoints: dict[str, Endpoint] | None = None) -> None:
        self.settings = settings.model_copy(update={"endpoints": {**settings.endpoints, **(endpoints or {})}})
        self.open = dict(endpoints or {})
        self.asked: list[str] = []

    def endpoint(self, name: str) -> Endpoint:
        self.asked.append(name)
        return self.open[name]

    def limits(self, name: str) -> SharedLimit | None:
        return None

    def store(self, name: str) -> tuple[Store, dict[str, str]]:
        raise AssertionError("this test has no store")
