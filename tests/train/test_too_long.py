"""Rows over the limit, cut as the code of OpenBezoar's authors cuts them: the first tokens of the
whole text, all of them trained, with the end token only where nothing was cut."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bezoar.chat.templates import DEFAULT_SYSTEM, OpenBezoarTemplate
from bezoar.chat.tokenizer import HubTokenizer
from bezoar.chat.types import Chat, Message
from bezoar.model.tokenizer import load_tokenizer
from bezoar.train.label_check import check_labels
from bezoar.train.objectives.sft import SFT

ROW = Chat("r", (Message("user", "Name a sea."), Message("assistant", "The North Sea, say.")))
TEXT = f"### System:\n{DEFAULT_SYSTEM}\n\n### Instruction:\nName a sea.\n\n### Response:"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> HubTokenizer:
    return load_tokenizer(str(tiny_model))


@pytest.mark.parametrize("missing", [0, 1, 7, 25, 60, 200])
def test_the_first_tokens_of_the_whole_text_are_trained(
    tokenizer: HubTokenizer, missing: int
) -> None:
    whole = tokenizer.encode("<s>" + TEXT + "The North Sea, say.", markers=True)
    whole.append(tokenizer.eos_id)
    found = check_labels(
        [ROW],
        SFT(loss_on="all"),
        OpenBezoarTemplate(),
        tokenizer,
        max_length=len(whole) - missing,
        too_long="cut",
    )
    assert not found.dropped
    [example] = found.rows
    [completion] = example.group.completions
    tokens = [*example.group.prompt, *completion.tokens]
    assert tokens == whole[: len(whole) - missing]
    # one token begins the text and is predicted by nothing
    assert len(example.group.prompt) <= 1
    assert all(completion.trained)
    assert (tokens[-1] == tokenizer.eos_id) == (missing == 0)
    assert example.cut == (missing > 0)


def test_one_token_may_begin_and_end_a_text(tiny_model: Path, tmp_path: Path) -> None:
    """As in Falcon and Pythia, whose tokenizers have no other."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    same = {"bos_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **same}))
    tokenizer, objective = load_tokenizer(str(folder)), SFT()
    assert tokenizer.bos_id == tokenizer.eos_id
    limits: dict[str, Any] = {"max_length": 9999, "too_long": "drop"}
    found = check_labels([ROW], objective, OpenBezoarTemplate(), tokenizer, **limits)
    assert len(found.rows) == 1
