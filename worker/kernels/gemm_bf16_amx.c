/* BF16 products in AMX. tdpbf16ps sums the first and the second numbers of 16 groups apart, adds
 * both and then that to the sum: another order than the other kernels'. It takes subnormal numbers
 * for zero and makes none. */
typedef float sum_number;
#define TILE_DOT "tdpbf16ps"

#include "worker/kernels/panels_amx.h"

const struct caloris_matrix_kernels caloris_bf16_amx = {
    .isa = CALORIS_ISA_AMX,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 | CALORIS_CPU_AMX_BF16,
    .name = "amx",
    .gemm = gemm_in_tiles,
    .block_rows = BLOCK_ROWS,
    .row_groups = ROW_GROUPS,
    .pack = pack_bf16_tiles,
};
