#include "worker/kernels/table.h"

#include "base/err.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { AVX512 = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 };

static const struct {
    const char *name;
    unsigned needs;
} isas[CALORIS_ISAS] = {
    [CALORIS_ISA_REF] = {"ref", 0},
    [CALORIS_ISA_PORTABLE] = {"portable", 0},
    [CALORIS_ISA_AVX2] = {"avx2", CALORIS_CPU_AVX2},
    [CALORIS_ISA_AVX_VNNI] = {"avx-vnni", CALORIS_CPU_AVX2 | CALORIS_CPU_AVX_VNNI},
    [CALORIS_ISA_AVX512] = {"avx512", AVX512},
    [CALORIS_ISA_AVX512_VNNI] = {"avx512-vnni", AVX512 | CALORIS_CPU_AVX512_VNNI},
    [CALORIS_ISA_AVX512_BF16] = {"avx512-bf16", AVX512 | CALORIS_CPU_AVX512_BF16},
    [CALORIS_ISA_AMX] = {"amx", AVX512 | CALORIS_CPU_AMX_INT8 | CALORIS_CPU_AMX_BF16},
};

static const struct caloris_row_kernels *const row_kernels[] = {
    &caloris_rows_ref,  &caloris_rows_portable,
#if defined(__x86_64__)
    &caloris_rows_avx2, &caloris_rows_avx512,   &caloris_rows_avx512_bf16,
#endif
};

/* OpenBLAS looks at the CPU itself. */
static const struct caloris_matrix_kernels f32_kernels[] = {
    {.isa = CALORIS_ISA_REF, .name = "ref", .gemm = caloris_gemm_f32_ref},
    {.isa = CALORIS_ISA_PORTABLE, .name = "openblas", .gemm = caloris_gemm_f32_blas},
};
static const struct caloris_matrix_kernels *const f32_list[] = {&f32_kernels[0], &f32_kernels[1]};
static const struct caloris_matrix_kernels *const bf16_list[] = {
    &caloris_bf16_ref,
#if defined(__x86_64__)
    &caloris_bf16_avx2, &caloris_bf16_avx512, &caloris_bf16_avx512_bf16, &caloris_bf16_amx,
#endif
};
static const struct caloris_matrix_kernels *const int8_list[] = {
    &caloris_int8_ref,
#if defined(__x86_64__)
    &caloris_int8_avx2,        &caloris_int8_avx_vnni, &caloris_int8_avx512,
    &caloris_int8_avx512_vnni, &caloris_int8_amx,
#endif
};
/* All but AVX2 open it to INT8 as they go. */
static const struct caloris_matrix_kernels *const int4_list[] = {
    &caloris_int8_ref,
#if defined(__x86_64__)
    &caloris_int4_avx2,        &caloris_int8_avx_vnni, &caloris_int8_avx512,
    &caloris_int8_avx512_vnni, &caloris_int8_amx,
#endif
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static const struct {
    const struct caloris_matrix_kernels *const *entries;
    size_t count;
} formats[CALORIS_FORMATS] = {
    [CALORIS_FORMAT_FP32] = {f32_list, COUNT(f32_list)},
    [CALORIS_FORMAT_BF16] = {bf16_list, COUNT(bf16_list)},
    [CALORIS_FORMAT_INT8] = {int8_list, COUNT(int8_list)},
    [CALORIS_FORMAT_INT4] = {int4_list, COUNT(int4_list)},
};

static struct {
    const struct caloris_row_kernels *rows;
    const struct caloris_matrix_kernels *matrix[CALORIS_FORMATS];
} chosen = {&caloris_rows_ref,
            {&f32_kernels[0], &caloris_bf16_ref, &caloris_int8_ref, &caloris_int8_ref}};

const struct caloris_row_kernels *caloris_rows(void)
{
    return chosen.rows;
}

const struct caloris_matrix_kernels *caloris_matrix_kernels(enum caloris_format format)
{
    return chosen.matrix[format];
}

const char *caloris_kernels_name(enum caloris_format format)
{
    return chosen.matrix[format]->name;
}

/* The strongest entries that stand on rung `limit` or below and run here. */
static void choose(enum caloris_isa limit)
{
    unsigned cpu = caloris_cpu();
    for (size_t i = 0; i < COUNT(row_kernels); i++) {
        if (row_kernels[i]->isa <= limit && (row_kernels[i]->needs & ~cpu) == 0)
            chosen.rows = row_kernels[i];
    }
    for (size_t f = 0; f < COUNT(formats); f++) {
        for (size_t i = 0; i < formats[f].count; i++) {
            const struct caloris_matrix_kernels *entry = formats[f].entries[i];
            if (entry->isa <= limit && (entry->needs & ~cpu) == 0)
                chosen.matrix[f] = entry;
        }
    }
}

static void init(void)
{
    caloris_blas_init();
    choose(CALORIS_ISAS - 1);
}

void caloris_kernels_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
}

const char *caloris_kernels_isa(size_t i, bool *runs_here)
{
    if (i >= CALORIS_ISAS)
        return NULL;
    if (runs_here)
        *runs_here = (isas[i].needs & ~caloris_cpu()) == 0;
    return isas[i].name;
}

int caloris_kernels_force(const char *isa, struct caloris_err *err)
{
    caloris_kernels_init();
    for (size_t i = 0; i < CALORIS_ISAS; i++) {
        if (strcmp(isas[i].name, isa) != 0)
            continue;
        if ((isas[i].needs & ~caloris_cpu()) != 0)
            return caloris_err_set(err, CALORIS_USAGE, "this CPU cannot run %s kernels", isa);
        choose((enum caloris_isa)i);
        return 0;
    }
    char known[CALORIS_ISAS * 16] = "";
    for (size_t i = 0; i < CALORIS_ISAS; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", isas[i].name);
    }
    return caloris_err_set(err, CALORIS_USAGE, "there are no \"%.40s\" kernels: %s", isa, known);
}
