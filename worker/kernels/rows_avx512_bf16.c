#define ROW_KERNELS      caloris_rows_avx512_bf16
#define ROW_KERNELS_ISA  CALORIS_ISA_AVX512_BF16
#define ROW_KERNELS_NEED (CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 | CALORIS_CPU_AVX512_BF16)
#include "worker/kernels/rows_vector.h"
