#!/usr/bin/env bash
# Makes bench/.venv with the peers, from PyPI, at the versions that the published numbers were measured with. About 5 GB, most of it
# the CUDA libraries that torch's Linux package brings.
# PYTHON names the Python to use (3.10 or newer; default python3).
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; set PYTHON to one." >&2; exit 1; }
"$python" -m venv .venv
.venv/bin/pip install --quiet --upgrade pip
if [ "$(uname)" = Darwin ]; then mlx="mlx==0.32.4"; else mlx="mlx[cpu]==0.32.4"; fi
.venv/bin/pip install --quiet "$mlx" mlx-lm==0.32.2 numpy==2.4.6 torch==2.15.0 transformers==5.23.0 trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0 scipy-openblas32==0.3.34.0.0
# The OpenBLAS that mlx-node binds, for Python's MLX too.
[ "$(uname)" = Linux ] && cc -O2 -shared -fPIC peers/openblas.c -o .venv/libopenblas-for-mlx.so -ldl
.venv/bin/pip list 2>/dev/null | grep -iE '^(mlx|mlx-lm|numpy|torch|transformers|trl) '
