# The tests that take longer, and those with other tools. Each builds in a folder of its own.
.PHONY: asan fuzz fuzzers

asan:
	$(MAKE) test BUILD=build/asan CUDA=0 SANITIZE=address,undefined

# ---- what some tests need beside the library: the command line without its main, and the tiny model ----
TOOLS_OBJ := $(filter-out $(BUILD)/tools/outrider.o,$(CLI_OBJ))
$(BUILD)/tests/tiny: tests/tiny_model.py
	@mkdir -p $(@D)
	$(Q)python3 $< $@ && touch $@
$(BUILD)/tests/test_faults: $(TOOLS_OBJ)
$(BUILD)/tests/test_faults: LDFLAGS += -Wl,--wrap=ops_open,--wrap=json_loadb,--wrap=spm_open,--wrap=spm_encode
$(BUILD)/tests/test_faults: TEST_LIBS = -ledit

# ---- fuzzing: with libFuzzer for main here, with tests/replay.c in `make test` ----
TIME      ?= 60
FUZZ_MAIN ?= $(BUILD)/tests/replay.o
fuzz:
	$(MAKE) fuzzers BUILD=build/fuzz CUDA=0 CC=clang CXX=clang++ SANITIZE=fuzzer-no-link,address,undefined OPT=-O1 \
	    ISA_FLAGS=-fno-sanitize=all FUZZ_MAIN=-fsanitize=fuzzer # kernels read no files, and take clang an hour
	FOLDER=build/fuzz SECONDS_EACH=$(TIME) tests/fuzz.sh $(FUZZERS:$(BUILD)/%=build/fuzz/%)
fuzzers: $(FUZZERS)
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz_%.o $(filter %.o,$(FUZZ_MAIN)) $(TOOLS_OBJ) $(BUILD)/liboutrider.a
	$(SAY) '  link $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(filter -f%,$(FUZZ_MAIN)) $(LDLIBS) $(CLI_LIBS) -lstdc++
