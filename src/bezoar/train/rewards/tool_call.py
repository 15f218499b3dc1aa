"""Whether the answer makes the row's calls."""

from dataclasses import dataclass
from typing import Literal

from bezoar.chat.messages import offered
from bezoar.chat.types import AnyRow, Chat
from bezoar.train.rewards.program import Program
from bezoar.verdicts.tool_call import Expected, as_expected, judge_calls


@dataclass(frozen=True)
class ToolCallReward(Program):
    """1 if the answer makes the calls of the row's own answer, by the rules of BFCL, else 0.

    Where the row's own answer calls nothing, an answer without a call is right. The row must offer
    tools and end with an answer.

    Source: the Berkeley Function-Calling Leaderboard's AST matching
    Example: {kind: tool_call}
    """

    kind: Literal["tool_call"] = "tool_call"

    def read(self, row: AnyRow) -> Expected:
        """The calls that are right."""
        if not offered(row.prompt):
            raise ValueError("no tool is offered")
        # an answer of a pair is text, and says less of its calls than a message
        if not isinstance(row, Chat) or row.messages[-1].role != "assistant":
            raise ValueError("it is no chat that ends with an answer")
        return as_expected(row.messages[-1].tool_calls)

    def score(self, row: AnyRow, text: str) -> float:
        return float(judge_calls(text, offered(row.prompt), self.read(row)).right)
