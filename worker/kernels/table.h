/* worker/kernels/table.h: the kernels themselves, as tables of functions. Inside this folder only.
 *
 * Two tables: one of row kernels (norm, rotary, SwiGLU, attention) and, per weight format, one of
 * matrix kernels. Each is ordered from weak to strong and starts with the plain C reference. Of the
 * entries that this CPU can run, and that caloris_kernels_force allows, the last one is used. How
 * to add one: docs/KERNELS.md.
 */
#ifndef CALORIS_KERNELS_TABLE_H
#define CALORIS_KERNELS_TABLE_H

#include "worker/kernels/kernels.h"

/* What an entry asks of the CPU: bits. */
enum {
    CALORIS_CPU_AVX2 = 1 << 0,   /* with FMA */
    CALORIS_CPU_AVX512 = 1 << 1, /* F, BW, DQ, VL */
    CALORIS_CPU_AVX_VNNI = 1 << 2,
    CALORIS_CPU_AVX512_VNNI = 1 << 3,
    CALORIS_CPU_AVX512_BF16 = 1 << 4,
    CALORIS_CPU_AMX_INT8 = 1 << 5, /* and the system lets us use tiles */
    CALORIS_CPU_AMX_BF16 = 1 << 6,
};

/* Rungs of caloris_kernels_force, weakest first. */
enum caloris_isa {
    CALORIS_ISA_REF,
    CALORIS_ISA_PORTABLE, /* no more than the compiler may assume anyway */
    CALORIS_ISA_AVX2,
    CALORIS_ISA_AVX_VNNI,
    CALORIS_ISA_AVX512,
    CALORIS_ISA_AVX512_VNNI,
    CALORIS_ISA_AVX512_BF16,
    CALORIS_ISA_AMX,
    CALORIS_ISAS
};

/* A tile of y = x * matrixᵀ (+ y): rows of x, outputs [out_first, out_first + out_count), at y +
 * out_first. All but FP32 read the rows as they were packed, and out_first is that of a panel. */
struct caloris_gemm_tile {
    const struct caloris_matrix *matrix;
    const float *x;
    float *y;
    size_t x_stride, y_stride;
    size_t rows, out_first, out_count;
    float beta;
    const unsigned char *packed;                /* the first of row_blocks blocks of rows */
    size_t row_blocks, block_first, all_blocks; /* which of those that all_rows were dealt into */
    size_t all_rows;
    const float *row_scale; /* [rows] */
    void *sums;             /* [SUM_ROWS, TILE_PANELS * PANEL_OUTS] 4-byte numbers of this thread */
    unsigned char *opened;  /* INT4: SLICE_GROUPS groups, as they are multiplied */
};

/* One row at a time (attention: some query rows of one head). What a row becomes never depends on
 * other rows, and the vector entries of all but attend give the same bits: they add in the same
 * order and fuse no multiply-add. */
struct caloris_row_kernels {
    enum caloris_isa isa;
    unsigned needs;
    /* y = w ⊙ x / sqrt(mean(x²) + eps), all [n] */
    void (*rmsnorm)(const float *x, const float *w, float eps, size_t n, float *y);
    /* Pairs (x[j], x[half + j]) of `heads` heads, head_dim apart, by the angles of cos_sin [2
     * half]. */
    void (*rope)(float *x, size_t heads, size_t head_dim, size_t half, const float *cos_sin);
    /* y[i] = silu(gate[i]) * up[i], i < n */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
    void (*add)(float *x, const float *y, size_t n);
    /* See kernels.h. */
    void (*round_row)(const float *from, size_t n, uint16_t *to);
    size_t (*argmax)(const float *x, size_t n);
    void (*exp_sums)(const float *x, size_t n, float max, double *sum, double *moment);
    void (*guide)(float *x, const float *unconditional, float guidance, size_t n);
    /* Query rows [first, first + n) of one head, n <= CALORIS_QUERY_TILE. scratch:
     * caloris_attention_scratch floats. */
    void (*attend)(const struct caloris_attention *canvas, size_t head, size_t first, size_t n,
                   float *scratch);
    /* The product for a few rows of x, over an fp32 matrix. */
    void (*few)(const struct caloris_gemm_tile *tile);
};

enum { CALORIS_QUERY_TILE = 64, CALORIS_KEY_TILE = 64, CALORIS_ATTEND_DIM_UNIT = 16 };
/* head_dim rounded up to the unit. */
size_t caloris_attend_dim(size_t head_dim);

struct caloris_matrix_kernels {
    enum caloris_isa isa;
    unsigned needs;
    const char *name;
    void (*gemm)(const struct caloris_gemm_tile *tile);
    size_t block_rows; /* 0: rows are read as they are; else they are packed in such blocks */
    size_t row_groups; /* of a row that stand together in its block; 0: one */
    /* n numbers of a row as the format has them, up to a whole block of groups, stride bytes from
     * one row_groups to the next; *scale: what a product with them is multiplied by. */
    void (*pack)(const float *x, size_t n, unsigned char *to, size_t stride, float *scale);
};

extern const struct caloris_row_kernels caloris_rows_ref, caloris_rows_portable;
#if defined(__x86_64__)
extern const struct caloris_row_kernels caloris_rows_avx2, caloris_rows_avx512,
    caloris_rows_avx512_bf16;
#endif

void caloris_gemm_f32_ref(const struct caloris_gemm_tile *tile);
void caloris_gemm_f32_blas(const struct caloris_gemm_tile *tile);
extern const struct caloris_matrix_kernels caloris_bf16_ref, caloris_int8_ref;
#if defined(__x86_64__)
extern const struct caloris_matrix_kernels caloris_bf16_avx2, caloris_bf16_avx512,
    caloris_bf16_avx512_bf16, caloris_bf16_amx, caloris_int8_avx2, caloris_int8_avx_vnni,
    caloris_int8_avx512, caloris_int8_avx512_vnni, caloris_int8_amx, caloris_int4_avx2;
#endif

/* gemm_panels.c: a whole product whose rows are packed first: those of `whole`, or, unless it is
 * NULL, made. scratch as in kernels.h. */
void caloris_gemm_panels(struct caloris_pool *pool, const struct caloris_matrix_kernels *kernels,
                         const struct caloris_gemm_tile *whole,
                         const struct caloris_made_rows *made, void *scratch);

/* rows.c: one row of them, n numbers. */
void caloris_make_row(const struct caloris_made_rows *made, size_t row, size_t n, float *to);

/* The entries in use. */
const struct caloris_row_kernels *caloris_rows(void);
const struct caloris_matrix_kernels *caloris_matrix_kernels(enum caloris_format format);

/* cpu.c: CPU bits of this machine. */
unsigned caloris_cpu(void);

/* blas.c: reads OpenBLAS's name and core, and sets it to one thread per call. */
void caloris_blas_init(void);

#endif
