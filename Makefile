# sluice: `make help` lists the targets. All that is made lies in build/.
#
# `make deps` asks Debian for what is missing and runs before anything else; once all is there it touches
# neither network nor root. Variants of the build (sanitizers, fault points, coverage, fuzzing) are this same
# file run again with another BUILD.

ifeq ($(origin CC),default)
CC := gcc
endif
BUILD ?= build
PREFIX ?= /usr/local
VERSION := 0.1.0
PY := /usr/bin/python3
export PATH := $(PATH):/usr/sbin:/sbin

# Debian packages: to build and run the demo, and what the tests and tools need besides.
DEPS := gcc libc6-dev pkg-config libzmq3-dev libmsgpack-dev libyaml-dev libsystemd-dev liblua5.4-dev \
	liblmdb-dev libsqlite3-dev libpcre2-dev libxxhash-dev libisal-dev libssl-dev libseccomp-dev sqlite3
DEPS_CHECK := libcmocka-dev clang libclang-rt-dev python3-pytest python3-zmq python3-msgpack shellcheck procps \
	strace valgrind binutils
DEPS_TOOLS := clang-format clang-tidy cppcheck libyajl-dev
DEPS_PACKAGE := python3-minimal scdoc dpkg-dev debhelper lintian

LIBS := libzmq libisal libsystemd libseccomp yaml-0.1 lua5.4 sqlite3 libpcre2-8 libxxhash libcrypto
WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wno-sign-conversion
CPPFLAGS += -I. -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"'
OPT ?= -O2 -g
CFLAGS += -std=c17 $(OPT) $(WARN) $(if $(WERROR),-Werror) -fvisibility=hidden -fno-common \
	-fno-strict-aliasing -fstack-protector-strong -fno-omit-frame-pointer $(EXTRA_CFLAGS)
LDFLAGS += $(EXTRA_LDFLAGS)
COMPILE = $(CC) $(CPPFLAGS) @$(BUILD)/pkg.cflags $(CFLAGS)
# V=1 shows the commands
Q := $(if $(V),,@)
TELL = $(if $(V),,@echo "  $(1)")
NOTE = -MMD -MP -MF $@.d
LINK_LIBS = @$(BUILD)/pkg.libs -llmdb -lmsgpackc -lm

MAINS := daemon/main.c daemon/sluicectl.c
SRC := $(filter-out $(MAINS),$(wildcard ipc/*.c stages/*.c stages/*/*.c daemon/*.c))
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o)
MAIN_OBJ := $(MAINS:%.c=$(BUILD)/obj/%.o)
LIB := $(BUILD)/libsluice.a
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
BENCH_BIN := $(addprefix $(BUILD)/bench/,input loop load wire checked)
FUZZ := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))

# the sanitizers stop at the first find; a worker that leaves by _exit has nothing to report
SAN := -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_MAKE = $(MAKE) --no-print-directory BUILD=build/fuzz CC=clang OPT='-O1 -g' \
	EXTRA_CFLAGS='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -DARENA_GUARD' \
	EXTRA_LDFLAGS='$(SAN)'
SAN_MAKE = $(MAKE) --no-print-directory BUILD=build/san OPT='-O1 -g' \
	EXTRA_CFLAGS='$(SAN) -DARENA_GUARD' EXTRA_LDFLAGS='$(SAN)'
FAULT_MAKE = $(MAKE) --no-print-directory BUILD=build/faults EXTRA_CFLAGS=-DSLUICE_FAULTS
COV_MAKE = $(MAKE) --no-print-directory BUILD=build/cov OPT='-O0 -g' EXTRA_CFLAGS=--coverage \
	EXTRA_LDFLAGS=--coverage

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all deps demo check check-unit check-e2e check-fault unit units fuzzers faults \
	sanitizers bench bench-deps budget fuzz lint format coverage sanitize torture soak clean help FORCE

all: $(BUILD)/sluiced $(BUILD)/sluicectl ## build the daemon and its command

# ---- what has to be there first ----

# One stamp a list: another list, another stamp.
stamp = build/deps/$(1)-$(shell echo '$(2)' | cksum | cut -d' ' -f1)
STAMP := $(call stamp,build,$(DEPS))
STAMP_CHECK := $(call stamp,check,$(DEPS_CHECK))
STAMP_TOOLS := $(call stamp,tools,$(DEPS_TOOLS))
STAMP_PACKAGE := $(call stamp,package,$(DEPS_PACKAGE))

deps: $(STAMP) $(STAMP_CHECK) ## install what is missing, from Debian (root or sudo)
	@:

$(STAMP): PACKAGES := $(DEPS)
$(STAMP_CHECK): PACKAGES := $(DEPS_CHECK)
$(STAMP_TOOLS): PACKAGES := $(DEPS_TOOLS)
$(STAMP_PACKAGE): PACKAGES := $(DEPS_PACKAGE)
$(STAMP_CHECK): | $(STAMP)
$(STAMP_TOOLS): | $(STAMP_CHECK)
$(STAMP_PACKAGE): | $(STAMP)
$(STAMP) $(STAMP_CHECK) $(STAMP_TOOLS) $(STAMP_PACKAGE):
	@sh tests/deps $(PACKAGES)
	@mkdir -p $(@D) && touch $@

# ---- building ----

# Other flags than last time make everything again.
$(BUILD)/flags: FORCE | $(STAMP)
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(LDFLAGS)' | cmp -s - $@ || echo '$(COMPILE) $(LDFLAGS)' >$@

$(BUILD)/pkg.cflags: Makefile | $(STAMP)
	@mkdir -p $(@D)
	@pkg-config --cflags $(LIBS) >$@

$(BUILD)/pkg.libs: Makefile | $(STAMP)
	@mkdir -p $(@D)
	@pkg-config --libs $(LIBS) >$@

$(BUILD)/obj/%.o: %.c $(BUILD)/flags | $(BUILD)/pkg.cflags
	@mkdir -p $(@D)
	$(call TELL,CC   $@)
	$(Q)$(COMPILE) $(NOTE) -c $< -o $@

$(LIB): $(OBJ)
	$(call TELL,AR   $@)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/sluiced: $(BUILD)/obj/daemon/main.o $(LIB) | $(BUILD)/pkg.libs
	$(call TELL,LINK $@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(LINK_LIBS)

$(BUILD)/sluicectl: $(BUILD)/obj/daemon/sluicectl.o $(LIB) | $(BUILD)/pkg.libs
	$(call TELL,LINK $@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(LINK_LIBS)

$(BUILD)/tests/%: tests/unit/%.c $(LIB) | $(STAMP_CHECK) $(BUILD)/pkg.libs
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(COMPILE) $(NOTE) $< $(LIB) $(LDFLAGS) -o $@ $(LINK_LIBS) -lcmocka

# The explorer stops at the fault points of arena and intents, so it has these files built its own way. (Not
# named in the object files' dependencies, hence the headers here.)
EXPLORED := ipc/arena.c ipc/arena_map.c ipc/intent.c ipc/stats.c
$(BUILD)/tests/test_explore: tests/unit/test_explore.c tests/unit/explore.h $(EXPLORED) $(wildcard ipc/*.h ipc/*.def) \
		$(BUILD)/flags | $(STAMP_CHECK) $(BUILD)/pkg.cflags
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(COMPILE) -DSLUICE_FAULTS $< $(EXPLORED) $(LDFLAGS) -o $@ -lcmocka -lisal -lm

$(BUILD)/fuzz_%: tests/fuzz/fuzz_%.c $(LIB) | $(STAMP_CHECK) $(BUILD)/pkg.libs
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(COMPILE) $(NOTE) -fsanitize=fuzzer $< $(LIB) $(LDFLAGS) -o $@ $(LINK_LIBS)

$(BUILD)/bench/bench_codec: tests/bench/bench_codec.c $(LIB) | $(STAMP_TOOLS) $(BUILD)/pkg.libs
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(COMPILE) $(NOTE) $< $(LIB) $(LDFLAGS) -o $@ $(LINK_LIBS) -lyajl

# Parts of what other targets build, with another BUILD.
units: $(UNIT)
fuzzers: $(FUZZ) $(MAIN_OBJ)
faults: | $(STAMP)
	@+$(FAULT_MAKE) all
sanitizers: | $(STAMP_CHECK)
	@+$(SAN_MAKE) all units

# ---- showing ----

demo: all ## Debian's package index through a pipeline, the result proved against awk
	@sh tests/demo/run

# ---- testing: each ends with "N passed, N failed" ----

check: all units faults $(BUILD)/bench/hot | $(STAMP_CHECK) $(STAMP_PACKAGE) ## everything that is tested: unit, e2e, short faults, short fuzzing, rules
	@+$(FUZZ_MAKE) fuzzers
	@$(PY) tests/run rules budget unit e2e+fault fuzz

unit: check-unit
check-unit: units ## unit tests
	@$(PY) tests/run unit

check-e2e: all | $(STAMP_CHECK) $(STAMP_PACKAGE) ## end-to-end tests
	@$(PY) tests/run e2e

check-fault: all faults | $(STAMP_CHECK) ## kills, full disks and other accidents, in short form
	@$(PY) tests/run fault

fuzz: | $(STAMP_CHECK) ## every fuzzer for FUZZ_SECONDS (300) each
	@+$(FUZZ_MAKE) fuzzers
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(PY) tests/run fuzz

sanitize: sanitizers ## unit and end-to-end tests with ASan, UBSan and guard pages
	@SLUICE_BUILD=build/san $(PY) tests/run unit e2e

torture: all units faults ## faults at length, the explorer wider
	@EXPLORE_PREEMPTIONS=$${EXPLORE_PREEMPTIONS:-3} EXPLORE_KILLS=$${EXPLORE_KILLS:-2} SLUICE_TORTURE=1 \
		TEST_TIMEOUT=86400 $(PY) tests/run explore fault

soak: all faults ## SOAK_MINUTES (30) of mixed load with accidents
	@TEST_TIMEOUT=86400 $(PY) tests/run soak

bench: all $(BENCH_BIN) $(BUILD)/bench/bench_codec | $(STAMP_TOOLS) bench-deps ## the comparison; build/bench/report.md
	@tests/bench/run $(BENCH_ARGS)

# What it compares with, from Debian.
bench-deps: | $(STAMP_CHECK)
	@tests/bench/deps $(BUILD)

$(BUILD)/bench/hot: tests/bench/hot.c $(LIB) | $(STAMP) $(BUILD)/pkg.libs
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(COMPILE) $(NOTE) $< $(LIB) $(LDFLAGS) -o $@ $(LINK_LIBS)

$(BENCH_BIN): $(BUILD)/bench/%: tests/bench/%.c | $(STAMP) bench-deps
	@mkdir -p $(@D)
	$(call TELL,LINK $@)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -O2 -g $(WARN) $< -o $@ -lzmq -lxxhash $(if $(findstring checked,$@),-lyajl)

budget: $(BUILD)/bench/hot | $(STAMP_CHECK) ## instructions of the hot loops against tests/bench/budget.txt
	@$(PY) tests/bench/test_budget.py $<

coverage: | $(STAMP_CHECK) ## lines run by the unit tests, a line a file
	@+$(COV_MAKE) all units
	@find build/cov -name '*.gcda' -delete
	@SLUICE_BUILD=build/cov $(PY) tests/run unit
	@sh tests/coverage build/cov

# ---- keeping ----

lint: | $(STAMP_TOOLS) ## formatting, clang-tidy, cppcheck, shellcheck, and the rules of the house
	@sh tests/lint rules sizes format shell cppcheck tidy

format: | $(STAMP_TOOLS) ## format all C files
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## remove what was built
	rm -rf build

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

-include systemd/install.mk
$(MANUALS) $(SHELLS): | $(STAMP_PACKAGE)
-include $(addsuffix .d,$(OBJ) $(MAIN_OBJ) $(UNIT) $(FUZZ))
