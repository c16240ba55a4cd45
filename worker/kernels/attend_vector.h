/* worker/kernels/attend_vector.h: attention for one instruction set. Included by rows_vector.h.
 *
 * Online softmax (Milakov, Gimelshein, arXiv 1805.02867) over tiles of keys, as in FlashAttention
 * (arXiv 2205.14135). For each tile: S = q kᵀ / √d; m' = max(m, rowmax S); P = exp(S - m'); l' = l
 * exp(m - m') + Σ P; o' = o exp(m - m') + P v; and at the end o / l. Every number of a query row
 * comes from that row and the keys alone, always in the same order, so its bits do not depend on
 * its place in the tile or on its neighbours.
 *
 * Both products go over words of 32 bits: a number, or where K and V are BF16 a pair of bf16
 * numbers, the first one in the low half. Then q and P are rounded to bf16, too; sums stay fp32.
 */
#ifndef CALORIS_KERNELS_ATTEND_VECTOR_H
#define CALORIS_KERNELS_ATTEND_VECTOR_H

#include "worker/kernels/table.h"
#include "worker/kernels/vector.h"

#include <math.h>
#include <stdbool.h>

enum {
    BLOCK_ROWS = 4, /* register block: BLOCK_ROWS x BLOCK_VECS accumulators */
    BLOCK_VECS = LANES == 16 ? 4 : 2,
    WORD = sizeof(float),
    LINE = 64, /* bytes that memory gives at a time */
};

struct attend_tile {
    bool pairs;    /* words are pairs of bf16 */
    size_t words;  /* of a query or a key */
    size_t dim;    /* head_dim rounded up to ATTEND_DIM_UNIT */
    float *query;  /* pairs: [QUERY_TILE, dim / 2] */
    float *keys;   /* [words, KEY_TILE]: the keys of the tile, transposed: lanes are keys */
    float *values; /* [KEY_TILE, dim], or of pairs of keys [KEY_TILE / 2, dim]; zero behind them */
    float *scores; /* [QUERY_TILE, KEY_TILE]: S, then P at the front of each row */
    float *sums;   /* [QUERY_TILE, dim]: o */
    float *peak;   /* [QUERY_TILE]: m */
    float *mass;   /* [QUERY_TILE]: l */
    float *fade;   /* [QUERY_TILE]: exp(m - m') */
};

static struct attend_tile lay_out(size_t head_dim, bool pairs, float *scratch)
{
    struct attend_tile t = {.pairs = pairs, .words = pairs ? (head_dim + 1) / 2 : head_dim};
    t.dim = caloris_attend_dim(head_dim);
    t.query = scratch;
    t.keys = t.query + t.dim / 2 * CALORIS_QUERY_TILE;
    t.values = t.keys + t.dim * CALORIS_KEY_TILE;
    t.scores = t.values + t.dim * CALORIS_KEY_TILE;
    t.sums = t.scores + CALORIS_QUERY_TILE * CALORIS_KEY_TILE;
    t.peak = t.sums + t.dim * CALORIS_QUERY_TILE;
    t.mass = t.peak + CALORIS_QUERY_TILE;
    t.fade = t.mass + CALORIS_QUERY_TILE;
    return t;
}

/* ---- products -------------------------------------------------------------------------------- */

/* c[r][j] = c[r][j] * keep[r] + Σ_k a[r][k] b[k][j] over words a, b for rows x (vecs * LANES)
 * numbers of c, held in registers: pairs, rows and vecs are constants at each call. keep NULL: c is
 * not read. */
static inline __attribute__((always_inline)) void
block(bool pairs, size_t rows, size_t vecs, const float *a, size_t a_stride, const float *b,
      size_t b_stride, size_t depth, const float *keep, float *c, size_t c_stride)
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
            const vec left = vec_all_bits(a + r * a_stride + k);
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] = pairs ? vec_dot_pairs(left, right[v], sum[r][v])
                                  : vec_fma(left, right[v], sum[r][v]);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t v = 0; v < vecs; v++)
            vec_store(c + r * c_stride + v * LANES, sum[r][v]);
    }
}

/* The same for n x width numbers, width a multiple of LANES. */
static inline __attribute__((always_inline)) void
multiply(bool pairs, size_t n, size_t width, const float *a, size_t a_stride, const float *b,
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
                block(pairs, BLOCK_ROWS, BLOCK_VECS, left, a_stride, b + j, b_stride, depth, kept,
                      to, c_stride);
            else if (rows > 1)
                block(pairs, BLOCK_ROWS, 1, left, a_stride, b + j, b_stride, depth, kept, to,
                      c_stride);
            else if (vecs > 1)
                block(pairs, 1, BLOCK_VECS, left, a_stride, b + j, b_stride, depth, kept, to,
                      c_stride);
            else
                block(pairs, 1, 1, left, a_stride, b + j, b_stride, depth, kept, to, c_stride);
            r += rows;
        }
        j += vecs * LANES;
    }
}

static void multiply_words(bool pairs, size_t n, size_t width, const float *a, size_t a_stride,
                           const float *b, size_t b_stride, size_t depth, const float *keep,
                           float *c, size_t c_stride)
{
    if (pairs)
        multiply(true, n, width, a, a_stride, b, b_stride, depth, keep, c, c_stride);
    else
        multiply(false, n, width, a, a_stride, b, b_stride, depth, keep, c, c_stride);
}

/* ---- into the tile --------------------------------------------------------------------------- */

/* LANES keys x LANES words from memory into the tile. */
static inline void turn_block(const unsigned char *from, size_t stride, float *to)
{
    vec x[LANES];
    for (size_t i = 0; i < LANES; i++)
        memcpy(&x[i], from + i * stride, sizeof(x[i]));
    vec_transpose(x);
    for (size_t i = 0; i < LANES; i++)
        vec_store(to + i * CALORIS_KEY_TILE, x[i]);
}

/* Of a block that ends early: so many bytes of so many keys. */
static void turn_edge(const unsigned char *from, size_t stride, size_t bytes, size_t keys,
                      float *to)
{
    vec x[LANES];
    for (size_t i = 0; i < LANES; i++) {
        x[i] = vec_all(0);
        if (i < keys)
            memcpy(&x[i], from + i * stride, bytes);
    }
    vec_transpose(x);
    for (size_t i = 0; i * WORD < bytes; i++)
        vec_store(to + i * CALORIS_KEY_TILE, x[i]);
}

/* Keys [n, stride bytes] of `bytes` bytes each, transposed word by word; lanes behind the n-th hold
 * anything. */
static void load_keys(const struct attend_tile *t, const unsigned char *k, size_t stride,
                      size_t bytes, size_t n)
{
    for (size_t j = 0; j < n; j += LANES) {
        const size_t lanes = n - j < LANES ? n - j : LANES;
        for (size_t w = 0; w < t->words; w += LANES) {
            const size_t left = bytes - w * WORD;
            const unsigned char *from = k + j * stride + w * WORD;
            float *to = t->keys + w * CALORIS_KEY_TILE + j;
            if (lanes == LANES && left >= sizeof(vec))
                turn_block(from, stride, to);
            else
                turn_edge(from, stride, left < sizeof(vec) ? left : sizeof(vec), lanes, to);
        }
    }
}

static void load_values(const struct attend_tile *t, const float *v, size_t stride, size_t head_dim,
                        size_t n)
{
    for (size_t j = 0; j < n; j++) {
        memcpy(t->values + j * t->dim, v + j * stride, head_dim * sizeof(float));
        memset(t->values + j * t->dim + head_dim, 0, (t->dim - head_dim) * sizeof(float));
    }
}

/* LANES pairs: the numbers at `even` in the low halves, those at `odd` in the high ones. */
static inline vec pair_up(const uint16_t *even, const uint16_t *odd)
{
    vec_half low, high;
    memcpy(&low, even, sizeof(low));
    memcpy(&high, odd, sizeof(high));
    return (vec)(__builtin_convertvector(low, vec_bits) | __builtin_convertvector(high, vec_bits)
                                                              << 16);
}

/* Word d of row i: number d of value 2 i, and of the next one. */
static void load_value_pairs(const struct attend_tile *t, const uint16_t *v, size_t stride,
                             size_t head_dim, size_t n)
{
    static const uint16_t none[LANES];
    const size_t whole = head_dim / LANES * LANES;
    for (size_t j = 0; j < n; j += 2) {
        const uint16_t *even = v + j * stride, *odd = even + stride;
        const bool alone = j + 1 == n;
        float *to = t->values + j / 2 * t->dim;
        for (size_t d = 0; d < whole; d += LANES)
            vec_store(to + d, pair_up(even + d, alone ? none : odd + d));
        uint16_t rest[2][CALORIS_ATTEND_DIM_UNIT] = {{0}, {0}};
        memcpy(rest[0], even + whole, (head_dim - whole) * sizeof(*even));
        if (!alone)
            memcpy(rest[1], odd + whole, (head_dim - whole) * sizeof(*odd));
        for (size_t d = whole; d < t->dim; d += LANES)
            vec_store(to + d, pair_up(rest[0] + (d - whole), rest[1] + (d - whole)));
    }
}

static void round_row(const float *x, size_t n, uint16_t *to)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_half half = __builtin_convertvector(vec_round_bf16(vec_load(x + i)), vec_half);
        memcpy(to + i, &half, sizeof(half));
    }
    if (i == n)
        return;
    float rest[LANES] = {0};
    memcpy(rest, x + i, (n - i) * sizeof(*x));
    vec_half half = __builtin_convertvector(vec_round_bf16(vec_load(rest)), vec_half);
    memcpy(to + i, &half, (n - i) * sizeof(*to));
}

static void load_query(const struct attend_tile *t, const float *q, size_t stride, size_t head_dim,
                       size_t n)
{
    for (size_t r = 0; r < n; r++) {
        char *to = (char *)(t->query + r * (t->dim / 2));
        memset(to + (t->words - 1) * WORD, 0, WORD); /* the last pair may be half a one */
        round_row(q + r * stride, head_dim, (uint16_t *)to);
    }
}

/* The first of so many rows that the next tile will load. */
static void ask_for(const char *rows, size_t stride, size_t bytes, size_t n)
{
    for (size_t r = 0; r < n && r < CALORIS_KEY_TILE; r++) {
        for (size_t at = 0; at < bytes; at += LINE)
            __builtin_prefetch(rows + r * stride + at);
    }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* exp2(s * scale - base) over one row of S becomes its P; returns lane by lane the sums of P. */
static vec weigh(const struct attend_tile *t, float *s, size_t width, float scale, float base)
{
    char *pairs = (char *)s; /* of P: written behind what is still to be read */
    vec sum = vec_all(0);
    for (size_t j = 0; j < width; j += LANES) {
        vec p = vec_exp2(vec_fma(vec_load(s + j), vec_all(scale), vec_all(-base)));
        if (t->pairs) {
            const vec_half half = vec_to_bf16(p);
            memcpy(pairs + j * sizeof(uint16_t), &half, sizeof(half));
            p = (vec)(__builtin_convertvector(half, vec_bits) << 16);
        } else {
            vec_store(s + j, p);
        }
        sum += p;
    }
    return sum;
}

/* Up to LANES rows of S from `first` on (keys of each are real) become P; m, l and the fading
 * factor move on. m stands for S without its scale; here it comes with that of base 2. */
static void soften(const struct attend_tile *t, size_t first, size_t rows, size_t keys, float scale)
{
    const size_t width = (keys + LANES - 1) / LANES * LANES;
    float *s = t->scores + first * CALORIS_KEY_TILE, bases[LANES];
    vec lanes[LANES];
    for (size_t r = 0; r < LANES; r++) {
        float *row = s + r * CALORIS_KEY_TILE;
        lanes[r] = vec_all(-INFINITY);
        for (size_t j = keys; r < rows && j < width; j++)
            row[j] = -INFINITY;
        for (size_t j = 0; r < rows && j < width; j += LANES)
            lanes[r] = vec_max(vec_load(row + j), lanes[r]);
    }
    vec_transpose(lanes);
    const vec old = vec_load(t->peak + first);
    vec peak = old;
    for (size_t i = 0; i < LANES; i++)
        peak = vec_max(lanes[i], peak);
    /* While every score is -infinity, any finite number will do in place of the peak. */
    const vec base = vec_select(peak == -INFINITY, vec_all(0), peak * scale);
    vec_store(bases, base);
    for (size_t r = 0; r < LANES; r++)
        lanes[r] =
            r < rows ? weigh(t, s + r * CALORIS_KEY_TILE, width, scale, bases[r]) : vec_all(0);
    vec_transpose(lanes);
    vec mass = lanes[0];
    for (size_t i = 1; i < LANES; i++)
        mass += lanes[i];
    const vec fade = vec_exp2(old * scale - base);
    vec_store(t->peak + first, peak);
    vec_store(t->fade + first, fade);
    vec_store(t->mass + first, vec_load(t->mass + first) * fade + mass);
}

static void attend(const struct caloris_attention *canvas, size_t head, size_t first, size_t n,
                   float *scratch)
{
    const size_t head_dim = canvas->head_dim, stride = canvas->kv_stride;
    const size_t kv = canvas->kv_of[head] * canvas->kv_head_stride;
    const bool pairs = canvas->kv_dtype == CALORIS_DTYPE_BF16;
    const size_t bytes = caloris_dtype_bytes(canvas->kv_dtype);
    const struct attend_tile t = lay_out(head_dim, pairs, scratch);
    const float *q = canvas->q + first * canvas->q_stride + head * head_dim;
    const float scale = (float)(log2(exp(1)) / sqrt((double)head_dim));
    if (pairs)
        load_query(&t, q, canvas->q_stride, head_dim, n);
    memset(t.sums, 0, n * t.dim * sizeof(float));
    for (size_t r = 0; r < CALORIS_QUERY_TILE; r++) {
        t.peak[r] = -INFINITY;
        t.mass[r] = 0;
    }
    for (size_t done = 0; done < canvas->kv_rows; done += CALORIS_KEY_TILE) {
        const size_t left = canvas->kv_rows - done, at = done * stride + kv;
        const size_t keys = left < CALORIS_KEY_TILE ? left : CALORIS_KEY_TILE;
        const size_t width = (keys + LANES - 1) / LANES * LANES;
        load_keys(&t, (const unsigned char *)canvas->k + at * bytes, stride * bytes,
                  head_dim * bytes, keys);
        if (pairs)
            load_value_pairs(&t, (const uint16_t *)canvas->v + at, stride, head_dim, keys);
        else
            load_values(&t, (const float *)canvas->v + at, stride, head_dim, keys);
        ask_for((const char *)canvas->k + (at + keys * stride) * bytes, stride * bytes,
                head_dim * bytes, left - keys);
        ask_for((const char *)canvas->v + (at + keys * stride) * bytes, stride * bytes,
                head_dim * bytes, left - keys);
        multiply_words(pairs, n, width, pairs ? t.query : q, pairs ? t.dim / 2 : canvas->q_stride,
                       t.keys, CALORIS_KEY_TILE, t.words, NULL, t.scores, CALORIS_KEY_TILE);
        for (size_t r = 0; r < n; r += LANES)
            soften(&t, r, n - r < LANES ? n - r : LANES, keys, scale);
        multiply_words(pairs, n, t.dim, t.scores, CALORIS_KEY_TILE, t.values, t.dim,
                       pairs ? (keys + 1) / 2 : keys, t.fade, t.sums, t.dim);
    }
    for (size_t r = 0; r < n; r++) {
        float *out = canvas->out + (first + r) * canvas->out_stride + head * head_dim;
        for (size_t d = 0; d < head_dim; d++)
            out[d] = t.sums[r * t.dim + d] / t.mass[r];
    }
}

#endif
