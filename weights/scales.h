/* Scales of 8-bit floats. Inside weights/. */
#ifndef OUTRIDER_SCALES_H
#define OUTRIDER_SCALES_H

#include "weights/safetensors.h"

/* Gives each matrix of E4M3 in a list sorted by name its scales, and takes them out of the list, those of
 * activations and of a cache too: neither is rounded to e4m3 here. Shapes are checked: one scale, one for
 * each row, or one for each block of 128 by 128. OUTRIDER_EMODEL names the tensor. */
outrider_status scales_attach(struct tensor_list *list);

#endif
