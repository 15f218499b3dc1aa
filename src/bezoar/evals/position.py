"""Whether a judge reads the answers, of pairs or only where they stand, or grades all alike.

Every pair is judged in both orders. A judge that goes by position contradicts itself: it names the
first answer, then the other one, which is now first. Consistency over the two orders is the measure
of arXiv 2306.05685 (section 3.3, table 2): 0.65 for GPT-4, 0.46 for GPT-3.5, 0.24 for the weakest
judge there. A coin agrees with itself in half of the pairs.
"""

import math
from collections.abc import Sequence

from bezoar.chat.types import Comparison
from bezoar.verdicts.accept_reject import Unparsed
from bezoar.verdicts.pairwise import Preference

LEAST_CONSISTENT = 0.2
LEAST_GRADES = 8
"""Equal grades of fewer answers condemn no judge; ours."""
SIGNIFICANT = 0.05


def cannot_judge(pairs: Sequence[Comparison], verdicts: Sequence[Preference]) -> str:
    """Why these verdicts measure nothing, half a sentence; "" where they may.

    Only pairs of two different answers with two read verdicts count. A judge cannot judge

    - if no answer gained in any of them: each pair went by position, or each game was a tie;
    - or if at most a fifth of the pairs without a tie had the same winner in both orders, which is
      below any judge of the paper, and so few are unlikely (p < 0.05) even for a coin, so that
      small numbers condemn no judge by chance: P(X <= same | n, 1/2), exact binomial.
    """
    games = [
        (verdict.first, verdict.second)
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if pair.chosen != pair.rejected
        and not isinstance(verdict.first, Unparsed)
        and not isinstance(verdict.second, Unparsed)
    ]
    if not games:
        return ""
    decided = [sides for sides in games if "tie" not in sides]
    same = sum(first == second for first, second in decided)
    gained = same + sum((first == "tie") != (second == "tie") for first, second in games)
    if not gained and not decided:
        return f"cannot judge: the judge called all {2 * len(games)} games a tie"
    by_position = same <= LEAST_CONSISTENT * len(decided)
    if gained and not (by_position and _at_most(same, len(decided)) < SIGNIFICANT):
        return ""
    first = sum((first == "A") + (second == "B") for first, second in decided)
    place, num = max(("first", first), ("second", 2 * len(decided) - first), key=lambda p: p[1])
    return (
        f"cannot judge: the judge named the {place} position in {num} of {2 * len(decided)} games,"
        f" and the same answer in both orders in {same} of {len(decided)} pairs"
    )


def grades_alike(grades: Sequence[float], answers: Sequence[str]) -> str:
    """Why these grades measure nothing, half a sentence: all are equal though answers differ; ""
    where they may."""
    if len(grades) < LEAST_GRADES or len(set(grades)) > 1 or len(set(answers)) < 2:
        return ""
    return f"cannot judge: the judge graded all {len(grades)} answers {grades[0]:g}"


def _at_most(num: int, n: int) -> float:
    """P(X <= num) of n throws of a fair coin."""
    return float(sum(math.comb(n, k) for k in range(num + 1)) / 2**n)
