#include "tests/tools/amx_emulate.h"

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

/* Of one thread. */
static _Thread_local struct {
    bool configured;
    uint8_t config[64];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} amx;

static atomic_size_t executed;
static atomic_int with_tiles;

static size_t rows_of(unsigned tile)
{
    return amx.config[48 + tile];
}

static size_t row_bytes_of(unsigned tile)
{
    return amx.config[16 + 2 * tile] | (size_t)amx.config[17 + 2 * tile] << 8;
}

/* ---- what the instructions do: false where the manual has a fault ---------------------------- */

static void use_tiles(bool use)
{
    if (use != amx.configured)
        atomic_fetch_add(&with_tiles, use ? 1 : -1);
    amx.configured = use;
    memset(amx.data, 0, sizeof(amx.data));
}

static bool zeros(const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (from[i] != 0)
            return false;
    }
    return true;
}

static bool load_config(const uint8_t *from)
{
    memcpy(amx.config, from, sizeof(amx.config));
    if (from[0] == 0) {
        memset(amx.config, 0, sizeof(amx.config));
        use_tiles(false);
        return true;
    }
    if (from[0] != 1 || from[1] != 0 || !zeros(from + 2, 14) || !zeros(from + 32, 16) ||
        !zeros(from + 56, 8))
        return false;
    for (unsigned tile = 0; tile < TILES; tile++) {
        if (rows_of(tile) > ROWS || row_bytes_of(tile) > ROW_BYTES ||
            (rows_of(tile) == 0) != (row_bytes_of(tile) == 0))
            return false;
    }
    use_tiles(true);
    return true;
}

static bool usable(unsigned tile)
{
    return amx.configured && tile < TILES && rows_of(tile) > 0;
}

static bool zero_tile(unsigned tile)
{
    if (!usable(tile))
        return false;
    memset(amx.data[tile], 0, sizeof(amx.data[tile]));
    return true;
}

static bool load_tile(unsigned tile, const uint8_t *from, size_t stride)
{
    if (!zero_tile(tile))
        return false;
    for (size_t r = 0; r < rows_of(tile); r++)
        memcpy(amx.data[tile][r], from + r * stride, row_bytes_of(tile));
    return true;
}

static bool store_tile(unsigned tile, uint8_t *to, size_t stride)
{
    if (!usable(tile))
        return false;
    for (size_t r = 0; r < rows_of(tile); r++)
        memcpy(to + r * stride, amx.data[tile][r], row_bytes_of(tile));
    return true;
}

/* sum [m, n] += a [m, k] * b [k, n], four bytes each. */
static bool fit(unsigned sum, unsigned a, unsigned b)
{
    return usable(sum) && usable(a) && usable(b) && sum != a && sum != b && a != b &&
           rows_of(sum) == rows_of(a) && row_bytes_of(sum) == row_bytes_of(b) &&
           row_bytes_of(a) == 4 * rows_of(b) && row_bytes_of(sum) % 4 == 0;
}

static bool dot_bytes(unsigned sum, unsigned a, unsigned b, bool a_signed, bool b_signed)
{
    if (!fit(sum, a, b))
        return false;
    for (size_t m = 0; m < rows_of(sum); m++) {
        for (size_t n = 0; n < row_bytes_of(sum) / 4; n++) {
            uint32_t total;
            memcpy(&total, &amx.data[sum][m][4 * n], sizeof(total));
            for (size_t k = 0; k < row_bytes_of(a); k++) {
                const uint8_t x = amx.data[a][m][k], y = amx.data[b][k / 4][4 * n + k % 4];
                total += (uint32_t)((a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y));
            }
            memcpy(&amx.data[sum][m][4 * n], &total, sizeof(total));
        }
    }
    return true;
}

static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

float amx_emulate_fma(float a, float b, float c)
{
    return flush(fmaf(flush(a), flush(b), flush(c)));
}

static float bf16(const uint8_t *from)
{
    const uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 24;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static bool dot_bf16(unsigned sum, unsigned a, unsigned b)
{
    if (!fit(sum, a, b))
        return false;
    for (size_t m = 0; m < rows_of(sum); m++) {
        for (size_t n = 0; n < row_bytes_of(sum) / 4; n++) {
            float first = 0, second = 0, total;
            memcpy(&total, &amx.data[sum][m][4 * n], sizeof(total));
            for (size_t k = 0; k < rows_of(b); k++) {
                const uint8_t *x = &amx.data[a][m][4 * k], *y = &amx.data[b][k][4 * n];
                first = amx_emulate_fma(bf16(x), bf16(y), first);
                second = amx_emulate_fma(bf16(x + 2), bf16(y + 2), second);
            }
            total = flush(flush(total) + flush(first + second));
            memcpy(&amx.data[sum][m][4 * n], &total, sizeof(total));
        }
    }
    return true;
}

/* ---- decoding -------------------------------------------------------------------------------- */

enum prefix { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };

/* C4, then ~R ~X ~B and the opcode map, then W ~vvvv L and the prefix; opcode; ModRM … */
struct instruction {
    bool r, x, b;
    enum prefix prefix;
    unsigned vvvv, opcode, mod, reg, rm;
    const uint8_t *end;
    uint8_t *base; /* of the memory operand */
    size_t index;  /* its index times the scale: the stride of tiles */
    bool indexed;
};

static int64_t *general(ucontext_t *context, unsigned i)
{
    static const int names[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};
    return (int64_t *)&context->uc_mcontext.gregs[names[i]];
}

/* The memory operand behind ModRM. */
static void decode_address(struct instruction *in, ucontext_t *context, const uint8_t *at)
{
    int64_t base = 0, displacement = 0;
    unsigned from = in->rm + (in->b ? 8 : 0);
    bool has_base = true, of_next = in->rm == 5 && in->mod == 0;
    if (in->rm == 4) {
        const unsigned sib = *at++;
        const unsigned index = (sib >> 3 & 7) + (in->x ? 8 : 0);
        in->indexed = index != 4;
        if (in->indexed)
            in->index = (size_t)*general(context, index) << (sib >> 6);
        from = (sib & 7) + (in->b ? 8 : 0);
        has_base = !((sib & 7) == 5 && in->mod == 0);
    }
    if (in->mod == 1) {
        displacement = (int8_t)*at++;
    } else if (in->mod == 2 || of_next || !has_base) {
        int32_t number;
        memcpy(&number, at, sizeof(number));
        displacement = number;
        at += sizeof(number);
    }
    if (of_next)
        base = (int64_t)(uintptr_t)at;
    else if (has_base)
        base = *general(context, from);
    in->base = (uint8_t *)(uintptr_t)(base + displacement);
    in->end = at;
}

static bool decode(struct instruction *in, ucontext_t *context)
{
    enum { VEX = 0xc4, MAP_0F38 = 2 };
    const uint8_t *at = (const uint8_t *)(uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    if (at[0] != VEX || (at[1] & 31) != MAP_0F38 || (at[2] & 0x84) != 0) /* W0, 128 bits */
        return false;
    *in = (struct instruction){
        .r = !(at[1] & 0x80),
        .x = !(at[1] & 0x40),
        .b = !(at[1] & 0x20),
        .vvvv = ~(unsigned)at[2] >> 3 & 15,
        .prefix = (enum prefix)(at[2] & 3),
        .opcode = at[3],
        .mod = at[4] >> 6,
        .reg = at[4] >> 3 & 7,
        .rm = at[4] & 7,
        .end = at + 5,
    };
    if (in->mod != 3)
        decode_address(in, context, in->end);
    return true;
}

static bool configure(const struct instruction *in)
{
    if (in->reg != 0 || in->vvvv != 0)
        return false;
    if (in->mod != 3 && in->prefix == NO_PREFIX) /* ldtilecfg */
        return load_config(in->base);
    if (in->mod != 3 && in->prefix == PREFIX_66) { /* sttilecfg */
        memcpy(in->base, amx.config, sizeof(amx.config));
        return true;
    }
    const uint8_t none[64] = {0};
    return in->mod == 3 && in->prefix == NO_PREFIX && in->rm == 0 && load_config(none);
}

static bool move(const struct instruction *in)
{
    if (in->mod == 3 || in->rm != 4 || in->vvvv != 0 || in->r)
        return false;
    if (in->prefix == PREFIX_F2 || in->prefix == PREFIX_66) /* tileloadd, tileloaddt1 */
        return load_tile(in->reg, in->base, in->index);
    return in->prefix == PREFIX_F3 && store_tile(in->reg, in->base, in->index);
}

static bool execute(const struct instruction *in)
{
    switch (in->opcode) {
    case 0x49:
        if (in->mod == 3 && in->prefix == PREFIX_F2) /* tilezero */
            return in->rm == 0 && in->vvvv == 0 && !in->r && zero_tile(in->reg);
        return configure(in);
    case 0x4b:
        return move(in);
    case 0x5c: /* tdpbf16ps */
        return in->mod == 3 && in->prefix == PREFIX_F3 && !in->r && !in->b &&
               dot_bf16(in->reg, in->rm, in->vvvv);
    case 0x5e: /* tdpbssd F2, tdpbsud F3, tdpbusd 66, tdpbuud */
        return in->mod == 3 && !in->r && !in->b &&
               dot_bytes(in->reg, in->rm, in->vvvv,
                         in->prefix == PREFIX_F2 || in->prefix == PREFIX_F3,
                         in->prefix == PREFIX_F2 || in->prefix == PREFIX_66);
    default:
        return false;
    }
}

static void on_illegal(int signal_number, siginfo_t *info, void *context)
{
    struct instruction in;
    (void)info;
    if (!decode(&in, context) || !execute(&in)) {
        signal(signal_number, SIG_DFL); /* and once more */
        return;
    }
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)in.end;
    atomic_fetch_add(&executed, 1);
}

int amx_emulate(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_illegal;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGILL, &action, NULL);
}
#else
float amx_emulate_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

int amx_emulate(void)
{
    return -1;
}

static atomic_size_t executed;
static atomic_int with_tiles;
#endif

size_t amx_emulated(void)
{
    return executed;
}

int amx_emulated_threads_with_tiles(void)
{
    return with_tiles;
}
