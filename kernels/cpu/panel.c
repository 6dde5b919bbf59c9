/* See panel.h. Built once: the layout is the same for every instruction set. */
#include "kernels/cpu/panel.h"

#include <string.h>

size_t panels_bytes(enum dtype t, int32_t n, int32_t k) {
    return (size_t)((n + PANEL - 1) / PANEL) * panel_bytes(t, k / GROUP);
}

/* One output's blocks into its lane of a panel. */
static void pack_lane(enum dtype t, const char *block, int32_t groups, char *panel, int32_t lane) {
    char *scales = panel, *quants = panel + panel_scale_bytes(groups);
    const uint32_t flip = t == DTYPE_Q8_0 ? 0x80808080 : 0; /* signed to biased; Q4_0 is biased already */
    for (int32_t g = 0; g < groups; g++, block += dtype_bytes(t)) {
        memcpy(scales + ((size_t)g * PANEL + (size_t)lane) * 2, block, 2);
        for (int32_t i = 0; i < panel_lines(t); i++, quants += LINE) {
            uint32_t four;
            memcpy(&four, block + 2 + 4 * i, 4);
            four ^= flip;
            memcpy(quants + 4 * lane, &four, 4);
        }
    }
}

void panels_pack(enum dtype t, const void *rows, int32_t n, int32_t k, void *panels) {
    const int32_t groups = k / GROUP;
    const size_t row = dtype_row_bytes(t, (size_t)k), bytes = panel_bytes(t, groups);
    memset(panels, 0, panels_bytes(t, n, k));
    for (int32_t o = 0; o < n; o++)
        pack_lane(t, (const char *)rows + (size_t)o * row, groups,
                  (char *)panels + (size_t)(o / PANEL) * bytes, o % PANEL);
}
