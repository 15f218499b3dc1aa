"""Schemes: stages that write chats from seeds. A new one is a file, a line here and a test file."""

from bezoar.synth.bootstrap import Bootstrap
from bezoar.synth.cited_answers import CitedAnswers
from bezoar.synth.critique_revise import CritiqueRevise
from bezoar.synth.evol_instruct import EvolInstruct
from bezoar.synth.instruction_prompts import InstructionPrompts
from bezoar.synth.json_mode import JSONMode
from bezoar.synth.lamini import LaMini
from bezoar.synth.orca import Orca
from bezoar.synth.sampled_answers import Sample
from bezoar.synth.tool_calls import ToolCalls

SCHEMES: dict[str, type] = {
    "lamini": LaMini,
    "orca": Orca,
    "evol_instruct": EvolInstruct,
    "critique_revise": CritiqueRevise,
    "sample": Sample,
    "bootstrap": Bootstrap,
    "tool_calls": ToolCalls,
    "json_mode": JSONMode,
    "cited_answers": CitedAnswers,
    "instruction_prompts": InstructionPrompts,
}
