/* tests/fuzz/fuzz.h: what fuzz targets share.
 *
 * A target is one file with LLVMFuzzerTestOneInput: it hands the bytes to one parser, and to what
 * reads its result, and frees everything. A crash, a sanitizer's finding, a leak or more than the
 * memory that tests/fuzz/run.sh allows is a failure; an error is not.
 */
#ifndef CALORIS_FUZZ_H
#define CALORIS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder of this process in memory, the same at every call; removed at exit. */
const char *fuzz_folder(void);

/* Makes the folder's file NAME hold these bytes; returns its path, valid until the next call. */
const char *fuzz_file(const char *name, const void *data, size_t size);

/* Removes it, if it is there. */
void fuzz_drop(const char *name);

#endif
