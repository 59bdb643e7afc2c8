# The two commands of the README are `make demo` and `make test`; the rest is for those who build ebbtide.
SHELL := /bin/bash
TOOLS := $(CURDIR)/target/tools/bin
export PATH := $(TOOLS):$(PATH)

.PHONY: demo test test-long test-sidecars test-kubernetes mutants bench build check fmt clean-tools

# Installs what is missing, builds, and runs the workshop's four exercises on real devices.
demo:
	@scripts/setup build
	@cargo build -p ebbtide
	@target/debug/ebbtide demo

# Everything CI runs: formatting, lints, the tests of every crate, and the black-box tests with kubectl, the aws CLI and boto3. Random
# tests begin from one seed here, so that a commit passes or fails twice alike; test-long and a plain `cargo test` draw their own.
test: check
	cargo build -q -p ebbtide
	PROPTEST_RNG_SEED=$${PROPTEST_RNG_SEED:-1} EBBTIDE_BIN=$(CURDIR)/target/debug/ebbtide cargo test --workspace

# What takes minutes: the machines' random tests with twenty times the cases; the virtual kernel beside this one, as root; and each
# seeded bug is looked for from nothing and shrunk, and told in a line.
test-long:
	PROPTEST_CASES=5120 cargo test --release -p model-aws -p model-kube -p model-node
	EBBTIDE_DIFFERENTIAL_CASES=1000 cargo test -p scenarios --test differential -- --nocapture
	cargo test --release -p scenarios --test seeded_bugs -- --ignored --nocapture

# The exercises with the real CSI sidecars in the place of our controllers, and with the real EBS driver where EBBTIDE_TEST_EBS_DRIVER
# gives its binary. CI runs it too. Building the sidecars takes ten minutes the first time.
test-sidecars:
	@scripts/setup sidecars
	cargo build -q -p ebbtide
	EBBTIDE_BIN=$(CURDIR)/target/debug/ebbtide cargo test -p ebbtide-tests --test sidecars

# A real Kubernetes with the exercises, a look through its audit log and a selection of External.Storage, on the real drivers that
# EBBTIDE_TEST_EBS_DRIVER and EBBTIDE_TEST_EFS_DRIVER name, else on the built-in ones. It says what this machine has not got;
# scripts/kubernetes/build.sh makes most of it, which takes half an hour of CPU the first time.
test-kubernetes:
	cargo build -q -p ebbtide
	EBBTIDE_KUBERNETES=$${EBBTIDE_KUBERNETES:-$(CURDIR)/target/kubernetes} EBBTIDE_BIN=$(CURDIR)/target/debug/ebbtide \
		cargo test -p ebbtide-tests --test kubernetes -- --nocapture

# Changes the model's code, one place at a time, and names each change that the tests of its crate let pass: first by the tests inside
# the crate, then, what is left, by those of its tests/ too. Scores and what stays: model/README.md. All of it takes a day;
# MUTANTS="-f 'model/aws/src/ec2/*.rs'" names files, and '--shard 0/20 --sharding round-robin' behind them takes every twentieth change.
mutants: MUTANTS ?= -f 'model/*/src/**'
mutants: export PROPTEST_CASES ?= 64
mutants: export PROPTEST_RNG_SEED ?= 1
mutants: export PROPTEST_MAX_SHRINK_ITERS = 0
mutants: export PROPTEST_DISABLE_FAILURE_PERSISTENCE = 1
mutants:
	@cargo mutants --version >/dev/null 2>&1 || { echo 'cargo-mutants is missing: cargo install cargo-mutants --locked' >&2; exit 1; }
	@mkdir -p target && rm -rf target/mutants.out
	-cargo mutants --output target --cargo-arg=--lib $(MUTANTS)
	cargo mutants --output target --iterate $(MUTANTS)

check:
	@scripts/setup test
	cargo fmt --all --check
	cargo clippy -q --workspace --all-targets -- -D warnings

build:
	@scripts/setup build
	cargo build --release -p ebbtide

# Figures, each as a ratio against something that runs beside it (tests/src/bin/bench).
bench:
	@scripts/setup bench
	cargo build -q --release -p ebbtide -p ebbtide-tests
	EBBTIDE_BIN=$(CURDIR)/target/release/ebbtide target/release/bench $(BENCH)

fmt:
	cargo fmt --all

clean-tools:
	rm -rf target/tools
