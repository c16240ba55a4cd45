#include "tests/bench/peak.h"

#include "base/time.h"
#include "worker/pool/pool.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { ROUNDS = 1 << 18, CHAINS = 14 };

/* ROUNDS times CHAINS products, on so many registers that latency is hidden. */
#if defined(__x86_64__)
#define ONE(op, reg, n) op "%%" reg "14, %%" reg "15, %%" reg #n "\n\t"
#define ON_EACH(op, reg)                                                                           \
    ONE(op, reg, 0)                                                                                \
    ONE(op, reg, 1)                                                                                \
    ONE(op, reg, 2)                                                                                \
    ONE(op, reg, 3)                                                                                \
    ONE(op, reg, 4)                                                                                \
    ONE(op, reg, 5)                                                                                \
    ONE(op, reg, 6)                                                                                \
    ONE(op, reg, 7)                                                                                \
    ONE(op, reg, 8)                                                                                \
    ONE(op, reg, 9)                                                                                \
    ONE(op, reg, 10)                                                                               \
    ONE(op, reg, 11)                                                                               \
    ONE(op, reg, 12)                                                                               \
    ONE(op, reg, 13)
/* Products in AVX2 take several instructions; over ymm12 and 13, on 7 registers twice. */
#define TWICE_ON_EACH(products)                                                                    \
    products(0) products(1) products(2) products(3) products(4) products(5) products(6)            \
        products(0) products(1) products(2) products(3) products(4) products(5) products(6)
#define INT8_PRODUCTS(n)                                                                           \
    "vpmaddwd %%ymm14, %%ymm15, %%ymm12\n\t"                                                       \
    "vpaddd %%ymm12, %%ymm" #n ", %%ymm" #n "\n\t"
#define BYTE_PRODUCTS                                                                              \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n\t"                                                     \
    "vpaddw %%ymm13, %%ymm12, %%ymm12\n\t"
#define INT4_PRODUCTS(n)                                                                           \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm12\n\t" BYTE_PRODUCTS BYTE_PRODUCTS BYTE_PRODUCTS           \
    "vpmaddwd %%ymm14, %%ymm12, %%ymm12\n\t"                                                       \
    "vpaddd %%ymm12, %%ymm" #n ", %%ymm" #n "\n\t"

#define LOOP(name, op, reg) LOOP_OF(name, ON_EACH(op, reg))
#define LOOP_OF(name, body)                                                                        \
    static void name(void)                                                                         \
    {                                                                                              \
        uint64_t rounds = ROUNDS;                                                                  \
        __asm__ volatile("vzeroall\n"                                                              \
                         "1:\n\t" body "dec %0\n\t"                                                \
                         "jnz 1b\n\t"                                                              \
                         "vzeroupper"                                                              \
                         : "+r"(rounds)                                                            \
                         :                                                                         \
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc");    \
    }
LOOP(fma_256, "vfmadd231ps ", "ymm")
LOOP(fma_512, "vfmadd231ps ", "zmm")
LOOP_OF(int8_avx2, TWICE_ON_EACH(INT8_PRODUCTS))
LOOP_OF(int4_avx2, TWICE_ON_EACH(INT4_PRODUCTS))
LOOP(int8_256, "%{vex%} vpdpbusd ", "ymm")
LOOP(int8_512, "vpdpbusd ", "zmm")
LOOP(bf16_512, "vdpbf16ps ", "zmm")
#endif

/* Weakest first. A multiplication and an addition for each 4-byte lane, two bf16 or four int8. */
static const struct {
    enum caloris_format format;
    const char *isa, *instruction;
    double operations; /* of one instruction */
    void (*loop)(void);
} loops[] = {
#if defined(__x86_64__)
    {CALORIS_FORMAT_FP32, "avx2", "vfmadd231ps ymm", 16, fma_256},
    {CALORIS_FORMAT_FP32, "avx512", "vfmadd231ps zmm", 32, fma_512},
    {CALORIS_FORMAT_BF16, "avx2", "vfmadd231ps ymm", 16, fma_256},
    {CALORIS_FORMAT_BF16, "avx512", "vfmadd231ps zmm", 32, fma_512},
    {CALORIS_FORMAT_BF16, "avx512-bf16", "vdpbf16ps zmm", 64, bf16_512},
    {CALORIS_FORMAT_INT8, "avx2", "vpmaddwd vpaddd ymm", 32, int8_avx2},
    {CALORIS_FORMAT_INT4, "avx2", "4 vpmaddubsw 3 vpaddw vpmaddwd vpaddd ymm", 256, int4_avx2},
    {CALORIS_FORMAT_INT8, "avx-vnni", "vpdpbusd ymm", 64, int8_256},
    {CALORIS_FORMAT_INT8, "avx512-vnni", "vpdpbusd zmm", 128, int8_512},
#endif
    {0, NULL, NULL, 0, NULL},
};

static bool runs_here(const char *isa)
{
    const char *name;
    bool here;
    for (size_t i = 0; (name = caloris_kernels_isa(i, &here)) != NULL; i++) {
        if (strcmp(name, isa) == 0)
            return here;
    }
    return false;
}

/* Its line, or -1: this CPU has none of those that are known here. */
static int fastest(enum caloris_format format)
{
    const enum caloris_format opened = /* int4 is opened to int8, but for AVX2 */
        format == CALORIS_FORMAT_INT4 ? CALORIS_FORMAT_INT8 : format;
    int best = -1;
    for (int i = 0; loops[i].loop; i++) {
        if ((loops[i].format == format || loops[i].format == opened) && runs_here(loops[i].isa))
            best = i;
    }
    return best;
}

const char *bench_peak_instruction(enum caloris_format format)
{
    int i = fastest(format);
    return i < 0 ? "none" : loops[i].instruction;
}

static void run_loop(void *arg, size_t index, int thread)
{
    (void)index;
    (void)thread;
    loops[*(int *)arg].loop();
}

double bench_peak(struct caloris_pool *pool, enum caloris_format format)
{
    int i = fastest(format);
    if (i < 0)
        return 0;
    size_t threads = (size_t)caloris_pool_threads(pool);
    uint64_t start = caloris_time_ns();
    caloris_pool_run(pool, threads, run_loop, &i);
    double seconds = (double)(caloris_time_ns() - start) * 1e-9;
    return (double)threads * ROUNDS * CHAINS * loops[i].operations / seconds;
}

/* ---- bandwidth ------------------------------------------------------------------------------- */

typedef uint64_t line __attribute__((vector_size(64)));
enum { PARTS = 16, LINES_AT_ONCE = 4, LINES_AHEAD = 64 };

struct stream {
    const line *from;
    size_t lines; /* of a part */
    line seen[PARTS];
};

static void read_part(void *arg, size_t index, int thread)
{
    (void)thread;
    struct stream *stream = arg;
    const line *at = stream->from + index * stream->lines;
    line sum[LINES_AT_ONCE] = {{0}};
    for (size_t i = 0; i + LINES_AT_ONCE <= stream->lines; i += LINES_AT_ONCE) {
        for (size_t j = 0; j < LINES_AT_ONCE; j++) {
            __builtin_prefetch(at + i + j + LINES_AHEAD, 0, 3);
            sum[j] += at[i + j];
        }
    }
    for (size_t j = 0; j < LINES_AT_ONCE; j++)
        stream->seen[index] += sum[j];
}

double bench_bandwidth(struct caloris_pool *pool, const void *from, size_t bytes)
{
    static struct stream stream; /* static: what is read must not be optimised away */
    memset(&stream, 0, sizeof(stream));
    stream.from = from;
    stream.lines = bytes / sizeof(line) / PARTS / LINES_AT_ONCE * LINES_AT_ONCE;
    uint64_t start = caloris_time_ns();
    caloris_pool_run(pool, PARTS, read_part, &stream);
    double seconds = (double)(caloris_time_ns() - start) * 1e-9;
    volatile uint64_t sink = 0;
    for (size_t i = 0; i < PARTS; i++)
        sink = sink + stream.seen[i][0];
    return (double)(stream.lines * PARTS * sizeof(line)) / seconds;
}
