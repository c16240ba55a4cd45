#include "base/arena.h"

#include "base/err.h"
#include "base/size.h"

#include <sys/mman.h>

void *caloris_arena_take(struct caloris_arena *arena, size_t count, size_t element)
{
    size_t bytes, next;
    if (!caloris_size_mul(count, element, &bytes) ||
        !caloris_size_add(arena->used, caloris_size_round_up(bytes, CALORIS_ARENA_ALIGNMENT),
                          &next)) {
        arena->overflow = true;
        return NULL;
    }
    void *at = arena->base ? arena->base + arena->used : NULL;
    arena->used = next;
    return at;
}

int caloris_arena_check(const struct caloris_arena *arena, const char *what,
                        struct caloris_err *err)
{
    if (arena->overflow)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: more bytes than the address space has",
                               what);
    return 0;
}

void *caloris_arena_map(size_t bytes, const char *what, struct caloris_err *err)
{
    void *base =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        char text[CALORIS_SIZE_TEXT];
        caloris_err_sys(err, "%s: %s of memory", what, caloris_size_text(bytes, text));
        return NULL;
    }
    (void)madvise(base, bytes, MADV_HUGEPAGE); /* a wish: small pages do too */
    return base;
}

void caloris_arena_unmap(void *base, size_t bytes)
{
    if (base)
        munmap(base, bytes ? bytes : 1);
}
