"""What is found out about a model of OpenVINO without OpenVINO."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from bezoar.errors import DataError, RecipeError
from bezoar.flow.preflight import check_files, check_machine
from bezoar.flow.recipe import Recipe, load_recipe
from bezoar.llm.gguf_head import check_gguf
from bezoar.llm.openvino import Openvino

RECIPE = """
name: asked
backends:
  teacher: {{kind: openvino, model: {model}}}
stages:
  tasks: {{kind: flan, path: "bezoar:tasks.jsonl"}}
  orca: {{kind: orca, seeds: tasks, teacher: teacher, num_rows: 2, hint: "bezoar:orca_hint.txt"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "q8.gguf"):
        (model / name).write_text('{"max_position_embeddings": 512}')
    return model


def recipe(model: Path) -> Recipe:
    path = model.parent / "asked.yaml"
    path.write_text(RECIPE.format(model=model))
    return load_recipe(path)


def test_a_model_that_is_not_there(folder: Path) -> None:
    for model in (folder, folder / "q4.gguf", folder / "none"):
        with pytest.raises(
            RecipeError, match=r"asked\.yaml:4: backends.teacher.model: .*neither a"
        ):
            check_files(recipe(model))
    (folder / "openvino_model.xml").touch()
    check_files(recipe(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="no max_position_embeddings; add the length"):
        check_files(recipe(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        RecipeError, match=r"no tokenizer\.json in .*; copy config\.json, tokenizer"
    ):
        check_files(recipe(folder / "q8.gguf"))


@pytest.mark.skipif(find_spec("openvino_genai") is not None, reason="OpenVINO is installed")
def test_without_openvino_a_sentence_says_how_to_install_it(folder: Path) -> None:
    asked = recipe(folder / "q8.gguf")
    with pytest.raises(RecipeError, match=r"teacher: OpenVINO is not installed; run `pip install"):
        check_machine(asked, {"orca"})


def test_a_key_names_what_answers_depend_on(folder: Path) -> None:
    asked = Openvino(str(folder / "q8.gguf"))

    before = asked.identity
    (folder / "q4.gguf").write_text("another")
    assert asked.identity == before
    keys = {before, Openvino(str(folder / "q4.gguf")).identity}
    keys.add(Openvino(str(folder / "q8.gguf"), "float32").identity)
    (folder / "tokenizer.json").write_text("changed")
    keys.add(asked.identity)
    assert len(keys) == 4


def test_a_cut_file_is_found_before_it_ends_the_process(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 2.0])
    writer.add_tensor("output.weight", np.ones((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_gguf(file)
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 30, 3, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut or damaged; fetch it again"):
            check_gguf(file)
    file.write_bytes(b"words" * 9)
    with pytest.raises(DataError, match="no GGUF file"):
        check_gguf(file)
