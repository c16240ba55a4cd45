/* proto/wire.h: messages in and out of ZeroMQ sockets, with every limit checked before anything
 * is unpacked.
 *
 * One ZeroMQ message = [routing id on a ROUTER] + one frame: a serialised union of
 * caloris.proto. See PROTOCOL.md.
 */
#ifndef CALORIS_WIRE_H
#define CALORIS_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/keys.h"

struct caloris_err;

enum {
    CALORIS_PROTOCOL_VERSION = 1,         /* the newest we speak */
    CALORIS_PROTOCOL_OLDEST = 1,          /* and the oldest */
    CALORIS_WIRE_MAX_FRAME = 16 << 20,    /* bytes; a result of the longest canvas fits */
    CALORIS_WIRE_MAX_HAND_OVER = 4 << 20, /* bytes of a HandOver; a larger one is not sent */
    CALORIS_WIRE_MAX_ROUTING = 64,
    CALORIS_WIRE_MAX_KEY = 64,
    CALORIS_WIRE_MAX_MEMORY = 128 << 20, /* bytes that unpacking one frame may allocate */
    CALORIS_WIRE_MAX_CAPACITY = 4096,    /* leases that one group may hold */
    CALORIS_WIRE_MAX_LIST = 1000,        /* jobs in one JobList */
    CALORIS_WIRE_MAX_QUEUED = 4096,      /* messages waiting in each direction of one connection */
};

/* A peer of a ROUTER socket. size 0: none (DEALER). */
struct caloris_peer {
    uint8_t id[CALORIS_WIRE_MAX_ROUTING];
    size_t size;
    char key[CALORIS_KEY_TEXT + 1]; /* that it showed to have (proto/curve.h); "": none */
};

/* Before bind or connect, on either end: largest frame, queue lengths, a short linger at close,
 * heartbeats of ZeroMQ itself (they find dead connections; who is alive is told by the
 * messages), and on a ROUTER errors for peers that left. */
int caloris_wire_prepare(void *socket, struct caloris_err *err);

/* Packs and sends. peer NULL or empty on a DEALER. Never blocks: a queue that is full is
 * CALORIS_AGAIN, a peer that left is CALORIS_UNREACHABLE. */
int caloris_wire_send(void *socket, const struct caloris_peer *peer,
                      const ProtobufCMessage *message, struct caloris_err *err);

/* The same; *waiting is larger by the frame's bytes until the connection has taken them or is gone:
 * what is sent to somebody who does not read stays in memory. It outlives the socket's context. */
int caloris_wire_send_counted(void *socket, const struct caloris_peer *peer,
                              const ProtobufCMessage *message, atomic_size_t *waiting,
                              struct caloris_err *err);

/* One message if there is one: 1 with *message (free with protobuf_c_message_free_unpacked) and
 * *peer (may be NULL on a DEALER); 0 when nothing waits; -1 and err for what is no valid message
 * (peer is set: an answer is possible; the socket goes on). */
int caloris_wire_receive(void *socket, struct caloris_peer *peer,
                         const ProtobufCMessageDescriptor *type, ProtobufCMessage **message,
                         struct caloris_err *err);

/* The message from n bytes: size cap, required fields, memory in proportion to n. strict: as
 * caloris_wire_check_known. */
ProtobufCMessage *caloris_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                      size_t n, bool strict, struct caloris_err *err);

/* An unknown field or enum value anywhere in the message is an error (BAD_REQUEST) that names it
 * by message and number. */
int caloris_wire_check_known(const ProtobufCMessage *message, struct caloris_err *err);

/* The version to speak with a peer of this range, or 0 and err (code REFUSED, naming both
 * ranges). */
uint32_t caloris_wire_version(uint32_t peer_min, uint32_t peer_max, struct caloris_err *err);

#endif
