/* What OpenBLAS found this CPU to be, and one thread per call. */
#include "worker/kernels/table.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char name[96] = "OpenBLAS";
static char warning[320];

/* Cores of OpenBLAS (its names, as openblas_get_corename gives them) and what their fp32 kernels
 * use. A core that is not listed uses neither AVX2 nor AVX-512, or is newer than this table:
 * nothing is said about those on purpose. */
static const struct {
    const char *core;
    unsigned uses;
} cores[] = {
#if defined(__x86_64__)
    {"Prescott", 0},
    {"Core2", 0},
    {"Penryn", 0},
    {"Dunnington", 0},
    {"Nehalem", 0},
    {"Atom", 0},
    {"Opteron", 0},
    {"Opteron_SSE3", 0},
    {"Barcelona", 0},
    {"Bobcat", 0},
    {"Nano", 0},
    {"Northwood", 0},
    {"Katmai", 0},
    {"Banias", 0},
    {"Athlon", 0},
    {"Sandybridge", 0},
    {"Bulldozer", 0},
    {"Piledriver", 0},
    {"Steamroller", 0},
    {"Excavator", CALORIS_CPU_AVX2},
    {"Haswell", CALORIS_CPU_AVX2},
    {"Zen", CALORIS_CPU_AVX2},
    {"SkylakeX", CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512},
    {"Cooperlake", CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512},
    {"SapphireRapids", CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512},
#else
    {"none", 0},
#endif
};

static void compare(const char *core)
{
    for (size_t i = 0; i < sizeof(cores) / sizeof(cores[0]); i++) {
        if (strcasecmp(cores[i].core, core) != 0)
            continue;
        const unsigned used_by_some = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512;
        unsigned unused = caloris_cpu() & used_by_some & ~cores[i].uses;
        const char *coretype = getenv("OPENBLAS_CORETYPE");
        if (unused == 0)
            return;
        snprintf(warning, sizeof(warning),
                 "OpenBLAS uses its %s kernels, but this CPU has %s: fp32 runs well below its "
                 "speed%s%.40s%s",
                 core, unused & CALORIS_CPU_AVX512 ? "AVX-512" : "AVX2",
                 coretype ? " (OPENBLAS_CORETYPE=" : "", coretype ? coretype : "",
                 coretype ? " is set: unset it)" : "");
    }
}

void caloris_blas_init(void)
{
    openblas_set_num_threads(1);
    const char *core = openblas_get_corename();
    /* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH … Cooperlake MAX_THREADS=64" */
    char version[32] = "";
    sscanf(openblas_get_config(), "OpenBLAS %31s", version);
    snprintf(name, sizeof(name), "OpenBLAS %s %.40s", version, core);
    compare(core);
}

const char *caloris_kernels_blas(void)
{
    return name;
}

const char *caloris_kernels_blas_warning(void)
{
    return warning[0] ? warning : NULL;
}
