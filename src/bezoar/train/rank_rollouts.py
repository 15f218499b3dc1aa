"""Answers of an update over several ranks: each draws, reads and scores its own, and all know all.

What is exchanged is small beside what is computed: tokens, and numbers by token. So every rank
works out advantages, whitening and the statistics of a group from the whole update, as one process
does.
"""

from collections.abc import Mapping, Sequence

from bezoar.model.prompt_group import answer
from bezoar.train.ranks import Ranks
from bezoar.train.rollout import Prompt, Rollout


def deal(ranks: Ranks, prompts: Sequence[Prompt], sizes: Sequence[int]) -> list[int]:
    """The places of this rank's answers to `prompts`, of about equal `sizes` together; all answers
    to one are one rank's, which can share its states."""
    places: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault(prompt.id, []).append(index)
    blocks = list(places.values())
    own = ranks.deal(blocks, [sum(sizes[i] for i in block) for block in blocks])
    return sorted(i for block in own for i in block)


def deal_rollouts(ranks: Ranks, rollouts: Sequence[Rollout]) -> list[int]:
    """The same of answers that are there."""
    sizes = [rollout.group.num_input_tokens for rollout in rollouts]
    return deal(ranks, [rollout.prompt for rollout in rollouts], sizes)


def together(
    ranks: Ranks,
    prompts: Sequence[Prompt],
    prefixes: Sequence[list[int]],
    own: Mapping[int, Rollout],
) -> list[Rollout]:
    """An answer to each prompt, from those that each rank has drawn, by their place."""
    if ranks.size == 1:
        return [own[i] for i in range(len(prompts))]
    longest = max((len(rollout.tokens) for rollout in own.values()), default=0)
    most = ranks.most(longest)
    rows = {i: [r.ended, len(r.tokens), *r.tokens] for i, r in own.items()}
    table = ranks.gather(rows, len(prompts), 2 + most).long().tolist()
    return [
        Rollout(prompt, answer(prompt.tokens, tokens[:size]), len(prefix), bool(ended))
        for prompt, prefix, (ended, size, *tokens) in zip(prompts, prefixes, table, strict=True)
    ]
