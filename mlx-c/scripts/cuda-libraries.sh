#!/usr/bin/env bash
# Puts NVIDIA's CUDA 13 libraries (PyPI wheels, 2 GB) beside the CUDA flavour of MLX, where libmlx.so looks for them first.
# Needed once, after MLX_NODE_FLAVOUR=cuda13 npm run build, on machines that do not have these libraries already.
set -euo pipefail
cd "$(dirname "$0")/.."
dist=$(echo dist/cuda13-*/)
[ -d "$dist" ] || { echo "mlx-c/dist holds no CUDA build; first run: MLX_NODE_FLAVOUR=cuda13 npm run build" >&2; exit 1; }
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --upgrade --target "$dist" \
  'nvidia-cudnn-cu13==9.*' 'nvidia-cublas==13.*' 'nvidia-cufft==12.*' 'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-runtime==13.*' \
  nvidia-nccl-cu13
missing=$(ldd "${dist}mlx/lib/libmlx.so" | awk '/not found/ && $1 != "libcuda.so.1" { print $1 }' | sort -u)
[ -z "$missing" ] || { echo "still missing: $missing" >&2; exit 1; }
ldd "${dist}mlx/lib/libmlx.so" | grep -q 'libcuda.so.1 => not found' && echo "libcuda.so.1 comes with the NVIDIA driver, which is not installed here" >&2
echo "the CUDA libraries are in mlx-c/${dist}nvidia"
