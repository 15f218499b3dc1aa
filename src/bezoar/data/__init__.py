"""Sources of rows. A new one needs a file with a dataclass, a line in SOURCES and a test file."""

from typing import Any

from bezoar.data.alpaca import Alpaca
from bezoar.data.columns import CSV, Columns
from bezoar.data.critiques import Critiques
from bezoar.data.dolly import Dolly
from bezoar.data.flan import Flan
from bezoar.data.helpsteer2 import HelpSteer2, HelpSteer2Preference
from bezoar.data.hh_rlhf import HHRLHF
from bezoar.data.sharegpt import ShareGPT
from bezoar.data.source import Source
from bezoar.data.ultrafeedback import UltraFeedback

SOURCES: dict[str, type[Source[Any]]] = {
    "dolly": Dolly,
    "flan": Flan,
    "hh_rlhf": HHRLHF,
    "ultrafeedback": UltraFeedback,
    "helpsteer2": HelpSteer2,
    "helpsteer2_preference": HelpSteer2Preference,
    "sharegpt": ShareGPT,
    "critiques": Critiques,
    "alpaca": Alpaca,
    "csv": CSV,
    "jsonl": Columns,
    "parquet": Columns,
    "hub": Columns,
}
