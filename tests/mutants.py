"""Are the tests able to fail? mutmut changes the code of [tool.mutmut] in one place at a time; what
no test notices lives.

`make mutants` starts anew, `python tests/mutants.py NAME...` tries named mutants again after a
change of the tests. It prints the share killed by file and every mutant that lives and is not
listed in tests/mutants.md; exit code 1 when there are such or when a file has less than 90 %.

Only the tests of a module's own folder count, and of those that run the function the fastest,
together at most 30 s: a slow test is no place to learn of a wrong sign. Added to mutmut are
functions under one of the decorators below, which it leaves out, and the report.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import libcst as cst
import mutmut.__main__ as tool
from mutmut.mutation import file_mutation
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

DECORATORS = {"property", "contextmanager", "torch.no_grad()", "lru_cache(maxsize=2)"}
LISTED = Path(__file__).parent / "mutants.md"
LONGEST_S, MOST_S = 4.0, 30.0
NUM_WORKERS = 2
LEAST = 0.9
KILLED = {"killed", "timeout"}

SQL = re.compile(
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|WHERE|AND|VALUES|FROM|PRAGMA|BEGIN|COMMIT|ROLLBACK|FULL|OFF)\b"
)

skip, create, arrange, collect = (
    file_mutation.MutationVisitor._skip_node_and_children,
    file_mutation.MutationVisitor._create_mutations,
    file_mutation.function_trampoline_arrangement,
    tool.collect_or_load_stats,
)


def is_plain(function: cst.FunctionDef) -> bool:
    """Whether the decorators may stay around what chooses between the function and its mutants."""
    return all(cst.Module([]).code_for_node(d.decorator) in DECORATORS for d in function.decorators)


def skip_fewer(visitor: Any, node: cst.CSTNode) -> bool:
    """mutmut's choice of what is left alone, without decorators that do no harm."""
    bare = isinstance(node, cst.FunctionDef) and is_plain(node)
    return skip(visitor, node.with_changes(decorators=()) if bare else node)


def create_fewer(visitor: Any, node: cst.CSTNode) -> None:
    """mutmut's mutants of a node, but for SQL in other capitals, which is the same SQL."""
    before = len(visitor.mutations)
    create(visitor, node)
    if isinstance(node, cst.SimpleString) and SQL.search(node.value):
        same = node.value.casefold()
        visitor.mutations[before:] = [
            m for m in visitor.mutations[before:] if m.mutated_node.value.casefold() != same
        ]


def arrange_bare(function: cst.FunctionDef, mutants: Any, class_name: str | None) -> Any:
    """The function and its mutants without decorators; what chooses between them has all of
    them."""
    if not is_plain(function):
        return arrange(function, mutants, class_name)
    before, (chooser, *copies), *after = arrange(
        function.with_changes(decorators=()), mutants, class_name
    )
    return (
        before,
        [chooser.with_changes(decorators=[*function.decorators, *chooser.decorators]), *copies],
        *after,
    )


def collect_own(*args: Any, **kwargs: Any) -> None:
    """mutmut's record of which test runs which function, cut to the fast tests of the folder that
    mirrors the function's, fastest first."""
    collect(*args, **kwargs)
    record, seconds = state().tests_by_mangled_function_name, state().duration_by_test
    for name, tests in record.items():
        own = f"tests/{name.split('.')[1]}/"
        fastest = sorted(
            (test for test in tests if test.startswith(own) and seconds[test] <= LONGEST_S),
            key=seconds.__getitem__,
        )
        sums = accumulate(seconds[test] for test in fastest)
        record[name] = dict.fromkeys(
            test for test, total in zip(fastest, sums, strict=True) if total <= MOST_S
        )


def change(mutant: str, path: Path) -> str:
    """What the mutant changes, `before` → `after`, lines joined."""
    lines = [
        line
        for line in get_diff_for_mutant(mutant, path=path).splitlines()
        if line[:3] not in ("---", "+++")
    ]
    before, after = (
        " ".join(line[1:].strip() for line in lines if line[:1] == sign) for sign in "-+"
    )
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    rest = min(len(before), len(after)) - start
    end = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    left, right = (
        max(0, before.rfind(" ", 0, max(0, start - 12)) + 1),
        (" " + before[len(before) - end :]).find(" ", 13),
    )
    keep = end if right < 0 else right
    parts = [
        text[left : len(text) - end + keep].strip().replace("|", "\\|") for text in (before, after)
    ]
    return f"`{parts[0]}` → `{parts[1]}`"


def report() -> int:
    """Print the table of files and the mutants that live; 1 where something is amiss."""
    listed, amiss = LISTED.read_text(encoding="utf-8"), 0
    kinds = re.findall(r"^\| (\S+) \| any \| `(.+)` \|", listed, re.MULTILINE)
    print("\n| file | mutants | killed | timeouts | live | share |\n|---|---|---|---|---|---|")
    living, sums = [], [0, 0]
    for path in sorted(walk_mutatable_files()):
        found = SourceFileMutationData(path=path)
        found.load()
        status = {
            name: status_by_exit_code[code]
            for name, code in found.exit_code_by_key.items()
            if code is not None
        }
        if not status:
            continue
        live = [name for name, what in status.items() if what not in KILLED]
        share = 1 - len(live) / len(status)
        sums = [sums[0] + len(status), sums[1] + len(live)]
        amiss |= share < LEAST
        late = sum(what == "timeout" for what in status.values())
        print(
            f"| {path} | {len(status)} | {len(status) - len(live) - late} | {late} | {len(live)} |"
            f" {share:.1%} |"
        )
        living += [(path, name, status[name]) for name in live]
    print(f"| all | {sums[0]} | | | {sums[1]} | {1 - sums[1] / max(1, sums[0]):.1%} |\n")
    for path, name, what in living:
        function, answer_index = orig_function_and_class_names_from_key(name)
        what_changed = change(name, path)
        file = str(path.relative_to("src/bezoar"))
        row = (
            f"| {file} | {f'{answer_index}.' if answer_index else ''}{function} | {what_changed} |"
        )
        if row not in listed and not any(
            where in ("any", file) and re.search(kind, what_changed) for where, kind in kinds
        ):
            amiss = 1
            print(row, "" if what == "survived" else what, name.rpartition("_")[2])
    return amiss


def main(names: Sequence[str]) -> int:
    """Make the mutants, try them, report."""
    file_mutation.MutationVisitor._skip_node_and_children = skip_fewer  # type: ignore[method-assign]
    file_mutation.MutationVisitor._create_mutations = create_fewer  # type: ignore[method-assign]
    file_mutation.function_trampoline_arrangement = arrange_bare
    tool.collect_or_load_stats = collect_own
    if names != ["report"]:
        if not names:
            shutil.rmtree("mutants", ignore_errors=True)
        tool._run(list(names), NUM_WORKERS)
    return report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
