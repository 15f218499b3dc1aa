"""Training objectives by kind."""

from bezoar.train.objectives.asft import ASFT
from bezoar.train.objectives.bradley_terry import BradleyTerry
from bezoar.train.objectives.dpo import DPO
from bezoar.train.objectives.hinge import Hinge
from bezoar.train.objectives.ipo import IPO
from bezoar.train.objectives.kto import KTO
from bezoar.train.objectives.orpo import ORPO
from bezoar.train.objectives.regression import Regression
from bezoar.train.objectives.sft import SFT
from bezoar.train.objectives.simpo import SimPO
from bezoar.train.objectives.steerlm2 import SteerLM2

OBJECTIVES: dict[str, type] = {
    "sft": SFT,
    "dpo": DPO,
    "ipo": IPO,
    "hinge": Hinge,
    "simpo": SimPO,
    "orpo": ORPO,
    "asft": ASFT,
    "kto": KTO,
    "steerlm2": SteerLM2,
    "bradley_terry": BradleyTerry,
    "regression": Regression,
}
