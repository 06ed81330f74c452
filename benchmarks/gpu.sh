#!/usr/bin/env bash
# Builds, tests and measures on a machine with an NVIDIA GPU, without network, with what is installed there (torch with
# CUDA, nvcc, pybind11, ninja, pytest, pytest-benchmark):
#
#   benchmarks/gpu.sh build                        the package, for this GPU alone, into the Python that runs
#   benchmarks/gpu.sh test                         latencies of the GPU, then tests/cuda
#   benchmarks/gpu.sh sanitize                     memcheck and racecheck on small shapes
#   benchmarks/gpu.sh bench [flashrnn|haste|fastrnns|stacks]...   beside cuDNN; all grids without a name
#   benchmarks/gpu.sh tune [option]...             every crew of blocks that a layer can have (tune_cuda.py)
#   benchmarks/gpu.sh soak SECONDS                 random layers, graphs and streams
#
# Each part takes less than 8 minutes. Records go to $OUT, or to benchmarks/results: cuda-DEVICE-DATE-GRID-LAYER.json, one
# for each grid and kind of layer as soon as it is measured, and cuda-DEVICE-DATE-latencies.json. What has a record is
# left out.
set -euo pipefail
cd "$(dirname "$0")/.."
results=${OUT:-benchmarks/results}
python=${PYTHON:-python3}

name() {
  $python -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-"))'
}
record() { echo "$results/cuda-$(name)-$(date +%F)-$1.json"; }

build() {
  local capability
  capability=$($python -c 'import torch; major, minor = torch.cuda.get_device_capability(); print(f"{major}.{minor}" + "a" * (major >= 9))')
  TORCH_CUDA_ARCH_LIST=$capability RNNFAST_CUDA=1 $python -m pip install -q --no-build-isolation --no-deps -e .
  $python -c 'import rnnfast; print(rnnfast.build_info())'
}

run_tests() {
  mkdir -p "$results"
  local program
  program=$(mktemp -d)/latencies
  if nvcc -std=c++17 -O3 -arch=native benchmarks/latencies.cu -o "$program"; then
    "$program" | tee "$(record latencies)"
  fi
  $python -m pytest -q -p no:cacheprovider tests/cuda -rs
}

sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not installed: nothing was run"
    return 0
  fi
  local status=0
  for tool in memcheck racecheck; do
    echo "== $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 220 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --target-processes all $python -m pytest -q -p no:cacheprovider tests/cuda -k small 2>&1 | tail -15 || status=$?
  done
  return $status
}

bench() {
  mkdir -p "$results"
  [ $# -gt 0 ] || set -- flashrnn haste fastrnns stacks
  local grid kind file
  for grid in "$@"; do
    for kind in LSTM GRU RNN; do
      [ "$grid $kind" != "haste RNN" ] || continue
      file=$(record "$grid-$kind")
      if [ -s "$file" ]; then
        echo "$file is there: left out"
        continue
      fi
      RNNFAST_BENCH_SECONDS=${RNNFAST_BENCH_SECONDS:-1} timeout -s INT 450 $python -m pytest -q -p no:cacheprovider benchmarks \
        --device cuda -k "test_$grid and $kind-" --benchmark-json="$file.full" || echo "$grid $kind: incomplete"
      if [ -s "$file.full" ]; then
        $python benchmarks/report.py "$file.full" --compact "$file" && rm "$file.full"
      fi
    done
  done
}

tune() {
  mkdir -p "$results"
  OUT=$results $python benchmarks/tune_cuda.py "$@"
}

soak() { RNNFAST_SOAK_SECONDS=${1:-60} $python -m pytest -q -s -p no:cacheprovider tests/cuda -k soak; }

part=${1:-}
shift || true
case $part in
  build) build ;;
  test) run_tests ;;
  sanitize) sanitize ;;
  bench) bench "$@" ;;
  tune) tune "$@" ;;
  soak) soak "$@" ;;
  *)
    sed -n '2,16p' "$0"
    exit 2
    ;;
esac
