/* worker/kernels/kernels.h: arithmetic on rows, behind one table per weight format.
 *
 * A matrix is a weight [out, in] of this rank's shard; activations are fp32 rows, row-major. The
 * table is filled with the plain C reference first, then with what the CPU offers. The only place
 * of cblas and of intrinsics. Nothing here allocates, except caloris_kernels_init. Docs:
 * docs/KERNELS.md.
 */
#ifndef CALORIS_KERNELS_H
#define CALORIS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;
struct caloris_pool;

/* How numbers stand in files. */
enum caloris_dtype { CALORIS_DTYPE_F32, CALORIS_DTYPE_BF16, CALORIS_DTYPE_F16 };
size_t caloris_dtype_bytes(enum caloris_dtype dtype);

/* n numbers at from (any alignment) into to. */
void caloris_convert_to_f32(enum caloris_dtype dtype, const void *from, float *to, size_t n);

/* Index of the first largest of x [n], n > 0; a NaN counts as larger than any number. */
size_t caloris_argmax(const float *x, size_t n);

/* *sum += Σ exp(x - max), *moment += Σ (x - max) exp(x - max): the sums of a softmax and of its
 * entropy. */
void caloris_exp_sums(const float *x, size_t n, float max, double *sum, double *moment);

/* x = u + (guidance + 1) (x - u): classifier-free guidance.  arXiv 2207.12598 */
void caloris_guide(float *x, const float *unconditional, float guidance, size_t n);

/* How weights stand in memory, and how products with them are computed.
 *   FP32: as they are.
 *   BF16: weights and activations rounded to bf16 (nearest even), products summed in fp32.
 *   INT8: weight = q * scale of its output channel, q in ±127; a row of activations likewise with
 *         one scale, its largest magnitude / 127 (below 2^-100: all zero; not finite: all NaN);
 *         int32 sums, the same in every instruction set.
 *   INT4: as INT8, with q = (u - zero) * step: u in 0..15, zero and step of 16 numbers of a row. */
enum caloris_format {
    CALORIS_FORMAT_FP32,
    CALORIS_FORMAT_BF16,
    CALORIS_FORMAT_INT8,
    CALORIS_FORMAT_INT4
};
enum { CALORIS_FORMATS = CALORIS_FORMAT_INT4 + 1 };
enum {
    CALORIS_INT8_DEPTH = 1 << 17, /* most columns of an INT8 or INT4 matrix: 127² of each fit an
                                     int32 */
    CALORIS_INT4_RUN = 16, /* a matrix of columns of another equals it where it begins on these */
};

/* "fp32", "bf16", "int8", "int4". */
const char *caloris_format_name(enum caloris_format format);
int caloris_format_parse(const char *name, enum caloris_format *format, struct caloris_err *err);

/* Whether its matrices have a scale for each output channel. */
bool caloris_format_scaled(enum caloris_format format);

struct caloris_matrix {
    enum caloris_format format;
    size_t out, in;
    void *data;   /* 64-byte aligned; FP32: [out, in] row-major; else panels (docs/KERNELS.md) */
    float *scale; /* INT8, INT4: [out], the caller's to fill before the weights; else NULL */
};

/* Bytes of a matrix in memory, scales included, a multiple of 64. SIZE_MAX when it does not fit. */
size_t caloris_matrix_bytes(enum caloris_format format, size_t out, size_t in);

/* Lays a matrix over memory of that many bytes, 64-byte aligned. */
void caloris_matrix_place(struct caloris_matrix *matrix, enum caloris_format format, size_t out,
                          size_t in, void *memory);

/* absmax[i] = the larger of itself and the largest magnitude in row i of n_rows * in numbers of a
 * file; NaN once a NaN was seen. Start from 0; the maximum over all parts of an output channel
 * gives its scale. */
void caloris_matrix_absmax(const void *from, enum caloris_dtype dtype, size_t n_rows, size_t in,
                           float *absmax);

/* The INT8 or INT4 scale of an output channel: absmax / 127, and 1 for a channel of zeros. */
float caloris_matrix_scale(float absmax);

/* Rows [out_first, out_first + n) of the matrix from n * in numbers of a file. INT8 and INT4: by
 * their scales, which are set by then. Rows may come in any order, each once; different threads may
 * fill different rows. A matrix is whole when its last row is filled too. */
void caloris_matrix_fill(struct caloris_matrix *matrix, size_t out_first, size_t n,
                         const void *from, enum caloris_dtype dtype);

/* Rows [first, first + n) as a matrix of its own over the same memory. first: a multiple of 16. */
struct caloris_matrix caloris_matrix_rows(const struct caloris_matrix *matrix, size_t first,
                                          size_t n);

/* Numbers of rows [first, first + n) as the matrix holds them, to [n, in]. */
void caloris_matrix_read(const struct caloris_matrix *matrix, size_t first, size_t n, float *to);

/* ---- units of matrices, as shard files hold them --------------------------------------------- */

/* A unit [out, in] of a matrix, scales apart. FP32: row-major; else panels, but for what depends on
 * the split: starts of sums and padding of the depth (docs/KERNELS.md). INT4: in begins on a run of
 * the matrix, and ends with one or with the matrix. Bytes, a multiple of 64; SIZE_MAX when they do
 * not fit. */
size_t caloris_unit_bytes(enum caloris_format format, size_t out, size_t in);

/* The unit whose first number is [out_first, in_first] of the matrix, to `to`. */
void caloris_unit_get(const struct caloris_matrix *matrix, size_t out_first, size_t in_first,
                      size_t out, size_t in, void *to);

/* n units [out, in], one behind the other, go to the matrix: the first to [out_first, in_first],
 * each other one out_step lower and in_step to the right (one of them is 0) of the one before it.
 * The matrix was all zero bytes, and each of its numbers comes once; different threads may put
 * different units. */
void caloris_unit_put(struct caloris_matrix *matrix, size_t out_first, size_t in_first,
                      size_t out_step, size_t in_step, size_t n, size_t out, size_t in,
                      const void *from);

/* CRC-32C of n bytes behind those that crc is of (of none: 0). The second one does without the
 * CPU's instruction for it. */
uint32_t caloris_crc32c(uint32_t crc, const void *bytes, size_t n);
uint32_t caloris_crc32c_plain(uint32_t crc, const void *bytes, size_t n);

/* Once per process before the others: picks the kernels, sets OpenBLAS to one thread per call. */
void caloris_kernels_init(void);

/* Rungs of instruction sets, weakest first: "ref" (plain C, no BLAS), "portable", "avx2",
 * "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"; NULL behind the last. *runs_here (may
 * be NULL): whether this CPU has it. */
const char *caloris_kernels_isa(size_t i, bool *runs_here);

/* From now on only kernels up to this rung, for tests and comparisons; not while kernels run. An
 * error when it is unknown or the CPU lacks it. caloris_kernels_init takes the strongest. */
int caloris_kernels_force(const char *isa, struct caloris_err *err);

/* The kernels in use for matrices of that format: "avx512-vnni"; FP32: "openblas" or "ref". */
const char *caloris_kernels_name(enum caloris_format format);

/* "OpenBLAS 0.3.21 SkylakeX", and NULL or a line that says why that core is below this CPU. */
const char *caloris_kernels_blas(void);
const char *caloris_kernels_blas_warning(void);

/* Bytes of scratch for caloris_gemm with matrices of that format and up to max_in columns, up to
 * max_rows rows at a time, on `threads` threads; 0 for FP32. SIZE_MAX when it does not fit. */
size_t caloris_gemm_scratch_bytes(enum caloris_format format, size_t max_rows, size_t max_in,
                                  int threads);

/* y [rows, y_stride] = x [rows, x_stride] * matrixᵀ (beta 0) or that added to y (beta 1). Columns
 * of y beyond out are left alone. scratch: 64-byte aligned, NULL for FP32. All but FP32: what a row
 * becomes does not depend on the other rows or their number, bit for bit. */
void caloris_gemm(struct caloris_pool *pool, const struct caloris_matrix *matrix, const float *x,
                  size_t x_stride, size_t rows, float *y, size_t y_stride, float beta,
                  void *scratch);

/* Rows that a product multiplies and nobody else wants: made one at a time and packed at once, so
 * that they pass through no memory. The same bits as the functions below make. */
struct caloris_made_rows {
    float *x;           /* RMSNorm: [rows, in]; SwiGLU: [rows, 2 in], gate and up */
    const float *added; /* RMSNorm: [rows, in] that is added to x first, and stays; or NULL */
    const float *norm;  /* RMSNorm: its weights [in]; NULL: SwiGLU */
    float eps;
};
/* y [rows, y_stride] = those rows times matrixᵀ; matrix: any format but FP32. */
void caloris_gemm_made(struct caloris_pool *pool, const struct caloris_matrix *matrix,
                       const struct caloris_made_rows *made, size_t rows, float *y, size_t y_stride,
                       void *scratch);

/* y[r] = w ⊙ x[r] / sqrt(mean(x[r]²) + eps); x, y [rows, n]; y may be x.
 * RMSNorm, arXiv 1910.07467 */
void caloris_rmsnorm(struct caloris_pool *pool, const float *x, const float *w, float eps,
                     size_t rows, size_t n, float *y);

/* Rotates the first `rotary` dims of each of n heads of x [rows, stride] by row r's position,
 * half-split pairs (j, j + rotary/2). table: caloris_rope_table's [positions, rotary] (cos then
 * sin).  RoPE, arXiv 2104.09864 */
void caloris_rope_table(double theta, size_t rotary, size_t positions, float *table);
void caloris_rope(struct caloris_pool *pool, float *x, size_t stride, size_t rows, size_t heads,
                  size_t head_dim, size_t rotary, const uint32_t *position, const float *table);

/* y[r][i] = silu(gate_up[r][i]) * gate_up[r][n + i]; gate_up [rows, 2 n], y [rows, n].  SwiGLU,
 * arXiv 2002.05202 */
void caloris_swiglu(struct caloris_pool *pool, const float *gate_up, size_t rows, size_t n,
                    float *y);

/* x += y, n numbers. */
void caloris_add(struct caloris_pool *pool, float *x, const float *y, size_t n);

/* n numbers rounded to bf16 (to nearest, ties to even; NaN stays NaN). to may be from. */
void caloris_round_row(const float *from, size_t n, uint16_t *to);

/* Full attention of one canvas: queries q [q_rows, q_stride] of `heads` heads against keys and
 * values of the KV heads that they share: query head h reads KV head kv_of[h], whose rows [kv_rows,
 * kv_stride] begin kv_head_stride behind those of the one before. out [q_rows, out_stride]; strides
 * in numbers. scale: 1/√head_dim. Keys and values are F32 or
 * BF16; with BF16 the queries and the weights of the softmax are rounded to bf16, too. Sums and
 * softmax in fp32; tiled, no score matrix in memory beyond scratch [threads,
 * caloris_attention_scratch(head_dim)] floats. */
size_t caloris_attention_scratch(size_t head_dim);
struct caloris_attention {
    const float *q;
    const void *k, *v; /* of kv_dtype */
    float *out;
    enum caloris_dtype kv_dtype;
    size_t q_rows, kv_rows;
    size_t q_stride, kv_stride, kv_head_stride, out_stride;
    size_t heads, head_dim;
    const uint32_t *kv_of; /* [heads] */
};
/* All canvases of a step at once, so that small ones share the pool. */
void caloris_attend(struct caloris_pool *pool, const struct caloris_attention *canvas,
                    size_t canvases, float *scratch);

#endif
