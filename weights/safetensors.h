/* Reader of one safetensors file: an 8-byte length, a JSON header, then the tensors' bytes end to end. */
#ifndef OUTRIDER_SAFETENSORS_H
#define OUTRIDER_SAFETENSORS_H

#include "weights/map.h"
#include "weights/weights.h"

struct tensor_list {
    struct tensor *at; /* names owned */
    size_t n, capacity;
};
outrider_status tensor_list_push(struct tensor_list *list, const struct tensor *tensor); /* copies the name */
void tensor_list_free(struct tensor_list *list);                                         /* zeroed is fine */
int tensor_by_name(const void *a, const void *b);                                        /* for qsort */
/* In a list that is sorted by name; NULL when absent. */
const struct tensor *tensor_list_find(const struct tensor_list *list, const char *name);

/* Appends every tensor of the file to `list`; they point into the mapping and its path. The promises checked
 * are those of weights_open. After a failure the list may hold a part of them, and is good only to free. */
outrider_status safetensors_read(const struct mapping *file, struct tensor_list *list);

#endif
