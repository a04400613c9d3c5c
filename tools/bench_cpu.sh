#!/usr/bin/env bash
# The ratios of benches/README.md that a CPU can give, in one go: three quarters of an hour to an hour on two cores that do nothing else.
#
#     tools/bench_cpu.sh OUT
#
# Steps that need what is not here are named and left out: the language model's (tools/setup.sh --language-model), and
# the pass over a cache larger than memory (root). Of the environment:
#
#     DISTILLKIT                 a checkout of DistillKit, whose decoder is measured too, with a python3 that has torch and datasets
#     IMAGES and IMAGE_TEACHER   for a build from JPEG files: a folder of them, as tools/make_image_folder.py makes one, and an ONNX
#                                file of the teacher that configs/cache/efficientnet-lite0.toml describes
#
# Paths that are not absolute are taken from the root of the repository.
#
# Everything that is printed is kept in OUT/bench_cpu.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    '' | -*) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
out=$1
if [ -n "${IMAGES:-}" ]; then
    : "${IMAGE_TEACHER:?IMAGES needs it}"
    folder=$(realpath "$IMAGES")
    model=$(realpath "$IMAGE_TEACHER")
fi
mkdir -p "$out"
exec > >(tee "$out/bench_cpu.txt") 2>&1
PYTHONPATH=$(tools/setup.sh --python)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
cargo build --release
bin=${CARGO_TARGET_DIR:-target}/release
bench() { cargo bench --profile release --bench "$@"; }
language_model= # A config, where there is its teacher.
[ ! -f data/smollm2-135m/model.onnx ] || language_model=configs/cache/smollm2-python-docs.toml
tokenizer=data/smollm2-135m/tokenizer.json
teacher=(teacher.path=data/smollm2-135m/model.onnx "dataset.tokenizer=$tokenizer")
say() { printf '\nbench_cpu: %s\n' "$1"; }

say 'selection'
bench selection
say 'decoding'
[ -n "${DISTILLKIT:-}" ] || echo 'left out: DistillKit, of which DISTILLKIT would be a checkout'
python3 tools/bench_decode.py --out "$out/decode" ${DISTILLKIT:+--distillkit "$DISTILLKIT"}
say 'memory of the loss'
bench loss_memory
say 'the start of kd-train'
bench start
say 'a pass over a cache larger than memory'
if [ "$(id -u)" = 0 ]; then
    python3 tools/bench_epoch.py --out "$out/epoch" --orders 1024/8192,4096/16384,512/16384 ||
        echo 'left out: no memory group can be made here, or the pass failed, as said above'
else
    echo 'left out: needs root, for a memory group'
fi

say 'how costs grow'
bench scaling -- 2 "$(realpath "$out")/scaling.json"

say 'a build beside the bare teacher'
bench build -- configs/cache/fashion-mnist.toml 3
if [ -n "$language_model" ]; then
    bench build -- "$language_model" 5 "${teacher[@]}" dataset.limit=8 tail.fit_samples=512
else
    echo 'left out: SmolLM2, needs tools/setup.sh --language-model'
fi
if [ -n "${IMAGES:-}" ]; then
    bench build -- configs/cache/efficientnet-lite0.toml 5 "dataset.path=$folder" "teacher.path=$model" tail.fit_samples=128
else
    echo 'left out: JPEG files, of which IMAGES would be the folder'
fi

say 'a step from a cache beside a step on labels'
[ -f "$out/cache/manifest.json" ] ||
    "$bin/kd-cache" build --config configs/cache/fashion-mnist.toml --out "$out/cache" --quiet
steps() {
    local name=$1
    shift
    python3 tools/bench_steps.py --programs "$bin" --out "$out/steps" --name "$name" "$@"
}
images=(--cache "$out/cache" --config configs/train/fashion-mnist.toml --tails prior --set "train.threads=$(nproc)")
steps conv "${images[@]}" --every 40 --rounds 11 --set 'student={ kind = "conv", channels = [32, 64] }'
steps resnet18 "${images[@]}" --every 4 --rounds 9 --set train.batch=32 --set 'student={ kind = "resnet18" }'
if [ -z "$language_model" ]; then
    echo 'left out: the small Llama, needs tools/setup.sh --language-model'
    exit 0
fi
[ -f "$out/documents/manifest.json" ] ||
    "$bin/kd-cache" build --config "$language_model" --out "$out/documents" --quiet --set dataset.limit=32 \
        "${teacher[@]/#/--set=}"
steps llama --cache "$out/documents" --config configs/train/smollm2-python-docs.toml --tails prior,shape \
    --every 4 --rounds 6 --set train.batch=2 --set "tokenizer=$tokenizer" \
    --set student.hidden_size=128 --set student.num_hidden_layers=2 --set student.num_attention_heads=4 \
    --online "$language_model" "${teacher[@]/#/--cache-set=}" --cache-set teacher.chunk=64
