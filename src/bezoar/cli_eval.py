"""The verbs of the command line that evaluate or revise outside a recipe."""

from pathlib import Path
from typing import Annotated

import typer

SUBJECT = (
    "a model's folder or name, an adapter's folder, RUN:STAGE, MODEL@URL, a backend's YAML file, or"
    " a file of answers"
)
JudgeOption = Annotated[
    str, typer.Option(help="the judge: a model of these kinds, or a reward model")
]
VerdictOption = Annotated[
    str, typer.Option(help="how a judge is read: text, structured, logprob or (MT-Bench) fastchat")
]
QuestionsOption = Annotated[
    str, typer.Option(help="a file of questions; default the 32 that ship with bezoar")
]
RegularisationOption = Annotated[
    str, typer.Option(help="AlpacaEval's df_gamed.csv, for annotations of AlpacaEval 2")
]
LimitOption = Annotated[int | None, typer.Option(min=1, max=2**31, help="the first so many items")]
DtypeOption = Annotated[str, typer.Option(help="bfloat16 or float32")]
TokensOption = Annotated[
    int | None,
    typer.Option(min=1, max=2**20, help="of an answer; default 1,024 in MT-Bench, 256 for calls"),
]
ShotsOption = Annotated[
    int | None,
    typer.Option(min=0, max=2**16, help="examples before a question; default the task's own"),
]
ChatTemplateOption = Annotated[
    bool, typer.Option("--chat-template", help="put the tasks' prompts into the chat template")
]
ToolsOption = Annotated[
    list[str] | None,
    typer.Option(help="the Berkeley function-calling leaderboard's files, or their folder"),
]
IfevalOption = Annotated[str, typer.Option(help="IFEval's prompts, a file or google/IFEval")]
EngineOption = Annotated[
    str, typer.Option(help="vllm, or a YAML file of `engine`: draws answers of models with weights")
]
ResultsOption = Annotated[
    Path | None, typer.Option("--out", help="the folder of the results; default evals/<names>")
]


def evaluate(
    model: Annotated[str, typer.Argument(help=SUBJECT)],
    tasks: Annotated[
        str,
        typer.Option(
            help="tasks of LM-Eval-Harness by name, or files of items, with commas between"
        ),
    ] = "",
    query: Annotated[str, typer.Option(help="a file's prompt, with {query} in it")] = "{query}",
    shots: ShotsOption = None,
    chat_template: ChatTemplateOption = False,
    mt_bench: Annotated[bool, typer.Option("--mt-bench", help="MT-Bench; needs --judge")] = False,
    pairs: Annotated[
        list[str] | None, typer.Option(help="gold pairs (LLMBar, RewardBench); may be given again")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="score the pairs by implicit reward over this model")
    ] = "",
    judge: JudgeOption = "",
    verdict: VerdictOption = "text",
    questions: QuestionsOption = "",
    tools: ToolsOption = None,
    ifeval: IfevalOption = "",
    max_tokens: TokensOption = None,
    limit: LimitOption = None,
    regularisation: RegularisationOption = "",
    base: Annotated[str, typer.Option(help="the base model of an adapter folder")] = "",
    dtype: DtypeOption = "bfloat16",
    template: Annotated[str, typer.Option(help="chatml, hermes, hub or openbezoar")] = "",
    engine: EngineOption = "",
    out: ResultsOption = None,
) -> None:
    """Score a model on tasks, MT-Bench, gold pairs, calls or IFEval; the same command goes on."""
    from bezoar.flow import standalone_eval as alone
    from bezoar.flow.eval_engine import with_engine
    from bezoar.flow.model_argument import find_model
    from bezoar.report.console import print_outcome
    from bezoar.terminal import Console

    # 1) every name on the command line is found before anything is opened or asked
    subjects = {model: find_model(model, base=base, dtype=dtype, template=template)}
    more = {judge, reference} - {"", model}
    subjects |= {name: find_model(name, dtype=dtype) for name in sorted(more)}
    subjects = with_engine(subjects, engine)
    # 2) the sections of a recipe's evaluation, left out where nothing asks for them
    keys = {"limit": limit, "questions": questions, "max_tokens": max_tokens}
    sections = {
        "lm_eval": alone.listed_tasks(
            tasks, limit=limit, shots=shots, query=query, chat_template=chat_template
        ),
        "mt_bench": alone.with_judge(subjects.get(judge), verdict, keys) if mt_bench else {},
        "function_calling": alone.listed_calls(tools or [], limit=limit, max_tokens=max_tokens),
        "ifeval": alone.instructed(ifeval, limit=limit, max_tokens=max_tokens),
        **alone.gold(
            subjects[model], pairs or [], limit=limit, verdict=verdict, reference=reference
        ),
    }
    where = out, regularisation
    outcome = alone.evaluate_named(model, sections, subjects, *where, console=Console())
    print_outcome(outcome, Console(), alone.short(model))


def compare(
    first: Annotated[
        str, typer.Argument(help=f"{SUBJECT}, or the folder of a finished evaluation")
    ],
    second: Annotated[str, typer.Argument(help="what it is compared with")],
    judge: JudgeOption = "",
    verdict: VerdictOption = "text",
    questions: QuestionsOption = "",
    turn: Annotated[int, typer.Option(min=1, help="which turn of the questions is judged")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, max=2**20, help="of an answer")] = 512,
    limit: LimitOption = None,
    dtype: DtypeOption = "bfloat16",
    engine: EngineOption = "",
    out: ResultsOption = None,
) -> None:
    """The win rate of one model or answer file over another by a judge, or paired tests of two
    finished evaluations: without --judge also those of RUN:STAGE."""
    from bezoar.evals.finished import finished_pair
    from bezoar.flow.eval_engine import with_engine
    from bezoar.flow.model_argument import find_model
    from bezoar.flow.standalone_eval import evaluate_named, short, with_judge
    from bezoar.report.console import compare_finished, print_outcome
    from bezoar.terminal import Console

    # finished evaluations are compared item by item; a judge compares answers
    if not judge and not engine and (folders := finished_pair(first, second)):
        compare_finished(folders, out, Console())
        return
    subjects = {
        name: find_model(name, dtype=dtype) for name in (first, second, *filter(None, [judge]))
    }
    subjects = with_engine(subjects, engine)
    more = {
        "against": second,
        "questions": questions or subjects[first].own_questions,
        "turn": turn,
        "max_tokens": max_tokens,
        "limit": limit,
    }
    sections = {"win_rate": with_judge(subjects.get(judge), verdict, more)}
    outcome = evaluate_named(first, sections, subjects, out, console=Console())
    print_outcome(
        outcome, Console(), f"{short(first)} over {short(second)}, judged by {short(judge)}"
    )


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="run directories or folders of evaluations")],
    benchmark: Annotated[str, typer.Option(help="this benchmark alone")] = "",
) -> None:
    """Rank the evaluated models of several runs; scores that were not measured alike are never put
    in one table."""
    from bezoar.evals.leaderboard import leaderboard as rank
    from bezoar.evals.leaderboard import read_entries, strengths
    from bezoar.io import as_written
    from bezoar.report.console import print_leaderboard
    from bezoar.terminal import Console

    entries = read_entries(runs)
    with as_written(runs[0]):
        print_leaderboard(rank(entries, benchmark), strengths(entries), Console())


def revise(
    model: Annotated[
        str, typer.Argument(help="what revises: a model folder or name, RUN:STAGE, MODEL@URL")
    ],
    answers: Annotated[
        Path,
        typer.Argument(help="chats (JSON Lines, Parquet) or, with --questions, FastChat's answers"),
    ],
    out: Annotated[
        Path, typer.Option(help="the file of revised rows, with every iteration and its critique")
    ],
    times: Annotated[int, typer.Option(min=1, help="iterations at most")] = 5,
    questions: Annotated[
        str, typer.Option(help="FastChat's question file, or bezoar:questions.jsonl")
    ] = "",
    turn: Annotated[int, typer.Option(min=1, max=2, help="which turn of the questions")] = 1,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="most tokens of a critique with its revision")
    ] = 1024,
) -> None:
    """Criticise and revise answers again and again; the same command goes on after Ctrl-C."""
    from bezoar.flow.revise import revise_file
    from bezoar.terminal import Console

    revise_file(
        model,
        answers,
        out,
        questions=questions,
        turn=turn,
        times=times,
        max_tokens=max_tokens,
        console=Console(),
    )
