/* Frames of all four directions: the first byte chooses one. */
#include <stdbool.h>

#include "base/err.h"
#include "proto/caloris.pb-c.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const ProtobufCMessageDescriptor *const types[] = {
        &caloris__wire__client_to_gateway__descriptor,
        &caloris__wire__gateway_to_client__descriptor,
        &caloris__wire__group_to_gateway__descriptor,
        &caloris__wire__gateway_to_group__descriptor,
    };
    ProtobufCMessage *message;
    struct caloris_err err;

    if (!size)
        return 0;
    message = caloris_wire_unpack(types[data[0] % 4], data + 1, size - 1, data[0] & 4, &err);
    if (message) {
        caloris_wire_check_known(message, &err);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return 0;
}
