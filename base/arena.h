/* base/arena.h: one piece of memory dealt out in parts. The same walk, run twice, first measures
 * and then places, so that what is planned is exactly what is used.
 */
#ifndef CALORIS_ARENA_H
#define CALORIS_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct caloris_err;

enum { CALORIS_ARENA_ALIGNMENT = 64 };

/* base NULL: only measures, every part is NULL. Start with {base, 0, false}. */
struct caloris_arena {
    char *base;
    size_t used;
    bool overflow; /* some product or sum did not fit a size_t */
};

/* The next part: count elements of that size, 64-byte aligned when base is. */
void *caloris_arena_take(struct caloris_arena *arena, size_t count, size_t element);

/* 0, or -1 and err when the walk overflowed; what names what was laid out. */
int caloris_arena_check(const struct caloris_arena *arena, const char *what,
                        struct caloris_err *err);

/* bytes of zeroed memory from the system, huge pages asked for; NULL and err (NO_MEMORY). Give back
 * with the same size. */
void *caloris_arena_map(size_t bytes, const char *what, struct caloris_err *err);
void caloris_arena_unmap(void *base, size_t bytes);

#endif
