"""LaMini's topics: the paper's rule on Wikipedia's categories, or a list of one's own."""

from pathlib import Path

import pytest

from bezoar.errors import DataError
from bezoar.synth.topics import read_topics


def test_a_table_of_categories_is_sifted_by_the_papers_rule(tmp_path: Path) -> None:
    path = tmp_path / "categories.csv"
    path.write_text(
        "cat_id,cat_title,cat_pages,cat_subcats,cat_files\n"
        "1,Marine_biology,51,11,0\n"  # just over both
        "2,Physics,50,400,0\n"  # not more than 50 pages
        "3,Chemistry,900,10,0\n"  # not more than 10 sub-categories
        "4,History_of_science,900,90,0\n"  # three words
        '5,"Rock, pop",900,90,0\n'
        "6,Marine biology,60,12,0\n"  # the first once more
    )
    assert read_topics(str(path)) == ["Marine biology", "Rock, pop"]


def test_other_names_of_columns_and_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "categories.jsonl"
    path.write_text('{"title": "Bees", "pages": 70, "subcategories": 20}\n')
    assert read_topics(str(path)) == ["Bees"]
    path.write_text('{"title": "Bees", "pages": 70}\n')
    with pytest.raises(DataError, match=r"jsonl:1: the row has no column 'cat_subcats'"):
        read_topics(str(path))
    path.write_text('{"title": "Bees", "pages": "many", "subcategories": 20}\n')
    with pytest.raises(DataError, match=r"jsonl:1: the column 'pages' is 'many', not a number"):
        read_topics(str(path))


def test_a_list_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "topics.txt"
    path.write_text("History of modern science\n\nBees\n")
    assert read_topics(str(path)) == ["History of modern science", "Bees"]
    assert len(read_topics("bezoar:topics.txt")) > 100
