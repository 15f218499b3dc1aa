"""The finished evaluations behind two names of the command line: folders, or models of runs."""

from pathlib import Path

from bezoar.errors import RecipeError
from bezoar.evals.outcome import read_scores
from bezoar.references import stage_folders


def finished_pair(first: str, second: str) -> list[Path]:
    """The two folders that are compared; empty where a name is neither an evaluation nor RUN:STAGE
    of a model that was evaluated. RecipeError, with the folders, where several would do."""
    candidates = [_finished(first), _finished(second)]
    if not all(candidates):
        return []
    if any(len(folders) > 1 for folders in candidates):
        there = [
            f"{name} has {', '.join(map(str, folders))}"
            for name, folders in zip((first, second), candidates, strict=True)
        ]
        several = f"there are several finished evaluations: {'; '.join(there)}"
        raise RecipeError(f"{several}; name two of these folders.")
    return [folders[0] for folders in candidates]


def _finished(name: str) -> list[Path]:
    """The folders with scores of an evaluation, of its stage RUN:STAGE, or of a model RUN:STAGE."""
    if (Path(name) / "scores.json").is_file():
        return [Path(name)]
    run, _, wanted = name.rpartition(":")
    folders = [
        (stage, path)
        for stage, path in (stage_folders(Path(run)) if run else [])
        if (path / "scores.json").is_file() and (path / "key.json").is_file()
    ]
    return [
        path
        for stage, path in folders
        if stage == wanted or read_scores(path, lenient=True)["model"] == wanted
    ]
