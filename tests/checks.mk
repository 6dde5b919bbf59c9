# The tests that take longer, and those with other tools. Each builds in a folder of its own.
.PHONY: asan tsan valgrind coverage endurance fuzz fuzzers interrupts bench-ops coupled controller deb-check

# A pass of the shipped pair's shapes against reading the same bytes, by operation and row count.
bench-ops: $(BUILD)/tests/bench_ops
	$(BUILD)/tests/bench_ops $(BENCH_OPS)
$(BUILD)/tests/bench_ops: $(BUILD)/tests/bench_ops.o $(BUILD)/liboutrider.a
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lstdc++

# The coupled rule, 200 prompts, every K and batch: two hours of one core, shared among the cores there are.
coupled: $(BUILD)/tests/test_coupled
	seq 0 $$(($$(nproc) - 1)) | COUPLED=full xargs -P 0 -I N env COUPLED_PART=N/$$(nproc) $<

# The two commands of the README and the package, in bare Debian 12 roots; TESTS=test runs `make test` there too.
TESTS ?=
deb-check:
	tests/clean_debian.sh $(BUILD)/clean $(TESTS)

# Whether the automatic K keeps its promise here: plain, each K and automatic in turn, with three drafters. A quiet
# machine takes ten minutes.
controller: $(BUILD)/outrider
	OUTRIDER=$(BUILD)/outrider python3 tools/controller.py

# Ctrl-C at 100 random points; `make test` has a few.
interrupts: $(BUILD)/.test_packages $(BUILD)/outrider
	OUTRIDER=$(BUILD)/outrider /usr/bin/python3 tests/interrupts.py

# Checked vector code runs ten times slower and takes minutes to compile: the kernels are checked in the programs
# that try each of them on every shape and in one that writes text, and unchecked in the others.
CHECKED ?=
CHECKED_OBJ := $(foreach i,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/checked/%.$(i).o))
$(CHECKED:%=$(BUILD)/tests/test_%): $(CHECKED_OBJ)
-include $(CHECKED_OBJ:.o=.d) $(BUILD)/tests/endurance.d $(BUILD)/tests/bench_ops.d
asan:
	$(MAKE) test BUILD=build/asan CUDA=0 SANITIZE=address,undefined ISA_FLAGS=-fno-sanitize=all CHECKED="ops op_rules quants session"

# The engine's and the workers' threads under ThreadSanitizer; texts of the tiny model, so that it takes minutes.
tsan:
	$(MAKE) threads BUILD=build/tsan CUDA=0 SANITIZE=thread MIMALLOC=0
.PHONY: threads
threads: $(BUILD)/tests/test_threads $(BUILD)/tests/tiny
	BUILD=$(BUILD) $(BUILD)/tests/test_threads
# Not all of the tests: what has memory to lose, on the tiny model. Valgrind knows no AVX-512.
valgrind: $(BUILD)/tests/test_threads $(BUILD)/tests/test_weights $(BUILD)/tests/test_config $(BUILD)/tests/tiny
	$(Q)tools/packages.sh valgrind
	for test in threads weights config; do BUILD=$(BUILD) valgrind -q --error-exitcode=9 --leak-check=full \
	    --errors-for-leak-kinds=definite $(BUILD)/tests/test_$$test || exit 1; done
# Branches of the readers, the acceptance rules, the cache and the sampler that `make test` takes; fails below 95%.
# Only they are built with counters, so that it takes little longer than `make test`. The counts are written when a
# process ends, so the sandbox is left out; and they are not atomic but where a model's weights are converted on
# threads, so test_threads is, and test_exact, which repeats the speculation of others for minutes. Not counted: what
# a throw, an assert and the loops of jansson's macros add, and lines marked GCOVR_EXCL with their reason.
COVERED     := $(wildcard weights/*.c tokenizer/*.c tokenizer/*.cc) $(addprefix runtime/,accept.c kv.c sampler.c)
COUNTED_OBJ := $(patsubst %,$(BUILD)/%.o,$(basename $(COVERED)))
ifdef COUNTED
CPPFLAGS += -DCOUNTED -DWITHOUT_SANDBOX
LDFLAGS  += --coverage
TESTS    := $(filter-out %/test_threads %/test_exact,$(TESTS))
$(COUNTED_OBJ): OPT := -O1
$(COUNTED_OBJ): SAN := --coverage -Wno-maybe-uninitialized
$(filter $(BUILD)/weights/%,$(COUNTED_OBJ)): SAN += -fprofile-update=atomic
endif
coverage:
	$(Q)tools/packages.sh gcovr
	$(Q)mkdir -p build/coverage && find build/coverage -name '*.gcda' -delete
	$(MAKE) test BUILD=build/coverage CUDA=0 MIMALLOC=0 COUNTED=1
	cd build/coverage && gcovr --branches --root ../.. --exclude-throw-branches \
	    --exclude-branches-by-pattern '^ *(assert|json_(array|object)_foreach)\(' --filter '../../(weights|tokenizer)/' \
	    --filter '../../runtime/(accept|kv|sampler)\.c' --fail-under-branch 95 .
# Turns of chat and batched prompts, with stops and cancels: the same text, no page leaked, no memory grown.
TURNS   ?= 10000
PROMPTS ?= 100000
endurance: $(BUILD)/tests/endurance $(BUILD)/tests/tiny
	BUILD=$(BUILD) $(BUILD)/tests/endurance $(TURNS) $(PROMPTS)
$(BUILD)/tests/endurance: $(BUILD)/tests/endurance.o $(BUILD)/liboutrider.a
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lstdc++

# ---- what some tests need beside the library: the command line without its main, and the tiny models ----
TOOLS_OBJ := $(filter-out $(BUILD)/tools/outrider.o,$(CLI_OBJ))
$(BUILD)/tests/tiny: tests/tiny_model.py | $(BUILD)/.test_packages
	@mkdir -p $(@D)
	$(Q)python3 $< $@ && touch $@
$(BUILD)/tests/families: tests/tiny_families.py | $(BUILD)/.test_packages
	$(Q)python3 $< $@ && touch $@
$(BUILD)/tests/test_faults: $(TOOLS_OBJ) | $(BUILD)/tests/families
$(BUILD)/tests/test_faults: LDFLAGS += -Wl,--wrap=ops_open,--wrap=json_loadb,--wrap=spm_open,--wrap=spm_encode
$(BUILD)/tests/test_faults: TEST_LIBS = -ledit -lseccomp
comma := ,
$(BUILD)/tests/test_jinja: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,take_step list_create list_push dict_create \
    dict_set buffer_add arena_take)
$(BUILD)/tests/test_encode: LDFLAGS += -Wl,--wrap=clock
$(BUILD)/tests/test_sandbox: $(BUILD)/tools/sandbox.o
$(BUILD)/tests/test_sandbox: TEST_LIBS = -lseccomp

# ---- fuzzing: with libFuzzer for main here, with tests/replay.c in `make test` ----
TIME      ?= $(if $(filter-out 0,$(RUNS)),100000,60)
RUNS      ?= 0
FUZZ_MAIN ?= $(BUILD)/tests/replay.o
fuzz:
	$(MAKE) fuzzers BUILD=build/fuzz CUDA=0 CC=clang CXX=clang++ SANITIZE=fuzzer-no-link,address,undefined OPT=-O1 \
	    ISA_FLAGS=-fno-sanitize=all FUZZ_MAIN=-fsanitize=fuzzer # kernels read no files, and take clang an hour
	FOLDER=build/fuzz SECONDS_EACH=$(TIME) RUNS=$(RUNS) tests/fuzz.sh $(FUZZERS:$(BUILD)/%=build/fuzz/%)
fuzzers: $(FUZZERS)
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz_%.o $(filter %.o,$(FUZZ_MAIN)) $(TOOLS_OBJ) $(BUILD)/liboutrider.a
	$(SAY) '  link $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(filter -f%,$(FUZZ_MAIN)) $(LDLIBS) $(CLI_LIBS) -lstdc++
