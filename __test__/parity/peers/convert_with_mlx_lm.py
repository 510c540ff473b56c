"""What mlx-lm converts. Standard input: {"source", "out", ...arguments of mlx_lm.convert}, one JSON object a line."""

import json
import sys

import mlx.core as mx
from mlx_lm import convert

mx.set_default_device(mx.cpu)

for line in sys.stdin:
    request = json.loads(line)
    convert(request.pop("source"), request.pop("out"), **request)
