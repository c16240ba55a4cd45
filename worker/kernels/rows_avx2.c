#define ROW_KERNELS      caloris_rows_avx2
#define ROW_KERNELS_ISA  CALORIS_ISA_AVX2
#define ROW_KERNELS_NEED CALORIS_CPU_AVX2
#include "worker/kernels/rows_vector.h"
