/* Parts of strings that know their origin, for jinja*.c. */
#ifndef OUTRIDER_JINJA_TEXT_H
#define OUTRIDER_JINJA_TEXT_H

#include "tokenizer/jinja_internal.h"

struct str str_part(struct str s, size_t begin, size_t end);
size_t str_character(struct str s, size_t at); /* bytes of the character there */
size_t str_length(struct str s);               /* in characters */

#endif
