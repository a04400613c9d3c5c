#!/usr/bin/env python3
"""Makes tests/fixtures/chats/: a chat template that uses what templates use, chats, and their text as transformers lays it out.

    python3 tools/make_test_chats.py

They are committed, so that tests need neither this script nor what it needs:

    pip install transformers==5.24.0 jinja2==3.1.6 pyarrow==26.0.1
"""

import datetime
import json
import shutil
from pathlib import Path
from unittest import mock

import pyarrow
import pyarrow.parquet
from transformers.utils import chat_template_utils

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/chats"
DAY = datetime.datetime(2026, 3, 1)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# Blocks that are trimmed and blocks that are not, a macro, a namespace, slices back and forth, methods of Python's strings, tests,
# loop variables and controls, JSON of every kind, an answer's tokens marked, a date, and a refusal.
TEMPLATE = """\
{#- Written for tests. #}
{%- macro shown(message) -%}
    {%- if message.content is string -%}
        {{- message.content.strip() }}
    {%- elif message.content is iterable -%}
        {%- for part in message.content %}{{ part['text'] | default('?') }}{{ '' if loop.last else ' ' }}{% endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set seen = namespace(last=-1, names=[]) -%}
{%- for message in messages[::-1] -%}
    {%- if message.role == 'user' -%}
        {%- set seen.last = messages | length - 1 - loop.index0 -%}
        {%- break -%}
    {%- endif -%}
{%- endfor -%}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set rules, rest = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set rules, rest = 'Be kind.', messages %}
{%- endif %}
<|system|>
{{ rules }}{{ ' Today is ' + strftime_now('%d %b %Y, %H h') + '.' }}
{% if tools is iterable and tools | length > 0 %}
    Tools:
    {% for tool in tools %}
    {{ tool | tojson }}
    {{ tool.function | tojson(indent=2) }}
    {{ tool.function.parameters.required | tojson(separators=(',', ':')) }}
    {% endfor %}
{% endif %}
{%- for message in rest %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('nobody is called ' ~ message.role) }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>\\n' }}
        {%- if message.reasoning_content is defined and loop.last %}
            {{- '<think>' + message.reasoning_content + '</think>' }}
        {%- endif %}
        {%- generation %}
        {{- shown(message).split('</think>')[-1].lstrip('\\n') }}
        {%- for call in message.tool_calls or [] %}
            {{- '<call>' + call.function.name + ' ' + call.function.arguments | tojson(ensure_ascii=True, sort_keys=true) + '</call>' }}
        {%- endfor %}
        {{- eos_token }}
        {%- endgeneration %}
{{ '' }}
    {%- else %}
<|{{ message['role'] }}|>{{ '*' if loop.first }}{{ '!' if not loop.first and loop.previtem.role == message.role }}
{{ shown(message).replace('tea', 'TEA') }}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Says <what> the \"weather\" is & was: é",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {}},
                "required": ["city", "days"],
            },
        },
    }
]
ARGUMENTS = {"days": 2, "city": "Zürich 🦀", "exact": 1.5}
CALLS = [{"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]
PARTS = [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}, {"type": "image"}]
CHATS = [
    {"messages": [said("user", "Is the tea ready? "), said("assistant", "\n It is.")]},
    {
        "messages": [
            said("system", " Be brief.\n"),
            said("user", "1 < 2 & 'x'?"),
            said("assistant", "<think>\nhm\n</think>\n\nYes."),
            said("user", "Über 🦀\n\n\n  tea"),
            said("user", "and tea"),
            said("assistant", "Ja.", reasoning="Which?"),
        ]
    },
    {
        "messages": [
            said("user", "Weather?"),
            said("assistant", "", tool_calls=CALLS),
            said("tool", '{"degrees": 3}'),
            said("assistant", "3 degrees"),
        ],
        "tools": TOOLS,
    },
    {"messages": [said("user", PARTS), said("assistant", "no")]},
]
# What a table holds of them, whose messages have one type: text alone.
PLAIN = CHATS[:2]


def text_of(chat):
    with mock.patch.object(chat_template_utils, "datetime", wraps=datetime.datetime) as clock:
        clock.now.return_value = DAY
        texts, _ = chat_template_utils.render_jinja_template(
            [chat["messages"]], tools=chat.get("tools"), chat_template=TEMPLATE, **SPECIAL
        )
    return texts[0]


def shared_as(message):
    """A message with ShareGPT's keys and names."""
    names = {"user": "human", "assistant": "gpt"}
    shared = {"from": names.get(message["role"], message["role"]), "value": message["content"]}
    return {**shared, **({"thinking": message["reasoning"]} if "reasoning" in message else {})}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "template.jinja").write_text(TEMPLATE)
    config = {
        "bos_token": SPECIAL["bos_token"],
        "eos_token": {"content": SPECIAL["eos_token"], "special": True},
        "add_bos_token": True,
        "chat_template": TEMPLATE,
    }
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (FOLDER / "chats.jsonl").write_text("".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in CHATS))
    shared = [{"conversations": [shared_as(message) for message in chat["messages"]]} for chat in PLAIN]
    (FOLDER / "sharegpt.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in shared))
    table = {"id": [0, 1], "tools": pyarrow.nulls(2, pyarrow.string()), "messages": [chat["messages"] for chat in PLAIN]}
    pyarrow.parquet.write_table(pyarrow.table(table), FOLDER / "chats.parquet", compression="zstd")
    # What tables have whose rows differ: JSON in a text.
    strings = {
        "messages": [json.dumps(chat["messages"]) for chat in CHATS],
        "tools": [json.dumps(chat["tools"]) if "tools" in chat else None for chat in CHATS],
    }
    pyarrow.parquet.write_table(pyarrow.table(strings), FOLDER / "strings.parquet", compression="zstd")
    (FOLDER / "expected.json").write_text(json.dumps([text_of(chat) for chat in CHATS], indent=1) + "\n")


if __name__ == "__main__":
    main()
