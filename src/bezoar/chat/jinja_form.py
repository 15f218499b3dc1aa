"""Templates as Jinja, the form in which other tools read them, with marks around what is trained.

All that they write is in expressions: text between tags would depend on how a tool treats lines.
"""

import re

from bezoar.chat.tool_calls import CLOSE, CLOSE_IN_JSON, OPEN

_CHATML = r"""
{% if SYSTEM and (not messages or messages[0].role != 'system') %}
  {{ '<|im_start|>system\n' ~ SYSTEM ~ '<|im_end|>\n' }}
{% endif %}
{% for message in messages %}
  {% if message.tool_calls %}{{ raise_exception('this template writes no tool calls') }}{% endif %}
  {{ '<|im_start|>' ~ message.role ~ '\n' }}
  {% if message.role == 'assistant' %}
    {% generation %}{{ message.content ~ '<|im_end|>' }}{% endgeneration %}
    {{ '\n' }}
  {% else %}
    {{ message.content ~ '<|im_end|>\n' }}
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
# what others offer is written as `Tool.to_json` writes it, and their calls, whose arguments may be
# JSON text, as `write_call` does
_HERMES = r"""
{% set has_system = messages and messages[0].role == 'system' %}
{% set own = (messages[0].content or '') if has_system else '' %}
{% set system = (own or SYSTEM) if tools or not has_system else own %}
{% if tools or has_system or SYSTEM %}
  {{ '<|im_start|>system\n' ~ system }}
  {% if tools %}
    {{ ('\n\n' if system else '') ~ BEFORE_TOOLS }}
    {% for tool in tools %}
      {% set inner = tool.function or tool %}
      {{ '{"type": "function", "function": {"name": ' ~ (inner.name | tojson) }}
      {{ ', "description": ' ~ ((inner.description or '') | tojson) ~ ', "parameters": ' }}
      {{ (inner.parameters or {'type': 'object', 'properties': {}}) | tojson }}
      {{ '}}\n' }}
    {% endfor %}
    {{ BEHIND_TOOLS }}
  {% endif %}
  {{ '<|im_end|>\n' }}
{% endif %}
{% for message in (messages[1:] if has_system else messages) %}
  {% set content = message.content or '' %}
  {% if message.role == 'assistant' %}
    {{ '<|im_start|>assistant\n' }}
    {% generation %}
      {{ content }}
      {% for tool_call in (message.tool_calls or []) %}
        {% set call = tool_call.function or tool_call %}
        {% set given = call.arguments %}
        {% set given = given if given is string else given | tojson %}
        {% set line = '{"name": ' ~ (call.name | tojson) ~ ', "arguments": ' ~ given ~ '}' %}
        {{ '' if loop.first and not content else '\n' }}
        {{ OPEN ~ '\n' ~ (line | replace(CLOSE, CLOSE_IN_JSON)) ~ '\n' ~ CLOSE }}
      {% endfor %}
      {{ '<|im_end|>' }}
    {% endgeneration %}
    {{ '\n' }}
  {% elif message.role == 'tool' %}
    {{ '\n' if loop.previtem and loop.previtem.role == 'tool' else '<|im_start|>tool\n' }}
    {{ '<tool_response>\n' ~ content ~ '\n</tool_response>' }}
    {{ '' if loop.nextitem and loop.nextitem.role == 'tool' else '<|im_end|>\n' }}
  {% else %}
    {{ '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
_OPENBEZOAR = r"""
{% set has_system = messages and messages[0].role == 'system' %}
{% set system = messages[0].content if has_system else '' %}
{{ BOS ~ '### System:\n' ~ (system or SYSTEM) ~ '\n\n' }}
{% for message in (messages[1:] if has_system else messages) %}
  {% if message.tool_calls %}{{ raise_exception('this template writes no tool calls') }}{% endif %}
  {% if message.role == 'assistant' %}
    {{ '### Response:' }}
    {% generation %}{{ message.content ~ END }}{% endgeneration %}
  {% else %}
    {% if loop.previtem and loop.previtem.role == 'assistant' %}{{ '\n\n' }}{% endif %}
    {{ '### Instruction:\n' ~ message.content ~ '\n\n' }}
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}
"""
# an answer stands behind what the template writes for the chat before it, opened for an answer, as
# in training; a chat where it does not, such as one with tool calls, is written without marks
_MARKED = r"""
{% set found = namespace(parts=[], text='', all=true) %}
{% for message in messages %}
  {% if found.all and message.role == 'assistant' %}
    {% set before = whole_chat(messages[:loop.index0], true) if loop.index0 else '' %}
    {% set whole, words = whole_chat(messages[:loop.index], false), message.content %}
    {% if words is string and not whole.startswith(before ~ words ~ END) %}
      {% set words = words | trim %}
    {% endif %}
    {% if message.tool_calls %}{% set words = whole[before | length:].split(END)[0] %}{% endif %}
    {% set through = before ~ words ~ END %}
    {% if before and words is string and before.startswith(found.text)
        and whole.startswith(through) %}
      {% set part = [before[found.text | length:], through[before | length:]] %}
      {% set found.parts = found.parts + [part] %}
      {% set found.text = through %}
    {% else %}
      {% set found.all = false %}
    {% endif %}
  {% endif %}
{% endfor %}
{% set chat = whole_chat(messages, add_generation_prompt) %}
{% if found.all and chat.startswith(found.text) %}
  {% for opening, answer in found.parts %}
    {{ opening }}{% generation %}{{ answer }}{% endgeneration %}
  {% endfor %}
  {{ chat[found.text | length:] }}
{% else %}
  {{ chat }}
{% endif %}
"""


def chatml(system: str) -> str:
    """ChatML; `system` stands before chats that have no system message."""
    return _filled(_CHATML, SYSTEM=system)


def hermes(system: str, before_tools: str, behind_tools: str) -> str:
    """ChatML with tools, which stand between the two texts."""
    tags = {"OPEN": OPEN, "CLOSE": CLOSE, "CLOSE_IN_JSON": CLOSE_IN_JSON}
    texts = {"BEFORE_TOOLS": before_tools, "BEHIND_TOOLS": behind_tools}
    return _filled(_HERMES, SYSTEM=system, **texts, **tags)


def openbezoar(system: str, *, bos: str, end: str) -> str:
    """The blocks of OpenBezoar; `system` stands for a system message that is lacking or empty."""
    return _filled(_OPENBEZOAR, SYSTEM=system, BOS=bos, END=end)


def marked(template: str, *, end: str) -> str:
    """Anyone's template with marks around the answers, each with the token that ends it."""
    if re.search(r"{%[-+]?\s*generation\b", template):
        return template
    # the line end goes with the tag, so that the template still begins at the start of a line; of
    # the line ends at its own end Jinja drops one
    start = "{% macro whole_chat(messages, add_generation_prompt) %}\n"
    inner = re.sub(r"\r?\n\Z", "", template)
    return start + inner + "{{ '' }}{% endmacro %}" + _filled(_MARKED, END=end)


def settled(template: str, *, eos: str) -> str:
    """The template with the eos_token of training, and thinking off unless it is asked for."""
    thinks = "{% set enable_thinking = enable_thinking | default(false) %}"
    start = thinks if "enable_thinking" in template else ""
    return start + (f"{{% set eos_token = {_literal(eos)} %}}" if eos else "") + template


def _filled(form: str, **texts: str) -> str:
    """The form on one line, with its texts as strings of Jinja."""
    line = "".join(f"{part} " if part[-1] not in "%}" else part for part in _lines(form))
    names = re.compile(r"\b(" + "|".join(texts) + r")\b")
    return names.sub(lambda name: _literal(texts[name[0]]), line)


def _lines(form: str) -> list[str]:
    return [line.strip() for line in form.strip().splitlines()]


def _literal(text: str) -> str:
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(letter, letter) for letter in text) + "'"
