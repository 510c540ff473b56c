"""What mlx-lm's tool parsers make of calls: [[format, body, tools], …] on standard input, a list of {name, arguments} or null on standard output."""

import json
import sys

from mlx_lm.tool_parsers import json_tools, qwen3_coder

parsers = {"json": json_tools, "xml": qwen3_coder}
answers = []
for format, body, tools in json.load(sys.stdin):
    try:
        answers.append(parsers[format].parse_tool_call(body, tools))
    except Exception:
        answers.append(None)
print(json.dumps(answers))
