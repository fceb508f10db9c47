# `make` alone lists the targets. Everything that is not Rust or Go and is
# missing is installed from the distribution's packages by tests/servers/deps.sh.

SHELL := /bin/bash
CARGO ?= cargo
# Tests start real servers: more at once make them slow, not the run fast.
TEST_THREADS ?= 3
RUN_TEST = --config 'target."cfg(all())".runner="$(CURDIR)/tests/servers/run-test.sh"'
# Tests on hosts that make test leaves to make test-all.
LONG = $(patsubst tests/%.rs,--test %,$(shell grep -l 'ignore = "long' tests/*.rs))
# Size of the benchmark's database in bytes, and how often each thing is measured.
BENCH_BYTES ?= 1000000000
BENCH_RUNS ?= 5
# How long each fuzz target runs, in seconds.
FUZZ_SECONDS ?= 60

.PHONY: help demo test test-all bench dist fuzz lint build deps servers

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1@\2/p' Makefile | sort | column -t -s @

demo: ## back up, destroy and restore a three-member etcd before your eyes
	@tests/servers/deps.sh demo
	@$(CARGO) build --quiet --bin etcdvault
	@$(CARGO) build --quiet --package harness --bin etcd-fill
	@tests/demo/demo.sh

test: deps servers lint ## install what the tests need and run everything
	@echo "$$(date +%T)  tests"
	$(CARGO) test --workspace --quiet $(RUN_TEST) -- --test-threads $(TEST_THREADS)

test-all: export ETCDVAULT_TEST_STRIDE = 1
test-all: export TEST_LIMIT = 3600
test-all: test ## test, and what takes longer: all kills of plans, demo, short fuzzing, dist
	$(CARGO) test --quiet $(RUN_TEST) $(LONG) -- --ignored --test-threads $(TEST_THREADS)
	$(MAKE) demo
	$(MAKE) fuzz FUZZ_SECONDS=20
	$(MAKE) dist
	ETCDVAULT_TEST_PROGRAM="$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/dist/etcdvault" $(CARGO) test --quiet $(RUN_TEST) --test hosts_discover debian_1

servers: ## build the servers and hosts of the tests into the cache
	@echo "$$(date +%T)  servers and hosts of the tests"
	@for release in bookworm trixie; do tests/servers/install-rootfs.sh $$release || exit 1; done
	@for part in kubernetes containerd crictl images; do tests/servers/install-kubernetes.sh $$part || exit 1; done
	@for series in 3.4 3.5 3.6 3.7; do tests/servers/install-etcd.sh $$series || exit 1; done
	@for store in seaweedfs minio; do tests/servers/install-s3.sh $$store || exit 1; done

lint: ## formatting, clippy, licences and sources of the dependencies
	@echo "$$(date +%T)  formatting, lints, dependencies"
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	"$$(tests/servers/install-deny.sh)" --workspace check --hide-inclusion-graph licenses bans sources

bench: ## measure against etcdctl, etcdutl, zstd and ssh (BENCH_BYTES, BENCH_RUNS)
	@tests/servers/deps.sh bench
	$(CARGO) build --quiet --release --bin etcdvault
	$(CARGO) build --quiet --package harness --bin etcd-fill --bin test-hosts
	tests/bench/bench.py --bytes $(BENCH_BYTES) --runs $(BENCH_RUNS)

dist: ## the release binary for glibc 2.17 and newer, in target/dist
	@tests/servers/deps.sh dist
	tests/servers/dist.sh

fuzz: ## run every fuzz target for FUZZ_SECONDS
	@tests/servers/deps.sh fuzz
	tests/servers/fuzz.sh $(FUZZ_SECONDS)

build: ## the release binary for this machine
	@tests/servers/deps.sh build
	$(CARGO) build --release --bin etcdvault

deps: ## install what the tests need
	@tests/servers/deps.sh test
