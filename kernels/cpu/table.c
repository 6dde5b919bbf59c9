/* The backend's table of operations for the instruction set this is built for. */
#include "kernels/cpu/cpu.h"

#define cpu_ops ISA_NAME(cpu_ops)

extern const struct ops cpu_ops;
const struct ops cpu_ops = {
    .name = "cpu",
    .mixed_cache = true,
    .f8_weights = true,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .weight = cpu_weight,
    .weight_release = cpu_weight_release,
    .reserve = cpu_reserve,
    .upload = cpu_copy,
    .download = cpu_download,
    .copy = cpu_copy,
    .sync = cpu_sync,
    .embed = cpu_embed,
    .qkv = cpu_qkv,
    .attention = cpu_attention,
    .project = cpu_project,
    .gate_up = cpu_gate_up,
    .logits = cpu_logits,
    .argmax = cpu_argmax,
    .top = cpu_top,
    .move = cpu_move,
    .replay = cpu_replay,
    .record_begin = cpu_record_begin,
    .record_end = cpu_record_end,
    .read_bandwidth = cpu_read_bandwidth,
    .describe = cpu_describe,
    .close = cpu_close,
};
