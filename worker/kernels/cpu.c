/* What this CPU has, and what its system lets us use. */
#include "worker/kernels/table.h"

#include <pthread.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* AVX-VNNI (leaf 7, subleaf 1, EAX bit 4), which the compiler's list of features lacks. */
static bool has_avx_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}

/* Linux saves the tiles of a process only once it has asked for that, before its first tile
 * instruction; threads inherit it. */
static bool tiles_granted(void)
{
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* AMX: leaf 7, EDX: bf16, tiles, int8; and the system switches both parts of the tiles' state. */
static unsigned amx(void)
{
    enum { BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25 };
    enum { XSAVE_IN_USE = 1 << 27, TILE_STATES = 3 << 17 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & XSAVE_IN_USE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATES) != TILE_STATES || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        !(d & TILES) || !tiles_granted())
        return 0;
    return (d & INT8 ? CALORIS_CPU_AMX_INT8 : 0) | (d & BF16 ? CALORIS_CPU_AMX_BF16 : 0);
}
#endif

static unsigned cpu;

static void look(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        cpu |= CALORIS_CPU_AVX2;
    if ((cpu & CALORIS_CPU_AVX2) && has_avx_vnni())
        cpu |= CALORIS_CPU_AVX_VNNI;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        cpu |= CALORIS_CPU_AVX512;
    if ((cpu & CALORIS_CPU_AVX512) && __builtin_cpu_supports("avx512vnni"))
        cpu |= CALORIS_CPU_AVX512_VNNI;
    if ((cpu & CALORIS_CPU_AVX512) && __builtin_cpu_supports("avx512bf16"))
        cpu |= CALORIS_CPU_AVX512_BF16;
    if (cpu & CALORIS_CPU_AVX512)
        cpu |= amx();
#endif
}

unsigned caloris_cpu(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
    return cpu;
}
