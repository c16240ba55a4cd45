/* worker/kernels/attend_vector.h: attention for one instruction set. Included by rows_vector.h.
 *
 * Online softmax (Milakov, Gimelshein, arXiv 1805.02867) over tiles of keys, as in FlashAttention
 * (arXiv 2205.14135). For each tile: S = q kᵀ / √d; m' = max(m, rowmax S); P = exp(S - m'); l' = l
 * exp(m - m') + Σ P; o' = o exp(m - m') + P v; and at the end o / l. Every number of a query row
 * comes from that row and the keys alone, always in the same order, so its bits do not depend on
 * its place in the tile or on its neighbours.
 */
#ifndef CALORIS_KERNELS_ATTEND_VECTOR_H
#define CALORIS_KERNELS_ATTEND_VECTOR_H

#include "worker/kernels/table.h"
#include "worker/kernels/vector.h"

#include <math.h>

enum {
    BLOCK_ROWS = 4, /* register block: BLOCK_ROWS x BLOCK_VECS accumulators */
    BLOCK_VECS = LANES == 16 ? 4 : 2,
};

struct attend_tile {
    size_t dim;    /* head_dim rounded up to ATTEND_DIM_UNIT */
    float *keys;   /* [head_dim, KEY_TILE]: the keys of the tile, transposed: lanes are keys */
    float *values; /* [KEY_TILE, dim], zero behind head_dim */
    float *scores; /* [QUERY_TILE, KEY_TILE]: S, then P */
    float *sums;   /* [QUERY_TILE, dim]: o */
    float *peak;   /* [QUERY_TILE]: m */
    float *mass;   /* [QUERY_TILE]: l */
    float *fade;   /* [QUERY_TILE]: exp(m - m') */
};

static struct attend_tile lay_out(size_t head_dim, float *scratch)
{
    struct attend_tile t;
    t.dim = caloris_attend_dim(head_dim);
    t.keys = scratch;
    t.values = t.keys + t.dim * CALORIS_KEY_TILE;
    t.scores = t.values + t.dim * CALORIS_KEY_TILE;
    t.sums = t.scores + CALORIS_QUERY_TILE * CALORIS_KEY_TILE;
    t.peak = t.sums + t.dim * CALORIS_QUERY_TILE;
    t.mass = t.peak + CALORIS_QUERY_TILE;
    t.fade = t.mass + CALORIS_QUERY_TILE;
    return t;
}

/* c[r][j] = c[r][j] * keep[r] + Σ_k a[r][k] b[k][j] for rows x (vecs * LANES) numbers of c, held in
 * registers: rows and vecs are constants at each call. keep NULL: c is not read. */
static inline __attribute__((always_inline)) void
block(size_t rows, size_t vecs, const float *a, size_t a_stride, const float *b, size_t b_stride,
      size_t depth, const float *keep, float *c, size_t c_stride)
{
    vec sum[BLOCK_ROWS][BLOCK_VECS];
    for (size_t r = 0; r < rows; r++) {
        for (size_t v = 0; v < vecs; v++)
            sum[r][v] = keep ? vec_load(c + r * c_stride + v * LANES) * keep[r] : vec_all(0);
    }
    for (size_t k = 0; k < depth; k++) {
        vec right[BLOCK_VECS];
        for (size_t v = 0; v < vecs; v++)
            right[v] = vec_load(b + k * b_stride + v * LANES);
        for (size_t r = 0; r < rows; r++) {
            vec left = vec_all(a[r * a_stride + k]);
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] = vec_fma(left, right[v], sum[r][v]);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t v = 0; v < vecs; v++)
            vec_store(c + r * c_stride + v * LANES, sum[r][v]);
    }
}

/* The same for n x width numbers, width a multiple of LANES. */
static void multiply(size_t n, size_t width, const float *a, size_t a_stride, const float *b,
                     size_t b_stride, size_t depth, const float *keep, float *c, size_t c_stride)
{
    for (size_t j = 0; j < width;) {
        size_t vecs = width - j >= BLOCK_VECS * LANES ? BLOCK_VECS : 1;
        for (size_t r = 0; r < n;) {
            size_t rows = n - r >= BLOCK_ROWS ? BLOCK_ROWS : 1;
            const float *left = a + r * a_stride;
            const float *kept = keep ? keep + r : NULL;
            float *to = c + r * c_stride + j;
            if (rows > 1 && vecs > 1)
                block(BLOCK_ROWS, BLOCK_VECS, left, a_stride, b + j, b_stride, depth, kept, to,
                      c_stride);
            else if (rows > 1)
                block(BLOCK_ROWS, 1, left, a_stride, b + j, b_stride, depth, kept, to, c_stride);
            else if (vecs > 1)
                block(1, BLOCK_VECS, left, a_stride, b + j, b_stride, depth, kept, to, c_stride);
            else
                block(1, 1, left, a_stride, b + j, b_stride, depth, kept, to, c_stride);
            r += rows;
        }
        j += vecs * LANES;
    }
}

/* keys [first, first + n) of a head into the tile. */
static void load_tile(const struct attend_tile *t, const float *k, const float *v, size_t stride,
                      size_t head_dim, size_t n)
{
    for (size_t j = 0; j < CALORIS_KEY_TILE; j++) {
        const float *key = k + j * stride;
        for (size_t d = 0; d < head_dim; d++)
            t->keys[d * CALORIS_KEY_TILE + j] = j < n ? key[d] : 0;
    }
    for (size_t j = 0; j < n; j++) {
        memcpy(t->values + j * t->dim, v + j * stride, head_dim * sizeof(float));
        memset(t->values + j * t->dim + head_dim, 0, (t->dim - head_dim) * sizeof(float));
    }
}

/* One row of S (n keys are real) becomes P; m, l and the fading factor move on. */
static void soften(const struct attend_tile *t, size_t row, size_t n, float scale)
{
    float *s = t->scores + row * CALORIS_KEY_TILE;
    float lanes[LANES];
    vec top = vec_all(-INFINITY);
    for (size_t j = n; j < CALORIS_KEY_TILE; j++)
        s[j] = -INFINITY;
    for (size_t j = 0; j < CALORIS_KEY_TILE; j += LANES) {
        vec score = vec_load(s + j) * scale;
        vec_store(s + j, score);
        top = vec_select(score > top, score, top);
    }
    vec_store(lanes, top);
    float peak = t->peak[row];
    for (size_t j = 0; j < LANES; j++)
        peak = lanes[j] > peak ? lanes[j] : peak;
    /* While every score is -infinity, any finite number will do in place of the peak. */
    float base = peak == -INFINITY ? 0 : peak;
    vec sum = vec_all(0);
    for (size_t j = 0; j < CALORIS_KEY_TILE; j += LANES) {
        vec p = vec_exp(vec_load(s + j) - base);
        vec_store(s + j, p);
        sum += p;
    }
    vec_store(lanes, sum);
    float mass = 0;
    for (size_t j = 0; j < LANES; j++)
        mass += lanes[j];
    vec_store(lanes, vec_exp(vec_all(t->peak[row] - base)));
    t->fade[row] = lanes[0];
    t->mass[row] = t->mass[row] * t->fade[row] + mass;
    t->peak[row] = peak;
}

static void attend(const struct caloris_attention *canvas, size_t head, size_t first, size_t n,
                   float *scratch)
{
    size_t head_dim = canvas->head_dim;
    struct attend_tile t = lay_out(head_dim, scratch);
    const float *q = canvas->q + first * canvas->q_stride + head * head_dim;
    const float *k = canvas->k + canvas->kv_of[head] * head_dim;
    const float *v = canvas->v + canvas->kv_of[head] * head_dim;
    float scale = (float)(1 / sqrt((double)head_dim));
    memset(t.sums, 0, n * t.dim * sizeof(float));
    for (size_t r = 0; r < n; r++) {
        t.peak[r] = -INFINITY;
        t.mass[r] = 0;
    }
    for (size_t done = 0; done < canvas->kv_rows; done += CALORIS_KEY_TILE) {
        size_t keys =
            canvas->kv_rows - done < CALORIS_KEY_TILE ? canvas->kv_rows - done : CALORIS_KEY_TILE;
        size_t at = done * canvas->kv_stride;
        load_tile(&t, k + at, v + at, canvas->kv_stride, head_dim, keys);
        multiply(n, CALORIS_KEY_TILE, q, canvas->q_stride, t.keys, CALORIS_KEY_TILE, head_dim, NULL,
                 t.scores, CALORIS_KEY_TILE);
        for (size_t r = 0; r < n; r++)
            soften(&t, r, keys, scale);
        multiply(n, t.dim, t.scores, CALORIS_KEY_TILE, t.values, t.dim, keys, t.fade, t.sums,
                 t.dim);
    }
    for (size_t r = 0; r < n; r++) {
        float *out = canvas->out + (first + r) * canvas->out_stride + head * head_dim;
        for (size_t d = 0; d < head_dim; d++)
            out[d] = t.sums[r * t.dim + d] / t.mass[r];
    }
}

#endif
