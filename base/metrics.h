/* base/metrics.h: figures in the text that Prometheus reads, and histograms to be counted into. */
#ifndef CALORIS_METRICS_H
#define CALORIS_METRICS_H

#include <stddef.h>
#include <stdint.h>

struct caloris_buf;
struct caloris_err;

enum { CALORIS_HISTOGRAM_BUCKETS = 20 };

/* Counts of values up to each bound. Begin with bounds and n, all else zero. */
struct caloris_histogram {
    const double *bounds;                           /* [n], ascending */
    size_t n;                                       /* <= CALORIS_HISTOGRAM_BUCKETS */
    uint64_t counts[CALORIS_HISTOGRAM_BUCKETS + 1]; /* of each bucket alone; the last is beyond */
    double sum;
};
void caloris_histogram_add(struct caloris_histogram *histogram, double value);

/* Counts by powers of two, where counting must cost nothing: class i is of values up to 2^i that
 * are in none before it; the last of all that are greater. */
enum { CALORIS_METRICS_CLASSES = 12 };
size_t caloris_metrics_class(uint64_t value);

/* "# HELP" and "# TYPE": once, before the values of a name. type: counter, gauge, histogram. */
int caloris_metrics_head(struct caloris_buf *text, const char *name, const char *type,
                         const char *help, struct caloris_err *err);

/* A label: its value is escaped. */
struct caloris_metrics_label {
    const char *name, *value;
};
enum { CALORIS_METRICS_LABELS = 4 };

/* One value; labels end with a NULL name; NULL: none. */
int caloris_metrics_value(struct caloris_buf *text, const char *name,
                          const struct caloris_metrics_label *labels, double value,
                          struct caloris_err *err);

/* The head, the buckets, _sum and _count. */
int caloris_metrics_histogram(struct caloris_buf *text, const char *name, const char *help,
                              const struct caloris_histogram *histogram, struct caloris_err *err);

#endif
