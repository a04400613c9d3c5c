#!/usr/bin/env bash
# What a GPU is measured with, in one go.
#
#     tools/bench_gpu.sh OUT [BIN]
#
# First that its results are right (tools/check_gpu.py), then ratios of runs that take turns: a build beside the bare
# teacher, and a training step from a cache beside the same step on labels, with and without bfloat16. BIN is a folder
# with kd-cache, kd-train and the bench `build`, default: as cargo built them. Needs Fashion-MNIST in data/fashion-mnist
# and, where nothing was built, LD_LIBRARY_PATH at the folder of libtorch's libraries. DEVICE is cuda unless set.
# Everything that is printed is kept in OUT/bench_gpu.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    '' | -*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
out=$1
device=${DEVICE:-cuda}
mkdir -p "$out"
exec > >(tee "$out/bench_gpu.txt") 2>&1
if [ "$#" -gt 1 ]; then
    bin=$2
    build=$bin/build
else
    cargo build --release
    cargo bench --profile release --no-run --bench build
    bin=${CARGO_TARGET_DIR:-target}/release
    build=$(find "$bin/deps" -name 'build-*' -type f -executable -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
echo 'bench_gpu: results'
python3 tools/check_gpu.py --device "$device" --programs "$bin"

echo 'bench_gpu: a build beside the bare teacher'
"$build" configs/cache/fashion-mnist.toml 5 "teacher.device=$device"
"$build" configs/cache/fashion-mnist.toml 5 "teacher.device=$device" teacher.kind=torchscript teacher.path=configs/teachers/fashion-mnist.pt

echo 'bench_gpu: a step from a cache beside a step on labels'
[ -f "$out/cache/manifest.json" ] ||
    "$bin/kd-cache" build --config configs/cache/fashion-mnist.toml --out "$out/cache" --set "teacher.device=$device" --quiet
steps() {
    local name=$1
    shift
    python3 tools/bench_steps.py --programs "$bin" --cache "$out/cache" --config configs/train/fashion-mnist.toml \
        --out "$out/steps" --name "$name" --tails prior --every 50 --set "train.device=$device" "$@"
}
steps conv --set 'student={ kind = "conv", channels = [32, 64] }'
steps resnet18 --set 'student={ kind = "resnet18" }'
steps resnet18-bf16 --set 'student={ kind = "resnet18" }' --set train.precision=bf16
