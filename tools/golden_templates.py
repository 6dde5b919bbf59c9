"""Makes tests/golden/templates.json, the records of tests/test_jinja.c: chat templates of the families as they are
published (as far as messages of text reach), and small programs for each part of the language, rendered by jinja2 set
up as Hugging Face's apply_chat_template does (pip install jinja2).

    python tools/golden_templates.py"""
import json

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
          "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {{- "# Tools\n\n" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\n' }}
                {%- endif %}
                {{- tool_call.arguments | tojson }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
          "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
          "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
          "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")  # fmt: skip
LLAMA31 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message + builtin tools #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
LLAMA32 = LLAMA31.replace('    {%- set date_string = "26 Jul 2024" %}\n', '    {%- if strftime_now is defined %}\n        {%- set date_string = '
                          'strftime_now("%d %b %Y") %}\n    {%- else %}\n        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n')  # fmt: skip
LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
          "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
          "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
          "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if "
          "loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
          "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if "
          "message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] "
          "== 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")  # fmt: skip
PHI3 = ("{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + "
        "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif "
        "message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")  # fmt: skip
PHI4 = ("{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + "
        "message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + "
        "message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' "
        "+ message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|im_start|>assistant<|im_sep|>' }}{% endif %}")  # fmt: skip
GEMMA2 = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif "
          "%}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
          "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == "
          "'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' "
          "+ role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
          "{{'<start_of_turn>model\n'}}{% endif %}")  # fmt: skip
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
MISTRAL = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif "
          "message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
          "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")  # fmt: skip
DEEPSEEK = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = "
            "namespace(is_first=false, is_tool=false, system_prompt='') %}{%- for message in messages %}{%- if "
            "message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
            "{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set "
            "ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and "
            "message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set "
            "content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}"
            "{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}"
            "{% endif %}")  # fmt: skip
FAMILIES = {"chatml": CHATML, "qwen2.5": QWEN25, "qwen3": QWEN3, "llama3": LLAMA3, "llama3.1": LLAMA31, "llama3.2": LLAMA32,
            "llama2": LLAMA2, "phi3": PHI3, "phi4": PHI4, "gemma2": GEMMA2, "gemma3": GEMMA3, "mistral": MISTRAL,
            "zephyr": ZEPHYR, "deepseek": DEEPSEEK}  # fmt: skip

# ---- the language, a program a line; they see the messages of the last conversation ----
PROGRAMS = r"""
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ (1 + 2) * 3 }}
{{ 'a' ~ 1 ~ none ~ true }} {{ "x" "y" 'z' }} {{ 'it\'s\n\t\\' }}
{{ 1 < 2 }} {{ 'a' < 'b' }} {{ 2 >= 2 }} {{ 1 == true }} {{ 'a' != 'b' }} {{ none == false }}
{{ 1 if true else 2 }} {{ 1 if false else 2 }} [{{ 1 if false }}] {{ 'a' if 0 else 'b' if 0 else 'c' }}
{{ not true }} {{ not false and true }} {{ true or false and false }} {{ '' or 'x' }} {{ 'a' and 'b' }}
{{ 'b' in 'abc' }} {{ 'z' not in 'abc' }} {{ 2 in [1, 2] }} {{ 'k' in {'k': 1} }} {{ 3 in (1, 2) }}
{{ 'hello'[1:3] }} {{ 'hello'[-1] }} {{ 'hello'[::-1] }} {{ 'héllo'[1:2] }} {{ 'hello'[:99] }} {{ 'hello'[3:1] }}|
{{ [1,2,3][-1] }} {{ [1,2,3,4][::2] | join('-') }} {{ [1,2,3][1:] | join }} {{ [1,2,3,4][:-1] | join(',') }}
{{ '  a b ' | trim }}|{{ 'xxaxx'.strip('x') }}|{{ ' a'.lstrip() }}|{{ 'a\n\n'.rstrip('\n') }}|
{{ 'a,b,,c'.split(',') | join('|') }} {{ ' a  b c '.split() | join('|') }} {{ 'a-b-c'.split('-', 1) | join('|') }}
{{ 'aXbX'.replace('X', 'yy') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'Abc' | upper }} {{ 'ÀBC'.lower() }} {{ 'ab cd'.title() }} {{ 'aB c' | capitalize }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }}
{{ [1, 2, 3] | length }} {{ 'héé' | length }} {{ {'a': 1} | count }} {{ x | default('d') }} {{ '' | default('e', true) }} {{ x is defined }}
{{ {'a': [1, 'é"\n'], 'b': none, 'c': true} | tojson }}
{{ {'a': [1, {'z': 2}], 'e': [], 'b': none} | tojson(indent=2) }}
{% for i in range(3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %} {% for i in range(5, 1, -2) %}{{ i }} {% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {% for k in {'a': 1} %}{{ k }}{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %} {% for i in [1,2,3] if i != 2 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% endfor %}
{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }} {% set ns = namespace(a=1) %}{% for i in [5] %}{% set ns.a = i %}{% endfor %}{{ ns.a }}
{% set t %}a{{ 1 }}b{% endset %}{{ t | upper }} {% if t %}yes{% elif x %}no{% else %}never{% endif %}
{% macro m(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ m('x') }}{{ m('x', 'y') }}{{ m(a='p', b=m('q')) }}
{{ 'a' is string }} {{ 1 is number }} {{ none is none }} {{ {} is mapping }} {{ [] is iterable }} {{ x is not defined }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 1 is equalto 1 }}
{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join }}
{{ [3,1,2] | first }}{{ [3,1,2] | last }} {{ [1,2] | reverse | list | join }} {{ '42' | int + 1 }} {{ 5 | string + 'x' }} {{ ([1,2] + [3]) | length }}
  {%- if true -%}  a  {%- endif %}  b  {#- c -#}  d
{{ messages[0].content | trim | length }} {{ messages[-1]['content'][:3] }} {{ messages[0].nothing }}| {{ messages[99] is defined }}
{{ undefined_thing }}|{{ none }}|{{ true }}|{% for x in nothing %}x{% endfor %}|{{ 'x' in messages[0] }}{{ 'role' in messages[0] }}
{{ {'a': {'b': [1, 2]}}.a.b[1] }} {{ {'a': 1}.get('b', 'none') }} {{ {'a': 1}.get('a') }} {{ {'x': 1, 'y': 2}.keys() | list | join }} {{ {'x': 1}.values() | list | join }}
{{ loop is defined }} {% for a in 'héy' %}{{ a }}.{% endfor %} {% for a in [1,2] %}{{ loop.first }}{{ loop.revindex }}{{ loop.previtem is defined }}{{ loop.nextitem }} {% endfor %}
{{ {'a': 1} == {'a': 1} }} {{ {'a': 1} != {'a': 2} }} {{ {} == {} }} {{ {'a': [1]} == {'a': [1]} }}
{{ [1, [2]] == [1, [2]] }} {{ [1] == [2] }} {{ [1] == [1, 2] }} {{ [] == [] }} {{ ['a'] == ['a'] }}
{{ none == none }} {{ x == y }} {{ x == none }} {{ m == m }} {{ [1] == 'a' }} {{ range == range }}
{% macro m() %}{% endmacro %}{{ m == m }} {{ m is callable }} {{ range is callable }} {{ 1 is callable }} {{ not m }} {{ not range }}
{{ true < 2 }} {{ 1 < true }} {{ 'a' < 'ab' }} {{ 'ab' > 'a' }} {{ 'b' >= 'ab' }} {{ 'a' <= 'a' }} {{ 2 <= 1 }}
{{ 1 in x }}
{{ 1 in {'a': 2} }} {{ '' in 'abc' }} {{ 'a' in x }}
{{ true + 1 }} {{ 1 + true }} {{ true * 3 }} {{ true - false }}
{{ -9223372036854775807 - 1 }} {{ (-9223372036854775807 - 1) // 2 }}
{{ [1, 2][0] }} {{ [1, 2][5] }} {{ [1, 2][-5] }} {{ 'abc'[5] }} {{ 'abc'[-5] }} {{ 'abc'[-3] }} {{ 'abc'['x'] }} {{ [1]['x'] }} {{ 5[0] }} {{ none[0] }}
{{ {'a': 1}[0] }}
{{ none.x }}|{{ 5.x }}
{{ [1,2,3,4,5][::2] | tojson }} {{ [1,2,3,4,5][::-2] | tojson }} {{ [1,2,3,4,5][-2:] | tojson }} {{ [1,2,3,4,5][-99:99] | tojson }} {{ [1,2,3][99:] | tojson }} {{ [1,2,3][:-99] | tojson }}
{{ [1,2,3,4,5][99::-1] | tojson }} {{ [1,2,3][:99:-1] | tojson }} {{ [1,2,3][::99] | tojson }} {{ [1,2,3][::-99] | tojson }} {{ 'abc'[::99] }} {{ 'abc'[-2::-1] }} {{ 'abc'[1:none] }} {{ [1,2,3][0:-99:-1] | tojson }}
{% for a, b in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}
{{ 'aaa'.replace('a', 'b', 0) }}
{{ ' a b  c '.split(none, 1) | tojson }} {{ ' a b  c '.split(none, 0) | tojson }} {{ 'a b'.split(maxsplit=1) | tojson }} {{ 'a,b'.split(sep=',') | tojson }} {{ 'a,b,c'.split(',', -1) | tojson }} {{ 'a,b,c'.split(',', 0) | tojson }} {{ ''.split() | tojson }} {{ ''.split(',') | tojson }} {{ ' '.split() | tojson }}
{{ 'abc'.find('') }} {{ 'héb'.find('b') }} {{ 'abc'.find('d') }}
{{ {'a': none}.get('a', 'x') }} {{ {'a': 1}.items() | list | tojson }} {{ {'a': 1} | items | list | tojson }} {{ {} | items | list | tojson }} {{ x | items | list | tojson }}
{{ range(3) | list | tojson }} {{ range(1, 3) | list | tojson }} {{ range(3, 1) | list | tojson }} {{ range(0) | list | tojson }} {{ range(3, 0, -1) | list | tojson }}
{% for i in range(9223372036854775800, 9223372036854775807, 5) %}{{ i }} {% endfor %}
{{ "a\bb\fc\x01\x7f\rd" | tojson }} {{ '\u0001' | tojson }} {{ "\t/<>&'" | tojson }}
{{ {'a': true, 'b': false, 'c': none, 'd': -5} | tojson(4) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], [1]] | tojson(indent=0) }} {{ [1] | tojson(indent=none) }}
{{ [1, 2] | join }} {{ [1, none, true, 'a'] | join(',') }} {{ 'abc' | join('-') }} {{ {'a': 1, 'b': 2} | join('-') }} {{ x | join }} {{ [1, 2] | join(d='+') }} {{ [1, 2] | join(3) }} {{ [1, 2] | join(none) }}
{{ [{'a': 'x'}, {'a': 'y'}] | join(',', attribute='a') }}
{{ [0, 1, '', 'a', none] | select | list | tojson }} {{ [0, 1, 2] | reject | list | tojson }} {{ [1, 2, 3] | select('odd') | list | tojson }} {{ [1, 2, 3, 4] | reject('divisibleby', 2) | list | tojson }} {{ [{'a': 1}, {'a': 0}, {}] | selectattr('a') | list | length }} {{ [{'a': 1}, {}] | selectattr('a', 'defined') | list | length }} {{ [1, 'a'] | select('in', [1]) | list | tojson }}
{{ ['a', 'b'] | map('upper') | join }} {{ [' a '] | map('trim') | list | tojson }} {{ [{'a': 1}, {}] | map(attribute='a') | list | length }} {{ [1, 2] | map('string') | join('-') }} {{ x | map('upper') | list | tojson }}
{{ {'a': 1, 'b': 2} | length }} {{ x | length }} {{ '' | length }} {{ [] | count }}
{{ [] | first }} {{ 'abc' | first }} {{ 'abc' | last }} {{ {'a': 1} | first }} {{ [1, 2] | last }} {{ x | first }} {{ [3, 4] | reverse | first }}
{{ 'xxaxx' | trim('x') }} {{ 5 | trim }} {{ none | upper }} {{ x | trim }}| {{ 'a' | safe }} {{ 5 | string | length }}
{{ x | default }}| {{ x | d('a') }} {{ none | default('a') }} {{ none | default('a', true) }} {{ 0 | default(7, boolean=true) }} {{ 'b' | default('a', true) }} {{ x | default(default_value='q') }} {{ '' | default('e', false) }}|
{{ true is odd }} {{ true is number }} {{ true is integer }} {{ 1 is integer }} {{ 1 is float }} {{ true is boolean }} {{ true is true }} {{ false is false }} {{ 1 is true }} {{ 0 is false }} {{ x is undefined }} {{ x is iterable }} {{ 5 is iterable }} {{ 'a' is sequence }} {{ {} is sequence }} {{ 5 is sequence }} {{ none is mapping }} {{ x is none }}
{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}
{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}
{{ 'a' is string and 'b' is string }} {{ not 'a' is string }} {{ 1 + 2 is odd }} {{ 'ab' | length is odd }} {{ x is defined and x.y }} {{ 'a' if x is defined }}
{%+ if true %}a{% endif %}{%- if true -%} b {%- endif +%} c {{- 'd' -}} e {{+ 'f' }}
{# c -#}  x {#- d #} y {##} z {#-#} w
a {%- if 1 %}b{% endif %}
{{ loop }}
{% for a in [] %}{% else %}e{% endfor %}{% for a in [1] %}x{% else %}e{% endfor %}
{% for a in [1, 2, 3] if a > 5 %}{{ a }}{% else %}none{% endfor %} {% for a, b in {'x': 1, 'y': 2}.items() if b > 1 %}{{ a }}{% endfor %}
{% for a in [3, 1] %}{% for b in [1, 2] %}{{ loop.index }}{% if b == 1 %}{% break %}{% endif %}{% endfor %}{{ loop.index }};{% endfor %}
{{ messages | map(attribute='content') | map('length') | list | tojson }} {{ messages | selectattr('role', 'ne', 'user') | list | length }} {{ (messages | first).role }} {{ (messages | last)['role'] }}
{{ messages[0] == messages[0] }} {{ messages[1:] == messages }} {{ messages == messages }}
{{ {} is mapping }} {{ 'a' if {} else 'b' }} {{ 'a' if {'x': 1} else 'b' }} {{ 'a' if [] else 'b' }} {{ 'a' if [0] else 'b' }} {{ 'a' if namespace() else 'b' }}
{{ [1, 2][none] }} {{ 'abc' | replace('b', 'x') }} {{ 'aXbX' | replace('X', '', 1) }} {{ 'aaa'.replace('a', 'b', -1) }} {{ 'aaa'.replace('a', 'b', 0) }}
{{ {'a': none}.get('a', 'x') }} {{ {'a': 1}.get(1) }} {{ {'a': 1}.items() | list | tojson }} {{ {'a': 1} | items | list | tojson }} {{ {} | items | list | tojson }} {{ x | items | list | tojson }}
{{ dict(a=1).a }} {{ dict() | tojson }} {{ namespace(a=1).a }} {{ namespace() == namespace() }} {{ {'a': 1} == {'b': 1} }} {{ {'a': 1} == {'a': 1, 'b': 2} }}
{{ "\a\b\f\v\r" | tojson }} {{ '\x41\xe9\u00e9\u2581\U0001F600' }} {{ "\t/<>&'\q" | tojson }} {{ 'a\\' }} {{ 'b\"' }}
{{ '\x01\x1f\x7f' | tojson }}
{{ '42abc' | int }} {{ '3.7' | int }} {{ ' 42 ' | int }} {{ 'x' | int(5) }} {{ true | int }} {{ '' | int }} {{ '-7' | int }} {{ '+5' | int }} {{ '1e3' | int }} {{ '-2.9' | int }} {{ 'x' | int(default=7) }} {{ '9007199254740993' | int }} {{ '0123456789012345678901234567890123456789a' | int }} {{ '1.2.3' | int }}
{{ 'abc' | list | tojson }} {{ {'a': 1} | list | tojson }} {{ x | list | tojson }} {{ [3, 4] | reverse | first }}
{{ "it's a o'neil test_case 3rd" | title }} {{ "it's o'neil".title() }} {{ 'ÉCOLE étude' | title }} {{ 'ǆ'.title() }} {{ 'A1b2' | title }} {{ 'A1b2'.title() }} {{ 'a-b c(d' | title }} {{ 'hello WORLD' | capitalize }} {{ 'ab'.capitalize() }} {{ 'ÀÉ' | lower }}
{{ 1 is odd }} {{ 2 is even }} {{ true is odd }} {{ false is even }}
{{ 'a' 'b' ~ 'c' }} {{ -5 | string }} {{ - 5 }} {{ not not 1 }} {{ 5 - -3 }}
{% for a, b in {'x': 1, 'y': 2}.items() if b > 1 %}{{ a }}{% endfor %} {% for a, b in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}
{% macro m() %}{% endmacro %}{% macro n() %}{% endmacro %}{{ m == m }} {{ m == n }} {{ m is callable }} {{ range == range }} {{ range == dict }}
{{ [1] == [1, 2] }} {{ [[1], [2]] == [[1], [3]] }} {{ [none] == [none] }} {{ [1] in [[1]] }} {{ {'a': 1} in [{'a': 1}] }} {{ [1] == (1) }}
{{ [{'a': 'x'}, {'a': 'y'}] | join(',', attribute='a') }} {{ [1, 2] | join(3) }} {{ [1, 2] | join(none) }} {{ [1, 2] | join(d='+') }}
{{ ['b', 'a'] | join(', ') | upper | replace(', ', '/') | length }}
{{ 6 is divisibleby(-1) }} {{ 6 is divisibleby 3 }} {{ 7 is divisibleby 3 }} {{ true is divisibleby 1 }}
{{ '\u00a0x\u2003'.strip() | length }} {{ '\u2028x\u205f\u3000\u1680\x85\x1c' | trim }} {{ '\u200bx' | trim | length }} {{ '\u2000a\u200a' | trim | length }} {{ 'a\u202fb' .split() | length }}
{{ [1, 2] | first | string ~ 'x' }}{{ [x] | length }}{{ [none] | tojson }}{{ {'a': [none, true]} | tojson(indent=0) }}
{{ messages[0].content.strip().split('.')[0] }}{{ messages[-1].content.split('</think>')[-1].lstrip('\n') }}{{ messages[1].content.replace('\n', ' ') | trim }}
{{ 1 is eq 1 }} {{ 1 is ne 2 }} {{ 1 is eq(2) }} {{ 'a' is in ['a'] }} {{ 'a' is in 'abc' }} {{ 'a' is not in 'abc' }} {{ 'a' is in {'a': 1} }} {{ [1] is eq [1] }}
{{ {'a': 1, 'a': 2} | tojson }} {{ {'a': 1,} | tojson }} {{ [1, 2,] | tojson }} {{ (1, 2) | tojson }}
"""
BLOCKS = ["a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "{% if true %}\n\n x{% endif %}\n\ny\n\n", "  {# note #}\nz {# n #} w\r\nv",
          "{%- set a = 1 %}\n{{ a }}\n {{- a -}} \n", "x {%+ if true %}y{% endif %}", "\n  {% for i in [1, 2] %}\n    - {{ i }}\n  {% endfor %}\n end",
          "{% if true +%}\nq{% endif %}", "a{% if true %} {% endif %}\n   {% if true %}b{% endif %}", "{% generation %}g{% endgeneration %}"]  # fmt: skip
WRONG = ["{{ ", "{% if %}", "{% for x in y %}", "{{ 'a' + 1 }}", "{{ nothing.x }}", "{% unknown %}", "{{ 1 | nothing }}", "{% endif %}",
         "{{ raise_exception('no such role') }}", "{{ 1 // 0 }}", "{{ 'a", "{{ [1, 2 }}", "{{ ''.split('') }}", "{# a", "{{ nothing() }}"]  # fmt: skip
WRONG += r"""
{{ 1 < 'a' }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ x < 1 }}
{{ 1 in 5 }}
{{ 1 in none }}
{{ 1 in 'a' }}
{{ 1 + 'a' }}
{{ [1] + 'a' }}
{{ x + 1 }}
{{ 1 + x }}
{{ 7 % 0 }}
{{ x[0] }}
{{ x['a'] }}
{{ x.y.z }}
{{ [1,2,3][::0] }}
{{ 'abc'[::0] }}
{{ x[1:] }}
{% for a in 5 %}{% endfor %}
{% for a in none %}{% endfor %}
{% for a in true %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{{ 'abc'.replace(1, 'x') }}
{{ 'abc'.replace('a') }}
{{ 'abc'.replace('a', 1) }}
{{ 'abc'.find(1) }}
{{ 'abc'.find() }}
{{ 'a'.nothing() }}
{{ x.strip() }}
{{ 5.strip() }}
{{ (5).strip() }}
{{ none.strip() }}
{{ [1].append(2) }}
{{ {'a': 1}.get() }}
{{ {'a': 1}.pop('a') }}
{{ range() | list }}
{{ range(1, 2, 3, 4) | list }}
{{ range('a') | list }}
{{ range(1, 5, 0) | list }}
{{ range(stop=3) | list }}
{{ raise_exception(1) }}
{{ raise_exception() }}
{{ strftime_now() }}
{{ x | tojson }}
{{ range | tojson }}
{{ [x] | tojson }}
{{ 5 | join }}
{{ [1] | selectattr() | list }}
{{ [1] | select('nothing') | list }}
{{ x | select | list | tojson }} {{ 5 | select | list }}
{{ [x] | selectattr('a') | list }}
{{ [1] | map | list }}
{{ [1] | map('nothing') | list }}
{{ [1] | map(1) | list }}
{{ 5 | map('upper') | list }}
{{ [x] | map(attribute='a') | list }}
{{ 5 | length }}
{{ none | length }}
{{ 5 | list }}
{{ 5 | first }}
{{ 1 is eq }}
{{ 1 is in }}
{{ 6 is divisibleby 3 }} {{ 7 is divisibleby 3 }} {{ 6 is divisibleby(-1) }} {{ 'a' is divisibleby 3 }}
{{ 6 is divisibleby 0 }}
{{ 6 is divisibleby 'a' }}
{{ 6 is divisibleby }}
{{ 6 is nothing }}
{% macro m(a, b=x.y) %}{{ a }}{% endmacro %}{{ m(1) }}
{{ m }}{{ 5() }}
{{ 'a'() }}
{{ messages[0]() }}
{% set a.b = 1 %}
{% set a = 1 %}{% set a.b = 1 %}
{% set a = {} %}{% set a.b = 1 %}
{% call m() %}{% endcall %}
{% do x %}
{% include 'x' %}
{% if true %}a{% else %}b{% else %}c{% endif %}
{{ '\x4' }}
{{ '\u00g0' }}
{{ '\U00110000' }}
""".strip("\n").split("\n")

SYSTEM, USER = ("system", " Be brief.\n"), ("user", "  Who was\nthere? ")
CONVERSATIONS = [
    [USER], [SYSTEM, USER], [SYSTEM, USER, ("assistant", " The old pirate.\n"), ("user", "And then?")],
    [USER, ("assistant", "The old pirate.")], [SYSTEM, USER, ("assistant", "<think>\nHm.\n</think>\n\nNobody <|im_end|>{{ 1 }}.")],
    [USER, ("assistant", "<think>a</think>b"), ("user", "日本 \u00a0"), ("assistant", "é"), ("user", "x<|eot_id|>")],
    [USER, ("user", "twice")],
]  # fmt: skip


def render(source, messages, open_answer):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: "01 Jan 1970"
    source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    messages = [{"role": r, "content": c} for r, c in messages]
    try:
        return env.from_string(source).render(messages=messages, tools=None, documents=None, bos_token="<s>", eos_token="</s>",
                                              add_generation_prompt=open_answer)  # fmt: skip
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, ZeroDivisionError):
        return None


def main():
    records = []
    for name, source in FAMILIES.items():
        renders = [[i, o, render(source, c, o)] for i, c in enumerate(CONVERSATIONS) for o in (False, True)]
        records.append({"name": name, "source": source, "renders": renders})
    programs = PROGRAMS.strip("\n").split("\n") + BLOCKS + WRONG
    for i, source in enumerate(programs):
        records.append({"name": f"program {i}", "source": source, "renders": [[4, False, render(source, CONVERSATIONS[4], False)]]})
    for r in records[len(FAMILIES):]:
        good = r["source"] not in WRONG
        assert (r["renders"][0][2] is not None) == good, r["source"]
    with open("tests/golden/templates.json", "w", encoding="utf-8") as f:
        json.dump({"conversations": CONVERSATIONS, "templates": records}, f, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    main()
