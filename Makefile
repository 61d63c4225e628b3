# sluice: `make help` lists the targets.
CC ?= gcc
BUILD ?= build
PREFIX ?= /usr/local
VERSION := 0.1.0
PY := /usr/bin/python3

LIBS := libzmq libsystemd libseccomp yaml-0.1 lua5.4 sqlite3 libpcre2-8 libxxhash libcrypto
WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wno-sign-conversion
CPPFLAGS += -I. -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"'
# pkg-config is asked when a recipe runs: on a bare machine `make deps` has to run first
PKG_CFLAGS = $(shell pkg-config --cflags $(LIBS) 2>/dev/null)
PKG_LIBS = $(shell pkg-config --libs $(LIBS) 2>/dev/null) -llmdb -lmsgpackc
OPT ?= -O2 -g
CFLAGS += -std=c17 $(OPT) $(WARN) -fvisibility=hidden -fno-common -fno-strict-aliasing \
	-fstack-protector-strong -fno-omit-frame-pointer $(EXTRA_CFLAGS)
LDFLAGS += $(EXTRA_LDFLAGS)

MAINS := daemon/main.c daemon/sluicectl.c
SRC := $(filter-out $(MAINS),$(wildcard ipc/*.c stages/*.c stages/*/*.c daemon/*.c))
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o)
LIB := $(BUILD)/libsluice.a
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))

.PHONY: all deps help unit clean
all: $(BUILD)/sluiced $(BUILD)/sluicectl ## build the daemon and its command

$(BUILD)/obj/%.o: %.c | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/sluiced: $(BUILD)/obj/daemon/main.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(PKG_LIBS) -lm

$(BUILD)/sluicectl: $(BUILD)/obj/daemon/sluicectl.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(PKG_LIBS) -lm

$(BUILD)/tests/%: tests/unit/%.c $(LIB) | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) -MMD -MP $< $(LIB) $(LDFLAGS) -o $@ $(PKG_LIBS) -lcmocka -lm

unit: $(UNIT) ## build and run the unit tests
	@set -e; for t in $(UNIT); do echo "== $$t"; $$t; done

deps: ## install what is missing, from Debian
	@:

clean: ## remove what was built
	rm -rf $(BUILD)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

-include systemd/install.mk
-include $(OBJ:.o=.d)
