"""What is wrong with a file that is no YAML, in words of people who write recipes."""

import yaml


def in_plain_words(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """(the line, what is wrong there and what to do)."""
    mark, problem = error.problem_mark, error.problem or ""
    opened = error.context_mark.line + 1 if error.context_mark else 0
    line, lines = (mark.line + 1 if mark else 1), text.splitlines() or [""]
    written = lines[min(line, len(lines)) - 1]
    before = written[: mark.column] if mark else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return line, "the line is indented with a tab; write spaces"
    if "mapping values are not allowed" in problem:
        if ": " in before:
            return line, "a second `key:` in one line; give it a line of its own, or put quotes"
        if line > 1 and ":" not in lines[line - 2]:
            return line - 1, "the line is no `key: value`; add the colon and a space"
        advice = "indent it like the lines beside it, or leave nothing behind the key above"
        return line, f"the line is indented further than the one above, which is complete; {advice}"
    if "expected <block end>" in problem:
        advice = "lines of one table begin with the same number of spaces"
        return line, f"the line does not stand below those that begin in line {opened}; {advice}"
    if "simple key" in (error.context or "") or "expected ':'" in problem:
        return opened or line, "the line is no `key: value`; add the colon and a space"
    if "flow" in (error.context or ""):
        return line, f"the bracket that opens in line {opened} is not closed, or a comma is missing"
    if "quoted scalar" in (error.context or ""):
        return opened, "the quotation mark that opens here is not closed; close it"
    told = f"{error.context or ''} {problem}".strip()
    return line, f"{told.partition('; first occurrence')[0][:200]}; mend the line"
