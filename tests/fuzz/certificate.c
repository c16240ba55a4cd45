/* Certificates and the files of an authorized directory: ZPL, keys, rights and limits. */
#include "base/err.h"
#include "coordinator/gateway/broker/authorized.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct caloris_identity who;
    struct caloris_err err;

    authorized_read("authorized/alice", (const char *)data, size, &who, &err);
    return 0;
}
