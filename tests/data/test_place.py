"""What a path names: relative files, folders, seeds of the package, Hub ids and their mirror."""

import json
from pathlib import Path

import pytest

from bezoar.data import HHRLHF, Dolly, Flan
from bezoar.data.files import hub_file
from bezoar.data.locate import MIRROR, is_hub_id, locate
from bezoar.errors import DataError

ROW = {"instruction": "Hi", "context": "", "response": "Yo", "category": "x"}


def put(path: Path, num: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({**ROW, "response": f"{path.name} {n}"}) + "\n" for n in range(num))
    )


def test_hub_ids_are_told_from_paths_by_their_form() -> None:
    assert is_hub_id("databricks/databricks-dolly-15k")
    for path in (
        "./a/b",
        "/a/b",
        "a/b.jsonl",
        "a/b/c",
        "bezoar:x.jsonl",
        "a",
        "~/b",
        "a/b.jsonl.gz",
        "../b",
    ):
        assert not is_hub_id(path)


def test_a_relative_path_is_read_against_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.jsonl")
    source = Dolly("data/a.jsonl")
    assert source.below(tmp_path).load().rows[0].id == "data/a.jsonl:1"
    assert source.below(tmp_path).files() == [tmp_path / "data" / "a.jsonl"]
    absolute = Dolly(str(tmp_path / "data" / "a.jsonl"))
    assert absolute.load().rows[0].id == "data/a.jsonl:1"


def test_a_folder_gives_its_data_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", "a/y.jsonl"):
        put(tmp_path / "d" / name)
    (tmp_path / "d" / "README.md").write_text("not data")
    source = Dolly("./d")
    assert [chat.id for chat in source.below(tmp_path).load().rows] == [
        "./d/a/y.jsonl:1",
        "./d/a/z.jsonl:1",
        "./d/b.jsonl:1",
    ]
    assert len(source.below(tmp_path).files()) == 3


def test_large_files_are_counted_without_reading_rows(tmp_path: Path) -> None:
    line = json.dumps({**ROW, "response": "x" * 1_000_000}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * 34 + "not JSON\n")
    assert 34 <= Dolly("a.jsonl").below(tmp_path).count() <= 36
    assert 30 <= Dolly("a.jsonl", skip=4).below(tmp_path).count() <= 32
    assert Dolly("a.jsonl", limit=5).below(tmp_path).count() == 5


def test_seeds_of_the_package_are_found_anywhere() -> None:
    rows = Dolly("bezoar:instructions.jsonl", limit=2).below(Path("/nowhere")).load().rows
    assert [row.id for row in rows] == [
        "bezoar:instructions.jsonl:1",
        "bezoar:instructions.jsonl:2",
    ]
    assert rows[0].meta["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("none.jsonl", "none.jsonl: no such file or folder"),
        ("bezoar:none.jsonl", "no such file or folder"),
        ("./d", "holds no data files"),
    ],
)
def test_a_missing_place_is_named(path: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=what):
        locate(path, tmp_path)


def test_a_known_hub_id_is_read_from_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "dolly" / "databricks-dolly-15k.jsonl", 3)
    monkeypatch.setenv("BEZOAR_DATA", str(tmp_path))
    source = Dolly("databricks/databricks-dolly-15k", limit=2)
    rows = source.below(Path("/nowhere")).load().rows
    assert [row.id for row in rows] == [f"dolly/databricks-dolly-15k.jsonl:{n}" for n in (1, 2)]
    assert rows[0].meta["licence"] == "CC BY-SA 3.0"
    assert source.count() == 2
    with pytest.raises(DataError, match="the mirror in BEZOAR_DATA holds only train"):
        Dolly("databricks/databricks-dolly-15k", split="test").load()
    with pytest.raises(DataError, match=r"hh-rlhf/harmless-base/test.jsonl.gz: no such file"):
        HHRLHF("Anthropic/hh-rlhf", subset="harmless-base", split="test").load()


def test_without_a_mirror_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BEZOAR_DATA", raising=False)
    (place,) = locate(
        "Anthropic/hh-rlhf", Path(), subset="harmless-base", split="test", subset_is="data_dir"
    )
    assert place.path is None
    assert (place.dataset, place.split, place.options) == (
        "Anthropic/hh-rlhf",
        "test",
        (("data_dir", "harmless-base"),),
    )
    source = Flan("kowndinya23/flan2022", per_submix=5)
    assert (source.files(), source.count()) == ([], 20)
    assert HHRLHF("Anthropic/hh-rlhf", subset="harmless-base", limit=7).count() == 7


@pytest.mark.parametrize(
    "ref",
    [
        "hub:",
        "hub:a",
        "hub:a/b",
        "hub:a/b/c/d/e",
        "hub:../x/y",
        "hub:a//b",
        "hub:a/b/" + "c" * 300,
        "hub:a/b/c\n",
        "hub:~/x/y",
    ],
)
def test_a_file_of_the_hub_that_is_none_is_one_sentence(ref: str) -> None:
    with pytest.raises(
        DataError, match="a file of the Hub is written hub:owner/name/split"
    ) as error:
        hub_file(ref)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_an_unknown_hub_id_is_not_looked_for_in_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_DATA", str(tmp_path))
    assert locate("some/dataset", Path())[0].path is None


def test_the_mirror_names_hub_ids_and_relative_paths() -> None:
    assert all(is_hub_id(key[0]) and not path.startswith("/") for key, path in MIRROR.items())
