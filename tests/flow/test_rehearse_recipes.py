"""Every recipe as it is in its file, rehearsed against a Hub on 127.0.0.1 with the layout of the
real data sets and the classes of the real models."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bezoar.flow.recipe import load_recipe
from tests.helpers.hub import TOKEN, Hub, serving_hub
from tests.helpers.hub_datasets import add_datasets
from tests.helpers.hub_models import (
    WEIGHTS,
    add_models,
    plant_converted_model,
    plant_packaged_model,
)

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with all that recipes name."""
    for package in ("torch", "datasets", "lm_eval", "sentencepiece"):
        pytest.importorskip(package)
    with serving_hub(tmp_path_factory.mktemp("hub")) as served:
        add_datasets(served)
        add_models(served)
        yield served


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches, in which the demo's model lies unpacked and OpenLLaMA converted."""
    folder = tmp_path_factory.mktemp("home")
    plant_packaged_model(folder / "bezoar")
    plant_converted_model(folder / "bezoar")
    return folder


@pytest.mark.real
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_rehearsed_as_it_is_in_its_file(
    path: Path, hub: Hub, home: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bezoar", "rehearse", str(path), "--offline"],
        cwd=tmp_path,
        env=hub.environment(home, HF_TOKEN=TOKEN, OMP_NUM_THREADS="1", COLUMNS="200"),
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    # the estimate behind the table has a line a stage as well
    table = done.stdout.partition("At full size")[0]
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    for name in load_recipe(path).stages:
        assert " ok " in lines[name], told
    assert "At full size, about" in told
    # nothing was written where a run would be, and no weights were fetched
    assert not list(tmp_path.iterdir())
    assert not [size for _, _, size in hub.asked if size == len(WEIGHTS)]
