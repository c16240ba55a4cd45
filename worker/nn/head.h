/* worker/nn/head.h (inside nn): tiles of the LM head. A tile of logits is made, summarised and
 * forgotten. */
#ifndef CALORIS_NN_HEAD_H
#define CALORIS_NN_HEAD_H

enum {
    /* Of x, partners included: 1 MiB of logits, in the cache when they are read again. */
    HEAD_TILE_ROWS = 128,
    HEAD_TILE_VOCAB = 2048, /* whole panels of any weight format: a multiple of 16 */
};

#endif
