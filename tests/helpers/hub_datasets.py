"""Puts the data sets that recipes and defaults name into a Hub of tests."""

from tests.helpers.hub import Hub
from tests.helpers.hub_questions import QUESTION_COPIES, QUESTIONS
from tests.helpers.hub_rows import GATED, ROW_COPIES, ROWS

DATASETS, COPIES = ROWS | QUESTIONS, ROW_COPIES | QUESTION_COPIES


def add_datasets(hub: Hub, *names: str) -> None:
    """All data sets, or those that are named by their ids."""
    for name in names or DATASETS:
        gated = "auto" if name in GATED else ""
        hub.add(name, DATASETS[name](), kind="datasets", gated=gated)
        if name in COPIES:
            # where the Hub keeps the rows of a repository that has only a loading script
            hub.add(name, COPIES[name](), kind="datasets", revision="refs/convert/parquet")
