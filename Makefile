# What a clean clone can do. Each target sets up what it needs and says what it is doing;
# afterwards plain `cargo build`, `cargo test` and `cargo run` work with no variable to set.

# The device of the demo: cpu, cuda or cuda:N.
DEVICE ?= cpu

.DEFAULT_GOAL := help
.PHONY: help setup build demo demo-lm test bench

help:
	@echo 'make demo    the main job on real data: run the teacher once, train a student from the cache'
	@echo '             (make demo DEVICE=cuda on a machine with a GPU, after tools/setup.sh --cuda)'
	@echo 'make demo-lm a language model: SmolLM2-135M and the Python documentation, a student and its twin on labels'
	@echo 'make test    the gate: format, layers, lints, tests, documentation'
	@echo 'make build   both programs, in the release profile'
	@echo 'make bench   the ratios of benches/README.md that a CPU can give: an hour or a little less'
	@echo 'make setup   fetch libtorch, ONNX Runtime and Fashion-MNIST (the others do it by themselves)'

setup:
	tools/setup.sh

build: setup
	cargo build --release

demo: build
	python3 tools/demo.py --device $(DEVICE)

demo-lm:
	tools/setup.sh --language-model
	cargo build --release
	python3 tools/demo_lm.py --device $(DEVICE)

test: setup
	tools/check.sh

bench: setup
	tools/bench_cpu.sh out/bench
