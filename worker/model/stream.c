/* FP32 weights with one layer at a time. */
#include "worker/model/load.h"
#include "worker/model/memory.h"

#include "base/err.h"

#include <stdlib.h>

struct caloris_stream {
    struct caloris_loading loading;
    struct caloris_pieces pieces; /* those of the model, then layer by layer */
    struct caloris_pool *pool;
    struct caloris_weights weights;
};

/* Pieces [first, first + n) of the list. */
static int load_some(struct caloris_stream *stream, size_t first, size_t n, struct caloris_err *err)
{
    const struct caloris_pieces some = {stream->pieces.piece + first, n};
    return caloris_pieces_run(&some, stream->pool, caloris_load_piece, &stream->loading, err);
}

struct caloris_stream *
caloris_stream_open(const char *dir, const struct caloris_model_config *config,
                    const struct caloris_model_split *split, struct caloris_pool *pool,
                    const struct caloris_weights_peers *peers, struct caloris_err *err)
{
    struct caloris_stream *stream = calloc(1, sizeof(*stream));
    if (!stream) {
        caloris_err_sys(err, "%s", dir);
        return NULL;
    }
    stream->pool = pool;
    stream->loading.format = CALORIS_FORMAT_FP32;
    stream->loading.peers = peers;
    stream->loading.tensors = caloris_tensors_open(dir, err);
    if (!stream->loading.tensors ||
        caloris_pieces_list(config, split, config->layers, dir, stream->loading.tensors,
                            &stream->pieces, err) < 0 ||
        caloris_weights_reserve(config, split, CALORIS_FORMAT_FP32, NULL, 1, &stream->weights,
                                err) < 0)
        goto fail;
    caloris_pieces_attach(&stream->pieces, &stream->weights);
    for (size_t i = 0; i < stream->pieces.n; i++) {
        const enum caloris_role role = stream->pieces.piece[i].role;
        if ((role == CALORIS_ROLE_EMBED || role == CALORIS_ROLE_FINAL_NORM) &&
            load_some(stream, i, 1, err) < 0)
            goto fail;
    }
    return stream;
fail:
    caloris_stream_close(stream);
    return NULL;
}

const struct caloris_weights *caloris_stream_weights(const struct caloris_stream *stream)
{
    return &stream->weights;
}

int caloris_stream_layer(struct caloris_stream *stream, size_t layer, struct caloris_err *err)
{
    size_t first = 0, n = 0;
    while (stream->pieces.piece[first].role < CALORIS_ROLE_FIRST_OF_LAYER ||
           stream->pieces.piece[first].layer != layer)
        first++;
    while (first + n < stream->pieces.n && stream->pieces.piece[first + n].layer == layer)
        n++;
    return load_some(stream, first, n, err);
}

void caloris_stream_close(struct caloris_stream *stream)
{
    if (!stream)
        return;
    caloris_weights_free(&stream->weights);
    caloris_pieces_free(&stream->pieces);
    caloris_tensors_close(stream->loading.tensors);
    free(stream);
}
