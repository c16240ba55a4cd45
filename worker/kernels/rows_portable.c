#define ROW_KERNELS      caloris_rows_portable
#define ROW_KERNELS_ISA  CALORIS_ISA_PORTABLE
#define ROW_KERNELS_NEED 0
#include "worker/kernels/rows_vector.h"
