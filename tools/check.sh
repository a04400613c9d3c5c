#!/usr/bin/env bash
# The one gate, cheapest step first; it stops at the first step that fails.
#
#     tools/check.sh            everything
#     tools/check.sh --quick    format and layers only: seconds, nothing is compiled
#
# Everything is compiled in the release profile: one profile, so that libtorch's bindings, which
# take minutes, compile once for lints, tests, benches and programs alike.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=0
for argument in "$@"; do
    case "$argument" in
        --quick) quick=1 ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "check: error: unknown argument '$argument' (known: --quick, --help)" >&2; exit 2 ;;
    esac
done

# step NAME COMMAND…
step() {
    local name=$1 start=$SECONDS
    shift
    printf '\ncheck: %s\n       %s\n' "$name" "$*"
    if ! "$@"; then
        printf '\ncheck: FAILED: %s, after %d s\n' "$name" $((SECONDS - start)) >&2
        exit 1
    fi
    printf 'check: %s: %d s\n' "$name" $((SECONDS - start))
}

# skip NAME WHY
skipped=
skip() {
    printf '\ncheck: %s: SKIPPED (%s)\n' "$1" "$2"
    skipped="$skipped${skipped:+, }$1"
}

step 'format' cargo fmt --check
step 'layers' python3 tools/check_layers.py
step 'layers: the check finds what is planted' python3 tools/check_layers.py --self-test
if [ "$quick" = 1 ]; then exit 0; fi

# The packages that tools/setup.sh installs; a test in Rust reads an archive back with NumPy too.
PYTHONPATH=$(tools/setup.sh --python)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

# Benches too: to link each of them would take minutes and gigabytes, and say no more.
step 'lints' cargo clippy --release --all-targets -- -D warnings
step 'lints without native libraries' cargo clippy --release --all-targets --no-default-features -- -D warnings
# The library's own tests are the same code with the libraries and without; the small program is another one. It is made first, so
# that the whole one is what stays.
step 'tests without native libraries' cargo test --release --no-default-features --test suite
# A test whose Python lacks something passes, and says so here.
KD_CACHE_TESTS_SKIPPED=$(mktemp)
export KD_CACHE_TESTS_SKIPPED
trap 'rm -f "$KD_CACHE_TESTS_SKIPPED" "$KD_CACHE_TESTS_SKIPPED.python"' EXIT
step 'tests' cargo test --release
skips=$(sort -u "$KD_CACHE_TESTS_SKIPPED")
if [ -n "$skips" ]; then skip 'tests beside Python' "$skips"; fi
# The flags after `--` are added to those of .cargo/config.toml, which RUSTDOCFLAGS would replace.
step 'documentation' cargo rustdoc --release --lib -- -D warnings
step 'documentation without native libraries' cargo rustdoc --release --lib --no-default-features -- -D warnings

# A reader that shares no code with ours, on the fixture of the format and on numbers of our loss, and
# the tools that others open shards with.
if python3 -c 'import numpy, pyarrow' 2>/dev/null; then
    step 'the Python reader' python3 tools/read_cache.py tests/fixtures/v1/cache --check tests/fixtures/v1/expected.json
    unittests() { python3 -m unittest discover -v -s tests/python 2>&1 | tee "$KD_CACHE_TESTS_SKIPPED.python"; }
    step 'tests in Python' unittests
    skips=$(grep -c '\.\.\. skipped ' "$KD_CACHE_TESTS_SKIPPED.python" || true)
    if [ "$skips" != 0 ]; then skip 'tests in Python' "$skips of them, for the reasons above"; fi
else
    skip 'the Python reader' 'python3 has no numpy and pyarrow: tools/setup.sh installs them'
fi

if cargo deny --version >/dev/null 2>&1; then
    step 'licences and advisories' cargo deny check
else
    skip 'licences and advisories' 'cargo-deny is not installed: cargo install cargo-deny'
fi

printf '\ncheck: all is well%s, %d s\n' "${skipped:+, but for what was skipped ($skipped)}" "$SECONDS"
