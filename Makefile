# `make help` lists the targets. Each installs what it needs: tools with cargo and, as root on Debian, packages with apt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
BED := tests/bed/bed
SCRIPTS := .ci/run tests/bed/bed tests/bed/demo tests/bed/supervise $(wildcard tests/bed/jobs/* workflows/*.sh) \
    $(addprefix benches/,run measure.sh reading last-lines requests followers)
ROOT := $(filter 0,$(shell id -u))

# $(call install,PACKAGE...): packages of Debian, if root is here.
define install
[[ $$EUID -ne 0 ]] || ! command -v apt-get >/dev/null || \
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends -o Dpkg::Use-Pty=0 $(1); }
endef

# $(call need,COMMAND,PACKAGE...): a command that Debian has, installed if it is missing.
define need
@command -v $(1) >/dev/null || $(call install,$(2))
endef

# $(call need-cargo,SUBCOMMAND,OPTION...): a subcommand of cargo, built from source if it is missing; that takes minutes, once.
define need-cargo
@cargo $(1) --version >/dev/null 2>&1 || cargo install --locked cargo-$(1) $(2)
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: bed deb ## do the main job in a throw-away machine with a real systemd, from the package on (root)
	$(BED) with demo -- tests/bed/demo target/debian/ci-bridge_*.deb

.PHONY: test
ifneq ($(ROOT),)
# As root, a bed that does not boot is a failure and no reason to skip a test.
test: bed deb ## run all tests (root), or those that need no real systemd
	$(call need-cargo,nextest,--no-default-features --features default-no-update)
	cargo test --locked --quiet --doc
	CI_BRIDGE_DEB=$$(realpath target/debian/ci-bridge_*.deb) cargo nextest run --locked --run-ignored all
else
test:
	$(call need-cargo,nextest,--no-default-features --features default-no-update)
	cargo test --locked --quiet --doc
	cargo nextest run --locked
	@echo "make test: skipped the tests on a real systemd: they need root; run: sudo make test"
endif

.PHONY: deb
deb: ## build target/debian/ci-bridge_*.deb
	$(call need,cc,gcc libc6-dev)
	$(call need,dpkg-shlibdeps,dpkg-dev)
	$(call need-cargo,deb)
	cargo build --locked --release
	$(TARGET)/release/ci-bridge generate man target/assets/man
	$(TARGET)/release/ci-bridge generate completions target/assets/completions
	@mkdir -p target/debian
	@rm -f target/debian/ci-bridge_*.deb
	cargo deb --locked --no-build --output target/debian/

.PHONY: bench
bench: bed deb ## measure it beside its peers and print the tables of docs/performance.md (root; half an hour)
	$(call need,wrk,wrk)
	$(call need,cc,gcc libc6-dev)
	@[[ -e /usr/include/systemd/sd-journal.h ]] || $(call install,libsystemd-dev)
	benches/run

# Seconds for each target.
FUZZ ?= 60

.PHONY: fuzz
fuzz: ## feed random input to what reads foreign bytes, FUZZ=60 seconds each (a nightly Rust; not part of any other target)
	$(call need,c++,g++ libc6-dev)
	@cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install --profile minimal nightly
	$(call need-cargo,fuzz)
	@[[ -x /lib/systemd/systemd-journal-remote ]] || $(call install,systemd-journal-remote)
	for target in $$(cargo +nightly fuzz list); do \
	    cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ) -len_control=0 -max_len=2048 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1; \
	done

.PHONY: lint
lint: ## check format, warnings, documentation and shell scripts
	$(call need,cc,gcc libc6-dev)
	$(call need,shellcheck,shellcheck)
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets -- --deny warnings
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --quiet --manifest-path fuzz/Cargo.toml --no-default-features --target-dir $(TARGET) -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --locked --quiet --no-deps
	shellcheck $(SCRIPTS)

.PHONY: clean
clean: ## remove what was built
	cargo clean

.PHONY: bed
bed:
	@$(BED) prepare
	@$(BED) check
