/* tests/tools/amx_emulate.h: AMX on a CPU that has none, for tests of the code that uses it.
 *
 * Such a CPU raises SIGILL at each instruction of AMX. A handler decodes the instruction, does on
 * tiles in memory what Intel's manual says of it (Software Developer's Manual, volume 2: LDTILECFG
 * to TILEZERO), and lets the program go on behind it. What the manual forbids, and every other
 * illegal instruction, ends the program as it would without. Tests only.
 */
#ifndef CALORIS_TESTS_AMX_EMULATE_H
#define CALORIS_TESTS_AMX_EMULATE_H

#include <stddef.h>

/* From now on, in all threads. -1 where it cannot be. */
int amx_emulate(void);

/* Instructions executed so far; threads that have tiles in use. */
size_t amx_emulated(void);
int amx_emulated_threads_with_tiles(void);

/* d = c + a * b in fp32 as tdpbf16ps rounds: once, to even, subnormal numbers taken for zero. */
float amx_emulate_fma(float a, float b, float c);

#endif
