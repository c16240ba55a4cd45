/* Which positions a step computes: the caches. docs/DECODING.md, "Caches", defines each. */
#include "coordinator/denoise/denoise.h"
#include "coordinator/denoise/loop.h"

static bool is_masked(const struct caloris_denoise *denoise, size_t i)
{
    return denoise->canvas[i] == denoise->params.mask_id;
}

/* Revealed by the step before this one: the K/V kept of it is still that of a mask. */
static bool is_fresh(const struct caloris_denoise *denoise, size_t i)
{
    return denoise->marks[i].step > 0 && denoise->marks[i].step == denoise->step;
}

/* Masked when the block was entered: of the prompt's holes and what a quota left behind, what the
 * block may still reveal. */
static bool was_open(const struct caloris_denoise *denoise, size_t i)
{
    return is_masked(denoise, i) || denoise->marks[i].step > denoise->entered;
}

static bool all_rows(const struct caloris_denoise *denoise, size_t i)
{
    (void)denoise;
    (void)i;
    return true;
}

static bool rows_from_the_block_on(const struct caloris_denoise *denoise, size_t i)
{
    return i >= caloris_denoise_block_first(denoise) || was_open(denoise, i) ||
           (denoise->block_step == 0 && is_fresh(denoise, i));
}

static bool rows_of_the_block(const struct caloris_denoise *denoise, size_t i)
{
    return i < caloris_denoise_block_end(denoise) && rows_from_the_block_on(denoise, i);
}

static bool active_rows(const struct caloris_denoise *denoise, size_t i)
{
    return i < caloris_denoise_block_end(denoise) &&
           (is_masked(denoise, i) || is_fresh(denoise, i));
}

typedef bool (*in_window_fn)(const struct caloris_denoise *, size_t);

static const in_window_fn windows[] = {
    [CALORIS_CACHE_NONE] = all_rows,
    [CALORIS_CACHE_PREFIX] = rows_from_the_block_on,
    [CALORIS_CACHE_DUAL] = rows_of_the_block,
    [CALORIS_CACHE_ACTIVE] = active_rows,
};

bool caloris_denoise_is_full(const struct caloris_denoise *denoise)
{
    return denoise->params.cache == CALORIS_CACHE_NONE ||
           (denoise->block_step == 0 && denoise->block % denoise->params.refresh == 0);
}

static in_window_fn window_of(const struct caloris_denoise *denoise)
{
    return caloris_denoise_is_full(denoise) ? all_rows : windows[denoise->params.cache];
}

size_t caloris_denoise_count_rows(const struct caloris_denoise *denoise)
{
    const in_window_fn in_window = window_of(denoise);
    size_t rows = 0;
    if (in_window == all_rows)
        return denoise->length;
    for (size_t i = 0; i < denoise->length; i++)
        rows += in_window(denoise, i);
    return rows;
}

size_t caloris_denoise_rows(const struct caloris_denoise *denoise, struct caloris_range *ranges)
{
    const in_window_fn in_window = window_of(denoise);
    size_t n = 0;
    bool open = false;
    for (size_t i = 0; i < denoise->length; i++) {
        const bool computed = in_window(denoise, i);
        if (computed && open)
            ranges[n - 1].count++;
        else if (computed)
            ranges[n++] = (struct caloris_range){(uint32_t)i, 1};
        open = computed;
    }
    return n;
}
