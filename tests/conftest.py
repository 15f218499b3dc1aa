"""A tiny random Llama with a byte-level tokenizer, saved as an ordinary model folder."""

import gc
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.byte_level import byte_level

# property tests: a few cases, the same ones every time; with BEZOAR_FUZZ_CASES new ones (how many
# of them: tests/helpers/fuzzing.py)
with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "bezoar",
        max_examples=50,
        derandomize=not os.environ.get("BEZOAR_FUZZ_CASES"),
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )
    settings.load_profile("bezoar")

# before torch is loaded, and for the processes that tests start: threads that spin while they wait
# starve each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# read when the library is loaded; else it tries for minutes where there is no network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a shell starts background jobs with Ctrl-C switched off, and what a test starts would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays: `gc.collect`, which trainings call, need not search it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def cache_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty cache of the test's own."""
    before = os.environ.get("BEZOAR_CACHE")
    os.environ["BEZOAR_CACHE"] = str(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    yield tmp_path / "cache"
    os.environ.pop("BEZOAR_CACHE")
    if before is not None:
        os.environ["BEZOAR_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 4 query and 2 key/value heads, one token a byte and four markers; float32 weights
    on a scale that is far from uniform."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    inner = byte_level()
    inner.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=272,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=259,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roomy_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` with room for long prompts."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("roomy") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What fuzzing took, where there was any."""
    fuzzing = sys.modules.get("tests.fuzzing")
    if fuzzing and fuzzing.TALLY.cases:
        most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        terminalreporter.write_line(
            f"fuzz: {fuzzing.TALLY.cases} cases, {fuzzing.TALLY.refused} refused in a sentence,"
            f" slowest {fuzzing.TALLY.slowest_s:.2f} s, at most {most_mb} MB"
        )
