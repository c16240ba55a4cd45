/* INT8 products in AMX: tdpbusd multiplies unsigned rows with signed weights, as vpdpbusd does. */
#include <stdint.h>

typedef int32_t sum_number;
#define TILE_DOT "tdpbusd"

#include "worker/kernels/panels_amx.h"

const struct caloris_matrix_kernels caloris_int8_amx = {
    .isa = CALORIS_ISA_AMX,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 | CALORIS_CPU_AMX_INT8,
    .name = "amx",
    .gemm = gemm_in_tiles,
    .block_rows = BLOCK_ROWS,
    .row_groups = ROW_GROUPS,
    .pack = pack_int8_tiles,
};
