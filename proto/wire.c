#include "proto/wire.h"

#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    LINGER_MS = 500,     /* so that a good-bye gets out before the program ends */
    HEARTBEAT_MS = 2000, /* of ZeroMQ itself */
    HEARTBEAT_LOST_MS = 10000,
    /* Unpacked, a message takes more memory than its frame: a masked cell of 7 bytes becomes a
     * struct and the unpacker's notes of some 150. Nothing honest needs more than this factor. */
    MEMORY_PER_BYTE = 32,
    MEMORY_AT_LEAST = 64 << 10,
};

/* ---- sockets ------------------------------------------------------------------------------- */

static int socket_type(void *socket)
{
    int type = 0;
    size_t size = sizeof(type);
    return zmq_getsockopt(socket, ZMQ_TYPE, &type, &size) < 0 ? -1 : type;
}

int caloris_wire_prepare(void *socket, struct caloris_err *err)
{
    static const struct {
        int option, value;
        const char *name;
    } options[] = {
        {ZMQ_LINGER, LINGER_MS, "LINGER"},
        {ZMQ_SNDHWM, CALORIS_WIRE_MAX_QUEUED, "SNDHWM"},
        {ZMQ_RCVHWM, CALORIS_WIRE_MAX_QUEUED, "RCVHWM"},
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS, "HEARTBEAT_IVL"},
        {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_LOST_MS, "HEARTBEAT_TIMEOUT"},
        {ZMQ_HEARTBEAT_TTL, HEARTBEAT_LOST_MS, "HEARTBEAT_TTL"},
    };
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        if (zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof(int)) < 0)
            return caloris_err_set(err, CALORIS_INTERNAL, "socket option %s: %s", options[i].name,
                                   zmq_strerror(errno));
    }
    const int64_t largest = CALORIS_WIRE_MAX_FRAME;
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof(largest)) < 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "socket option MAXMSGSIZE: %s",
                               zmq_strerror(errno));
    const int mandatory = 1;
    if (socket_type(socket) == ZMQ_ROUTER &&
        zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof(mandatory)) < 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "socket option ROUTER_MANDATORY: %s",
                               zmq_strerror(errno));
    return 0;
}

static int send_failed(const char *what, struct caloris_err *err)
{
    enum caloris_code code = errno == EAGAIN         ? CALORIS_AGAIN
                             : errno == EHOSTUNREACH ? CALORIS_UNREACHABLE
                                                     : CALORIS_IO;
    return caloris_err_set(err, code, "sending %s: %s", what, zmq_strerror(errno));
}

/* zmq_send without a signal's interruption being an error. */
static int send_frame(void *socket, zmq_msg_t *frame, int flags)
{
    int rc;
    do
        rc = zmq_msg_send(frame, socket, flags | ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc;
}

/* A frame of counted bytes. ZeroMQ gives it back from a thread of its own. */
struct counted {
    atomic_size_t *waiting;
    size_t n;
    uint8_t bytes[];
};

static void give_back(void *data, void *hint)
{
    (void)data;
    struct counted *counted = hint;
    atomic_fetch_sub(counted->waiting, counted->n);
    free(counted);
}

static int make_frame(zmq_msg_t *frame, size_t n, atomic_size_t *waiting)
{
    if (!waiting)
        return zmq_msg_init_size(frame, n);
    struct counted *counted = malloc(sizeof(*counted) + n);
    if (!counted)
        return -1;
    counted->waiting = waiting;
    counted->n = n;
    if (zmq_msg_init_data(frame, counted->bytes, n, give_back, counted) < 0) {
        free(counted);
        return -1;
    }
    atomic_fetch_add(waiting, n);
    return 0;
}

int caloris_wire_send(void *socket, const struct caloris_peer *peer,
                      const ProtobufCMessage *message, struct caloris_err *err)
{
    return caloris_wire_send_counted(socket, peer, message, NULL, err);
}

int caloris_wire_send_counted(void *socket, const struct caloris_peer *peer,
                              const ProtobufCMessage *message, atomic_size_t *waiting,
                              struct caloris_err *err)
{
    const char *name = message->descriptor->name;
    size_t n = protobuf_c_message_get_packed_size(message);
    if (n > CALORIS_WIRE_MAX_FRAME)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s of %zu bytes; the limit is %d", name,
                               n, CALORIS_WIRE_MAX_FRAME);
    zmq_msg_t frame;
    if (make_frame(&frame, n, waiting) < 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "%s of %zu bytes", name, n);
    protobuf_c_message_pack(message, zmq_msg_data(&frame));

    if (peer && peer->size > 0) {
        /* Only this frame can be refused: the ROUTER picks the connection by it, and what
         * follows goes the same way. */
        zmq_msg_t to;
        if (zmq_msg_init_size(&to, peer->size) < 0) {
            zmq_msg_close(&frame);
            return caloris_err_set(err, CALORIS_NO_MEMORY, "%s: routing id", name);
        }
        memcpy(zmq_msg_data(&to), peer->id, peer->size);
        if (send_frame(socket, &to, ZMQ_SNDMORE) < 0) {
            send_failed(name, err);
            zmq_msg_close(&to);
            zmq_msg_close(&frame);
            return -1;
        }
    }
    if (send_frame(socket, &frame, 0) < 0) {
        send_failed(name, err);
        zmq_msg_close(&frame);
        return -1;
    }
    return 0;
}

/* 1 and a frame; 0 when none waits; -1 and err. */
static int receive_frame(void *socket, zmq_msg_t *frame, struct caloris_err *err)
{
    zmq_msg_init(frame);
    int rc;
    do
        rc = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    if (rc >= 0)
        return 1;
    int why = errno;
    zmq_msg_close(frame);
    return why == EAGAIN ? 0 : caloris_err_set(err, CALORIS_IO, "receiving: %s", zmq_strerror(why));
}

/* Drops the frames of a message behind the one given; how many. */
static size_t drop_rest(void *socket, zmq_msg_t *frame)
{
    size_t dropped = 0;
    bool more = zmq_msg_more(frame);
    while (more) {
        zmq_msg_t extra;
        if (receive_frame(socket, &extra, NULL) <= 0)
            break;
        more = zmq_msg_more(&extra);
        zmq_msg_close(&extra);
        dropped++;
    }
    return dropped;
}

int caloris_wire_receive(void *socket, struct caloris_peer *peer,
                         const ProtobufCMessageDescriptor *type, ProtobufCMessage **message,
                         struct caloris_err *err)
{
    struct caloris_peer nobody;
    if (!peer)
        peer = &nobody;
    *message = NULL;
    peer->size = 0;
    peer->key[0] = '\0';
    zmq_msg_t frame;
    int rc = receive_frame(socket, &frame, err);
    if (rc <= 0)
        return rc;

    if (socket_type(socket) == ZMQ_ROUTER) {
        size_t size = zmq_msg_size(&frame);
        if (size > sizeof(peer->id)) {
            drop_rest(socket, &frame);
            zmq_msg_close(&frame);
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "routing id of %zu bytes; the limit is %d", size,
                                   CALORIS_WIRE_MAX_ROUTING);
        }
        memcpy(peer->id, zmq_msg_data(&frame), size);
        peer->size = size;
        /* Ids that the ROUTER makes up begin with 0; one that a peer chose could be another's. */
        if (size == 0 || peer->id[0] != 0) {
            drop_rest(socket, &frame);
            zmq_msg_close(&frame);
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "a routing id of your own; leave it to the ROUTER");
        }
        bool more = zmq_msg_more(&frame);
        zmq_msg_close(&frame);
        if (!more)
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "message without a frame");
        rc = receive_frame(socket, &frame, err);
        if (rc <= 0)
            return rc;
    }
    /* Once for the connection, by the handler of proof: proto/curve.h. */
    const char *key = zmq_msg_gets(&frame, "User-Id");
    snprintf(peer->key, sizeof(peer->key), "%s", key ? key : "");
    size_t extra = drop_rest(socket, &frame);
    if (extra > 0)
        caloris_err_set(err, CALORIS_BAD_REQUEST, "message of %zu frames; it must be one",
                        extra + 1);
    else
        *message =
            caloris_wire_unpack(type, zmq_msg_data(&frame), zmq_msg_size(&frame), false, err);
    zmq_msg_close(&frame);
    return *message ? 1 : -1;
}

/* ---- messages ------------------------------------------------------------------------------ */

/* What unpacking one frame may still allocate. Memory comes from malloc, so the system's
 * allocator may free it. */
struct budget {
    size_t left;
    bool spent;
};

static void *budget_alloc(void *data, size_t size)
{
    struct budget *budget = data;
    if (size > budget->left) {
        budget->spent = true;
        return NULL;
    }
    budget->left -= size;
    return malloc(size);
}

static void budget_free(void *data, void *memory)
{
    (void)data;
    free(memory);
}

ProtobufCMessage *caloris_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                      size_t n, bool strict, struct caloris_err *err)
{
    if (n > CALORIS_WIRE_MAX_FRAME) {
        caloris_err_set(err, CALORIS_BAD_REQUEST, "%s of %zu bytes; the limit is %d", type->name, n,
                        CALORIS_WIRE_MAX_FRAME);
        return NULL;
    }
    size_t memory = n * MEMORY_PER_BYTE + MEMORY_AT_LEAST;
    struct budget budget = {memory < CALORIS_WIRE_MAX_MEMORY ? memory : CALORIS_WIRE_MAX_MEMORY,
                            false};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};

    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, n, bytes);
    if (!message) {
        if (budget.spent)
            caloris_err_set(err, CALORIS_BAD_REQUEST,
                            "%s of %zu bytes would take too much memory unpacked", type->name, n);
        else
            caloris_err_set(err, CALORIS_BAD_REQUEST,
                            "%zu bytes that are no %s: damaged, or a required field is missing", n,
                            type->name);
        return NULL;
    }
    if (strict && caloris_wire_check_known(message, err) < 0) {
        protobuf_c_message_free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

/* How many values a field of the message has, and where the first is. */
static size_t field_values(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                           const void **first)
{
    const char *base = (const char *)message;
    const char *member = base + field->offset;
    const char *quantifier = base + field->quantifier_offset;
    bool pointer = field->type == PROTOBUF_C_TYPE_MESSAGE || field->type == PROTOBUF_C_TYPE_STRING;
    *first = member;
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        *first = *(const void *const *)(const void *)member;
        return *(const size_t *)(const void *)quantifier;
    }
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
        *(const uint32_t *)(const void *)quantifier != field->id)
        return 0;
    if (pointer)
        return *(const void *const *)(const void *)member != NULL;
    if (field->label == PROTOBUF_C_LABEL_REQUIRED || (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return 1;
    return *(const protobuf_c_boolean *)(const void *)quantifier != 0;
}

int caloris_wire_check_known(const ProtobufCMessage *message, struct caloris_err *err)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    if (message->n_unknown_fields > 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: unknown field %u", type->name,
                               message->unknown_fields[0].tag);
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const void *first;
        size_t n = field_values(message, field, &first);
        for (size_t k = 0; k < n && field->type == PROTOBUF_C_TYPE_MESSAGE; k++) {
            /* The schema has no cycles, so this goes a few levels deep at most. */
            if (caloris_wire_check_known(((ProtobufCMessage *const *)first)[k], err) < 0)
                return -1;
        }
        for (size_t k = 0; k < n && field->type == PROTOBUF_C_TYPE_ENUM; k++) {
            int value = ((const int *)first)[k];
            if (!protobuf_c_enum_descriptor_get_value(field->descriptor, value))
                return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: field %s: unknown value %d",
                                       type->name, field->name, value);
        }
    }
    return 0;
}

uint32_t caloris_wire_version(uint32_t peer_min, uint32_t peer_max, struct caloris_err *err)
{
    if (peer_min <= peer_max && peer_min <= CALORIS_PROTOCOL_VERSION &&
        peer_max >= CALORIS_PROTOCOL_OLDEST)
        return peer_max < CALORIS_PROTOCOL_VERSION ? peer_max : CALORIS_PROTOCOL_VERSION;
    caloris_err_set(err, CALORIS_REFUSED,
                    "protocol versions %u to %u are spoken there, %d to %d here", peer_min,
                    peer_max, CALORIS_PROTOCOL_OLDEST, CALORIS_PROTOCOL_VERSION);
    return 0;
}
