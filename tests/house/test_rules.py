"""The house rules that can be checked: layers, sizes, dead recipe keys, imports of the core,
words."""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "bezoar"
FILES = sorted(SRC.rglob("*.py"))
LAYERS = [
    "errors",
    "bounds",
    "strict_json",
    "reading",
    "secrets",
    "terminal",
    "io",
    "parquet",
    "rng",
    "cost",
    "launch",
    "references",
    "progress",
    "stop",
    "chat",
    "data",
    "prompts",
    "model",
    "llm",
    "stage",
    "verdicts",
    "judge",
    "synth",
    "train",
    "evals",
    "flow",
    "report",
    "cli_eval",
    "cli_init",
    "cli_journal",
    "cli",
    "__main__",
]
"""Folders and files of the package; each imports only from itself and from those above it in this
list."""
MOST_LINES = 50_600
HEAVY = {
    "aiohttp",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "lm_eval",
    "datasets",
    "pandas",
    "sklearn",
}


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node.lineno))
    return found


def module_name(file: Path) -> str:
    return "bezoar." + file.relative_to(SRC).as_posix().removesuffix(".py").removesuffix(
        "/__init__"
    ).replace("/", ".")


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text()) for file in FILES}


def test_a_layer_imports_only_from_those_above(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for file in trees.keys() - {SRC / "__init__.py"}:
        own = LAYERS.index(module_name(file).split(".")[1])
        below = {f"bezoar.{name}" for name in LAYERS[own + 1 :]}
        wrong += [
            f"{file}:{line} {name}"
            for name, line in imports(trees[file])
            if ".".join(name.split(".")[:2]) in below
        ]
    assert not wrong


def test_no_two_files_import_each_other(trees: dict[Path, ast.Module]) -> None:
    """Every file can be read before those that use it, imports inside functions included."""
    names = {module_name(file) for file in FILES}
    graph: dict[str, set[str]] = {}
    for file, tree in trees.items():
        members = {
            f"{n.module}.{a.name}"
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        }
        packages = {
            n.module
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom) and {f"{n.module}.{a.name}" for a in n.names} <= names
        }
        reads = ({name for name, _ in imports(tree)} - packages) | members
        graph[module_name(file)] = reads & names
    graphlib.TopologicalSorter(graph).prepare()


def test_files_and_functions_are_small(trees: dict[Path, ast.Module]) -> None:
    assert not [file for file in FILES if len(file.read_text().splitlines()) > 300]
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                assert size <= 60, f"{file}:{node.lineno} {node.name} is too long"


def test_the_package_is_small_and_says_why() -> None:
    """The limit of lines leaves out full-line comments, which are wanted."""
    lines = [line.strip() for file in FILES for line in file.read_text().splitlines()]
    comments = sum(line.startswith("#") for line in lines)
    assert len(lines) - comments < MOST_LINES
    assert comments / len(lines) > 0.03


def test_the_page_about_the_house_names_every_layer() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`(\w+)/?`", page.partition("## What a stage is")[0])
    assert not set(LAYERS) - {"__main__"} - set(named)


def test_the_command_line_and_recipes_load_without_heavy_packages() -> None:
    code = (
        "import sys, pathlib, bezoar.cli, bezoar.flow.recipe as r, bezoar.flow.plan,"
        " bezoar.report\n[r.load_recipe(p) for p in"
        f" pathlib.Path({str(ROOT / 'recipes')!r}).glob('*.yaml')]\nprint(sorted({HEAVY!r} &"
        " sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_imports_little() -> None:
    code = (
        "import sys, bezoar.cli; print(sorted({'pydantic', 'yaml', 'pyarrow', 'numpy', 'torch',"
        " 'openai'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_only_the_terminal_prints_and_nothing_is_read_as_rich_markup(
    trees: dict[Path, ast.Module],
) -> None:
    """What others wrote could move the cursor or be markup; `terminal` makes text of it."""
    files = [file for file in FILES if file.name != "terminal.py"]
    for file, node in ((path, node) for path in files for node in ast.walk(trees[path])):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in {
                "rich",
                "rich.console",
                "rich.text",
                "rich.markup",
                "rich.panel",
                "rich.rule",
            }, f"{file}:{node.lineno}"
        if isinstance(node, ast.Call):
            name, keys = (
                ast.unparse(node.func),
                {key.arg: ast.unparse(key.value) for key in node.keywords},
            )
            told = name in {"print", "sys.stdout.write", "typer.echo"} and not all(
                isinstance(arg, ast.Constant) for arg in node.args
            )
            assert not told, f"{file}:{node.lineno}"
            assert keys.get("markup", "False") == "False", f"{file}:{node.lineno}"
            assert name != "TextColumn" or "markup" in keys, f"{file}:{node.lineno}"


def test_every_recipe_key_is_read_by_some_code() -> None:
    from bezoar.evals.evaluate import Evaluate
    from bezoar.flow.recipe import KINDS
    from bezoar.llm import BACKENDS
    from bezoar.train.objectives import OBJECTIVES

    text = "\n".join(file.read_text() for file in FILES)
    dead = []
    # the sections of evaluations are gone through by their fields
    kinds = [
        cls for table in KINDS.values() for cls in table.values() if not issubclass(cls, Evaluate)
    ]
    for cls in [*kinds, *BACKENDS.values(), *OBJECTIVES.values()]:
        for field in dataclasses.fields(cls):
            if field.name != "kind" and not re.search(rf"\.{field.name}\b", text):
                dead.append(f"{cls.__name__}.{field.name}")
    assert not dead


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    forbidden = re.compile(r"/work/|\.\./shared|/root/|/opt/wheels")
    for name in listed:
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".jsonl"}
            and path.is_file()
            and name != "tests/house/test_rules.py"
        ):
            assert not forbidden.search(path.read_text(encoding="utf-8")), name


def test_no_pickle_no_eval_no_remote_code(trees: dict[Path, ast.Module]) -> None:
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "os.system"}, (
                    f"{file}:{node.lineno}"
                )
                assert not any(
                    k.arg == "trust_remote_code" and ast.unparse(k.value) == "True"
                    for k in node.keywords
                ), f"{file}:{node.lineno}"
                if name == "torch.load":
                    assert any(
                        k.arg == "weights_only" and ast.unparse(k.value) == "True"
                        for k in node.keywords
                    ), f"{file}:{node.lineno}"


def test_no_file_holds_the_marks_of_a_merge() -> None:
    pages = [page for name in ("docs", "recipes") for page in (ROOT / name).rglob("*.*")]
    texts = [path for path in [*pages, *ROOT.glob("*.md"), *FILES] if path.is_file()]
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert not [str(path) for path in texts if marks.search(path.read_text("utf-8"))]
