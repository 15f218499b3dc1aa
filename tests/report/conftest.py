from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.fake_run import build_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that read it do not change it."""
    return build_run(tmp_path_factory.mktemp("whole") / "demo")


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Path]:
    """Builds a run of one's own: `fresh(until="dpo")`."""

    def build(**options: object) -> Path:
        return build_run(tmp_path / "demo", **options)  # type: ignore[arg-type]

    return build
