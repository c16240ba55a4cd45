/* tests/tools/comm_cases.h: what every transport of worker/comm must do, as bodies that all ranks
 * of a world run.
 *
 * A body goes through all its collective calls whatever it finds, so that a failure on one rank
 * leaves no other waiting; it returns -1 with what was expected and found. */
#ifndef CALORIS_COMM_CASES_H
#define CALORIS_COMM_CASES_H

#include <stddef.h>
#include <stdint.h>

struct caloris_comm;
struct caloris_err;

struct comm_case {
    const char *name;
    int (*run)(struct caloris_comm *comm, struct caloris_err *err);
};

extern const struct comm_case comm_cases[];
extern const size_t n_comm_cases;

/* Element i of what a rank brings to round `round`: values of very different size, so that another
 * order of summing gives other bits. */
float comm_case_value(int rank, uint32_t round, size_t i);

#endif
