#!/usr/bin/env bash
# What a GPU is measured with, in one go.
#
#     tools/bench_gpu.sh OUT [BIN]
#
# First that its results are right (tools/check_gpu.py), then ratios of runs that take turns: selection and loss beside
# merely reading and copying as many logits, a build beside the bare teacher, a training step from a cache beside the same
# step on labels, with and without bfloat16 and channels_last, the memory of a step beside a dense loss, and an epoch beside one with the
# teacher in every step. BIN is a folder with kd-cache, kd-train and the benches `build`, `loss_memory`, `on_device` and
# `online`, default: as cargo built them. Needs Fashion-MNIST in data/fashion-mnist and, where nothing was built,
# LD_LIBRARY_PATH at the folder of libtorch's libraries. Of the environment:
#
#     DEVICE      cuda unless set
#     ROUNDS      of everything that takes turns; 5 unless set
#     RUNTIMES    of teachers, onnx,torchscript unless set (an ONNX Runtime for CPUs has no GPU)
#     LIMIT       training images of the check; 60000 unless set
#     PARTS       results operators builds steps memory online unless set
#     LM_TEACHER  folders that tools/draw_language_model.py wrote, TorchScript or ONNX: built from, and the first is asked in every
#                 step of an online run
#     LM_CACHE    a language model's cache, with its tokenizer.json in TOKENIZER, for steps; else one that the last of LM_TEACHER
#                 made, which --rank 8 gives a shape
#
# Everything that is printed is kept in OUT/bench_gpu.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    '' | -*) sed -n '2,23s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
out=$1
[ -z "${LM_CACHE:-}" ] || : "${TOKENIZER:?LM_CACHE needs it}"
device=${DEVICE:-cuda}
rounds=${ROUNDS:-5}
runtimes=${RUNTIMES:-onnx,torchscript}
parts=" ${PARTS:-results operators builds steps memory online} "
mkdir -p "$out"
exec > >(tee -a "$out/bench_gpu.txt") 2>&1
if [ "$#" -gt 1 ]; then
    bin=$2
    bench() { echo "$bin/$1"; }
else
    cargo build --release
    cargo bench --profile release --no-run --bench build --bench loss_memory --bench on_device --bench online
    bin=${CARGO_TARGET_DIR:-target}/release
    bench() {
        find "$bin/deps" -name "$1-*" -type f -executable -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2
    }
fi
wanted() { [[ $parts == *" $1 "* ]]; }
lm_cache() {
    [ -f "$2/manifest.json" ] ||
        "$bin/kd-cache" build --config "$1/cache.toml" --out "$2" --quiet --set "teacher.device=$device"
}
build=$(bench build)
export KD_TRAIN=$bin/kd-train

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
if wanted results; then
    echo 'bench_gpu: results'
    python3 tools/check_gpu.py --device "$device" --programs "$bin" --runtimes "$runtimes" \
        --limit "${LIMIT:-60000}"
fi

if wanted operators; then
    echo 'bench_gpu: selection and loss beside reading and copying'
    "$(bench on_device)" "$device" "$rounds"
fi

torchscript=("teacher.device=$device" teacher.kind=torchscript teacher.path=configs/teachers/fashion-mnist.pt)
if wanted builds; then
    echo 'bench_gpu: a build beside the bare teacher'
    [[ $runtimes != *onnx* ]] || "$build" configs/cache/fashion-mnist.toml "$rounds" "teacher.device=$device"
    "$build" configs/cache/fashion-mnist.toml "$rounds" "${torchscript[@]}"
    for teacher in ${LM_TEACHER:-}; do
        echo "$teacher"
        "$build" "$teacher/cache.toml" "$rounds" "teacher.device=$device"
    done
fi

if wanted steps; then
    echo 'bench_gpu: a step from a cache beside a step on labels'
    [ -f "$out/cache/manifest.json" ] ||
        "$bin/kd-cache" build --config configs/cache/fashion-mnist.toml --out "$out/cache" --quiet "${torchscript[@]/#/--set=}"
    steps() {
        local name=$1
        shift
        python3 tools/bench_steps.py --programs "$bin" --out "$out/steps" --name "$name" --rounds "$rounds" \
            --set "train.device=$device" "$@"
    }
    images=(--cache "$out/cache" --config configs/train/fashion-mnist.toml --tails prior --every 50 --also train.channels_last=true)
    steps conv "${images[@]}" --set 'student={ kind = "conv", channels = [32, 64] }'
    steps resnet18 "${images[@]}" --set 'student={ kind = "resnet18" }'
    steps resnet18-bf16 "${images[@]}" --set 'student={ kind = "resnet18" }' --set train.precision=bf16
    tokens=()
    if [ -n "${LM_CACHE:-}" ]; then
        tokens=(--cache "$LM_CACHE" --config configs/train/smollm2-python-docs.toml --set "tokenizer=$TOKENIZER")
    elif [ -n "${LM_TEACHER:-}" ]; then
        teacher=${LM_TEACHER##* }
        lm_cache "$teacher" "$out/steps-cache"
        tokens=(--cache "$out/steps-cache" --config "$teacher/train.toml" --every 40)
    fi
    if [ "${#tokens[@]}" -gt 0 ]; then
        tokens+=(--tails prior,shape)
        steps llama "${tokens[@]}"
        steps llama-bf16 "${tokens[@]}" --set train.precision=bf16
    fi
fi

if wanted online && [ -n "${LM_TEACHER:-}" ]; then
    echo 'bench_gpu: with the teacher in every step'
    read -r teacher _ <<<"$LM_TEACHER"
    lm_cache "$teacher" "$out/lm-cache"
    python3 tools/bench_steps.py --programs "$bin" --out "$out/steps" --name online --rounds "$rounds" --every 10 \
        --cache "$out/lm-cache" --config "$teacher/train.toml" --tails prior --set "train.device=$device" \
        --online "$teacher/cache.toml" --cache-set "teacher.device=$device"
fi

if wanted memory; then
    echo 'bench_gpu: memory of a step beside a dense loss'
    "$(bench loss_memory)" "$device"
fi
