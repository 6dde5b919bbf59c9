/* One well-formed character at a time (Unicode 15 section 3.9, table 3-7). */
#ifndef OUTRIDER_UTF8_H
#define OUTRIDER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Looks at the start of s[0..n), n > 0. Positive: the length of the well-formed character there. 0: it could
 * become one with more bytes. Negative: minus the length of the maximal ill-formed part. */
int utf8_check(const unsigned char *s, size_t n);

/* The code point of a well-formed character of `length` bytes. */
uint32_t utf8_code_point(const unsigned char *s, int length);

/* White space as str.strip() of the chat templates' language takes it away. */
bool utf8_is_space(uint32_t c);

#endif
