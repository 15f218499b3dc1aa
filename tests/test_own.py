"""What is kept and can be made anew is known to be whole, or set aside."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bezoar.errors import DataError
from bezoar.evals.outcome import Outcome, cache_parts_in
from bezoar.evals.stats import Score
from bezoar.io import read_checked, read_intact, write_checked

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "another number": lambda data: data.replace(b"0.25", b"0.75"),
    "another name": lambda data: data.replace(b'"n"', b'"m"'),
    "a list": lambda data: b"[" + data + b"]",
    "no sum": lambda data: data.replace(b'"sum"', b'"summe"'),
    "bytes": lambda data: b"\xff\xfe\x00",
}


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    write_checked(tmp_path / "a.json", {"n": (1, 2.5, float("nan")), "m": {10: "é", 9: None}})
    found = read_intact(tmp_path / "a.json")
    assert found is not None
    assert found["n"][:2] == [1, 2.5]
    assert found["m"] == {"10": "é", "9": None}
    assert read_intact(tmp_path / "b.json") is None
    with pytest.raises(DataError, match=r"b\.json"):
        read_checked(tmp_path / "b.json")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_part_of_an_evaluation_is_made_anew(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def make() -> Outcome:
        made.append(1)
        return Outcome(
            [Score("acc", 0.25, 0.1, 0.5, 4)],
            [{"benchmark": "acc", "id": "1", "value": 0.25}],
            {"n": 4},
        )

    cache_parts_in(tmp_path)("part", make)
    [file] = tmp_path.iterdir()
    assert cache_parts_in(tmp_path)("part", make) == make()
    assert len(made) == 2
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[name](whole))
    assert cache_parts_in(tmp_path)("part", make) == Outcome.from_dict(make().to_dict())
    assert len(made) == 4
    assert file.read_bytes() == whole
    assert f"it was set aside as {file}.damaged and is made anew." in capsys.readouterr().err
