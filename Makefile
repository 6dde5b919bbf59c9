# Outrider. `make help` lists the targets; `make run` and `make test` work from a fresh clone.

# ---- settings: make VAR=value ----
BUILD    ?= build
CUDA     ?= $(if $(shell command -v nvcc),1,0)
ARCH     ?= 90
MIMALLOC ?= 1
DEBUG    ?= 0
SANITIZE ?=
PREFIX   ?= /usr/local
PROMPT   ?= Once upon a time there was a young prince who lived in a castle by the sea, and
VERSION  := 0.1.0

PACKAGES := gcc g++ libc6-dev pkg-config libjansson-dev libedit-dev libmimalloc-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev libseccomp-dev
TEST_PACKAGES := libcmocka-dev sentencepiece python3 python3-pexpect python3-pyte

# Builds use all cores and say one word a file; V=1 shows the commands.
MAKEFLAGS += -j$(shell nproc) --no-print-directory
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
SAY = $(if $(filter 1,$(V)),@:,@echo)

# ---- flags ----
WARN     := -Wall -Wextra -Werror
OPT      := $(if $(filter 1,$(DEBUG)),-Og,$(if $(SANITIZE),-O2,-O3))
SAN      := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all \
            $(if $(findstring clang,$(CC)),-fno-sanitize=vptr))
CPPFLAGS += -I. -D_GNU_SOURCE -DOUTRIDER_VERSION='"$(VERSION)"' $(if $(filter 1,$(CUDA)),-DOUTRIDER_CUDA) \
            $(if $(findstring fuzzer,$(SANITIZE)),-DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
# Bits must not depend on the compiler's liking: no contraction, no fast-math.
CFLAGS   += -std=c11 -g -fPIC -ffp-contract=off $(OPT) $(WARN) $(SAN)
CXXFLAGS += -std=c++17 -g -fPIC $(OPT) $(WARN) $(SAN)
LDLIBS   := -ljansson -lsentencepiece -lpcre2-8 -lutf8proc -lpthread -lm -ldl
CLI_LIBS := -ledit -lseccomp $(if $(SANITIZE),,$(if $(filter 1,$(MIMALLOC)),-lmimalloc))

# ---- files, by room ----
# Files of kernels/cpu are built once for each instruction set, but for CPU_SRC; cpu.c picks one at run time.
MACHINE      := $(shell uname -m)
ISAS         := portable $(if $(filter x86_64,$(MACHINE)),avx2 avx512 avx512bf16)
ISA_portable :=
ISA_avx2     := -mavx2 -mfma -mf16c
ISA_avx512   := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16

CPU_SRC  := kernels/cpu/cpu.c kernels/cpu/panel.c
ISA_SRC  := $(filter-out $(CPU_SRC),$(wildcard kernels/cpu/*.c))
LIB_SRC  := $(wildcard runtime/*.c kernels/*.c tokenizer/*.c weights/*.c) $(CPU_SRC)
SHIM_SRC := $(wildcard tokenizer/*.cc)
CLI_SRC  := $(wildcard tools/*.c)
TEST_SRC := $(wildcard tests/test_*.c)
CUDA_SRC := $(if $(filter 1,$(CUDA)),$(wildcard kernels/cuda/*.cu))

LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o) $(SHIM_SRC:%.cc=$(BUILD)/%.o) \
            $(foreach i,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/%.$(i).o)) $(CUDA_SRC:%.cu=$(BUILD)/%.cu.o)
CLI_OBJ  := $(CLI_SRC:%.c=$(BUILD)/%.o)
TESTS    := $(TEST_SRC:%.c=$(BUILD)/%)
FUZZERS  := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz_*.c))

ifeq ($(CUDA),1)
NVCC      := nvcc
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc)))
GENCODE   := $(foreach a,$(ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(lastword $(ARCH)),code=compute_$(lastword $(ARCH))
NVCCFLAGS := -std=c++17 -O3 -lineinfo -I. -Xcompiler -fPIC,-Wall,-Wextra,-ffp-contract=off $(GENCODE)
# Sampling writes the host's tokens: see kernels/sampling.h.
$(BUILD)/kernels/cuda/round.cu.o: NVCCFLAGS += -fmad=false
LDLIBS    += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -lrt
endif

# ---- targets ----
.PHONY: all run chat test exact bench gpu-check format install uninstall deb help clean
.DELETE_ON_ERROR:
.SECONDARY:
all: $(BUILD)/outrider $(BUILD)/liboutrider.so

help:
	@echo 'make            build build/outrider and build/liboutrider.so'
	@echo 'make run        write text with the shipped pair (PROMPT="...")'
	@echo 'make chat       talk with it'
	@echo 'make test       run the tests        make asan   the same under Address- and UndefinedBehaviorSanitizer'
	@echo 'make fuzz       libFuzzer on every reader of files, TIME=60 seconds each'
	@echo 'make bench      measure plain against speculative decoding on this machine'
	@echo 'make gpu-check  on a machine with an NVIDIA card: build, test and measure the CUDA backend'
	@echo 'make install    PREFIX=/usr/local DESTDIR=   also: uninstall format clean'
	@echo 'make deb        a Debian package in $(BUILD)/        make deb-check   that, in bare Debian 12 roots'
	@echo 'settings: CUDA=0|1 ARCH="80 90" MIMALLOC=0|1 DEBUG=0|1'

run: $(BUILD)/outrider
	@$(BUILD)/outrider run -n 256 -p "$(PROMPT)"
chat: $(BUILD)/outrider
	@$(BUILD)/outrider chat
bench: $(BUILD)/outrider
	$(BUILD)/outrider bench

test: $(BUILD)/.test_packages $(BUILD)/outrider $(BUILD)/liboutrider.so $(TESTS) $(FUZZERS) $(BUILD)/tests/tiny
	@BUILD=$(BUILD) tests/run.sh $(TESTS) $(wildcard tests/test_*.py)
# Every K with every thread count and batch: about half an hour on two cores.
exact: $(BUILD)/.test_packages $(BUILD)/tests/test_exact
	EXACT=full $(BUILD)/tests/test_exact
gpu-check: $(BUILD)/.test_packages $(BUILD)/outrider $(patsubst %.cu,$(BUILD)/%,$(wildcard tests/gpu_*.cu)) $(BUILD)/tests/test_golden
	OUTRIDER=$(BUILD)/outrider GPU_OPS=$(BUILD)/tests/gpu_ops GPU_ROUND=$(BUILD)/tests/gpu_round \
	    GPU_BENCH=$(BUILD)/tests/gpu_bench GOLDEN=$(BUILD)/tests/test_golden FOLDER=$(BUILD)/gpu-check tools/gpu_check.sh
include tests/checks.mk

$(BUILD)/outrider: $(CLI_OBJ) $(BUILD)/liboutrider.a
	$(SAY) '  link $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(CLI_LIBS) -lstdc++
$(BUILD)/liboutrider.a: $(LIB_OBJ)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
$(BUILD)/liboutrider.so: $(LIB_OBJ) runtime/outrider.map
	$(SAY) '  link $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,--version-script=runtime/outrider.map -Wl,-soname,liboutrider.so.0 \
	    -o $@ $(LIB_OBJ) $(LDLIBS) -lstdc++
$(TESTS:=.o): | $(BUILD)/.test_packages
$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(BUILD)/liboutrider.a
	$(SAY) '  link $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) $(TEST_LIBS) -lcmocka -lstdc++

$(BUILD)/%.o: %.c | $(BUILD)/.packages
	@mkdir -p $(@D)
	$(SAY) '  cc   $<'
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/%.o: %.cc | $(BUILD)/.packages
	@mkdir -p $(@D)
	$(SAY) '  c++  $<'
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/kernels/cuda/%.cu.o: kernels/cuda/%.cu | $(BUILD)/.packages
	@mkdir -p $(@D)
	$(SAY) '  nvcc  $<'
	$(Q)$(NVCC) $(NVCCFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/tests/gpu_%: tests/gpu_%.cu $(BUILD)/liboutrider.a
	@mkdir -p $(@D)
	$(SAY) '  nvcc  $<'
	$(Q)$(NVCC) $(NVCCFLAGS) -Xcompiler -fopenmp -c -o $@.o $<
	$(Q)$(CXX) $(LDFLAGS) -o $@ $@.o $(BUILD)/liboutrider.a $(LDLIBS) -lgomp
$(BUILD)/tests/gpu_ops: LDFLAGS += -Wl,--wrap=cudaMalloc
define ISA_RULE
$(BUILD)/kernels/cpu/%.$(1).o: kernels/cpu/%.c | $(BUILD)/.packages
	@mkdir -p $$(@D)
	$$(SAY) '  cc   $$< ($(1))'
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(ISA_FLAGS) $$(ISA_$(1)) -DISA=$(1) -DISA_$(1) -MMD -MP -c -o $$@ $$<
$(BUILD)/checked/%.$(1).o: %.c | $(BUILD)/.packages
	@mkdir -p $$(@D)
	$$(SAY) '  cc   $$< ($(1), checked)'
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) -O1 $$(ISA_$(1)) -DISA=$(1) -DISA_$(1) -MMD -MP -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call ISA_RULE,$(i))))

$(BUILD)/.packages:
	$(Q)tools/packages.sh $(PACKAGES) && mkdir -p $(@D) && touch $@
$(BUILD)/.test_packages: $(BUILD)/.packages
	$(Q)tools/packages.sh $(TEST_PACKAGES) && touch $@

# ---- installation: the program, the library with its header, the default pair, manual page and completion ----
TALE_FILES := config.json generation_config.json model.safetensors tokenizer.model tokenizer_config.json
ROOT       := $(DESTDIR)$(PREFIX)
SHARE      := $(ROOT)/share

install: all
	install -d $(ROOT)/bin $(ROOT)/include $(ROOT)/lib/pkgconfig $(SHARE)/man/man1 $(SHARE)/man/man3 \
	    $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d $(SHARE)/outrider/tale/verifier $(SHARE)/outrider/tale/draft
	install -m 755 $(BUILD)/outrider $(ROOT)/bin/outrider
	install -m 755 $(BUILD)/liboutrider.so $(ROOT)/lib/liboutrider.so.0
	ln -sf liboutrider.so.0 $(ROOT)/lib/liboutrider.so
	install -m 644 runtime/outrider.h $(ROOT)/include/outrider.h
	printf '%s\n' 'prefix=$${pcfiledir}/../..' 'Name: outrider' 'Version: $(VERSION)' \
	    'Description: speculative decoding of large language models' 'Cflags: -I$${prefix}/include' \
	    'Libs: -L$${prefix}/lib -loutrider' >$(ROOT)/lib/pkgconfig/outrider.pc
	for m in verifier draft; do \
	    install -m 644 $(TALE_FILES:%=weights/tale/$$m/%) $(SHARE)/outrider/tale/$$m/ || exit 1; done
	$(BUILD)/outrider --man >$(SHARE)/man/man1/outrider.1
	awk -v version=$(VERSION) -f tools/man3.awk runtime/outrider.h >$(SHARE)/man/man3/outrider.3
	$(BUILD)/outrider --completion bash >$(SHARE)/bash-completion/completions/outrider
	$(BUILD)/outrider --completion zsh >$(SHARE)/zsh/site-functions/_outrider
	$(BUILD)/outrider --completion fish >$(SHARE)/fish/vendor_completions.d/outrider.fish
deb: all
	rm -rf $(BUILD)/deb
	$(MAKE) -o all install DESTDIR=$(abspath $(BUILD)/deb) PREFIX=/usr >/dev/null
	tools/deb.sh $(BUILD) $(VERSION)
uninstall:
	rm -f $(ROOT)/bin/outrider $(ROOT)/lib/liboutrider.so.0 $(ROOT)/lib/liboutrider.so $(ROOT)/include/outrider.h \
	    $(ROOT)/lib/pkgconfig/outrider.pc $(SHARE)/man/man1/outrider.1 $(SHARE)/man/man3/outrider.3 \
	    $(SHARE)/bash-completion/completions/outrider $(SHARE)/zsh/site-functions/_outrider \
	    $(SHARE)/fish/vendor_completions.d/outrider.fish
	rm -rf $(SHARE)/outrider

format:
	clang-format -i $(wildcard runtime/*.[ch] kernels/*.[ch] kernels/cpu/*.[ch] tokenizer/*.[ch] tokenizer/*.cc \
	    weights/*.[ch] tools/*.[ch] tests/*.[ch])
clean:
	rm -rf $(BUILD)

-include $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(TEST_SRC:%.c=$(BUILD)/%.d) $(FUZZERS:=.d)
