# Rules of the bench; included by the Makefile.
BENCH := $(BUILD)/bench
BENCH_BIN := $(BENCH)/input $(BENCH)/loop $(BENCH)/load

.PHONY: bench bench-deps budget
bench: $(BUILD)/sluiced bench-deps $(BENCH_BIN) ## compare with others, side by side: build/bench/report.md
	tests/bench/run $(BENCH_ARGS)

bench-deps:
	@tests/bench/deps $(BUILD)

$(BENCH)/hot: tests/bench/hot.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $< $(LIB) $(LDFLAGS) -o $@ $(PKG_LIBS) -lm

$(BENCH)/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=c17 -O2 -g $(WARN) $< -o $@ -lzmq -lxxhash

budget: $(BENCH)/hot ## count the instructions of the hot loops against tests/bench/budget.txt
	$(PY) tests/bench/test_budget.py $(BENCH)/hot
