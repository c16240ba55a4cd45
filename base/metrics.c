#include "base/metrics.h"

#include "base/buf.h"

#include <math.h>
#include <stdio.h>

void caloris_histogram_add(struct caloris_histogram *histogram, double value)
{
    size_t i = 0;
    while (i < histogram->n && value > histogram->bounds[i])
        i++;
    histogram->counts[i]++;
    histogram->sum += value;
}

size_t caloris_metrics_class(uint64_t value)
{
    size_t at = 0;
    while (at + 1 < CALORIS_METRICS_CLASSES && value > 1u << at)
        at++;
    return at;
}

int caloris_metrics_head(struct caloris_buf *text, const char *name, const char *type,
                         const char *help, struct caloris_err *err)
{
    return caloris_buf_printf(text, err, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static int put_labels(struct caloris_buf *text, const struct caloris_metrics_label *labels,
                      struct caloris_err *err)
{
    for (size_t i = 0; labels && labels[i].name; i++) {
        if (caloris_buf_printf(text, err, "%s%s=\"", i == 0 ? "{" : ",", labels[i].name) < 0)
            return -1;
        for (const char *at = labels[i].value; *at; at++) {
            const char escaped[] = {'\\', *at == '\n' ? 'n' : *at};
            const int plain = *at != '\\' && *at != '"' && *at != '\n';
            if (caloris_buf_append(text, escaped + plain, plain ? 1 : 2, err) < 0)
                return -1;
        }
        if (caloris_buf_append(text, "\"", 1, err) < 0)
            return -1;
    }
    return labels && labels[0].name ? caloris_buf_append(text, "}", 1, err) : 0;
}

int caloris_metrics_value(struct caloris_buf *text, const char *name,
                          const struct caloris_metrics_label *labels, double value,
                          struct caloris_err *err)
{
    if (caloris_buf_printf(text, err, "%s", name) < 0 || put_labels(text, labels, err) < 0)
        return -1;
    /* Counters stay whole numbers for as long as a double can tell them apart. */
    const int whole = fabs(value) < 9e15 && value == floor(value);
    return caloris_buf_printf(text, err, whole ? " %.0f\n" : " %.9g\n", value);
}

int caloris_metrics_histogram(struct caloris_buf *text, const char *name, const char *help,
                              const struct caloris_histogram *histogram, struct caloris_err *err)
{
    uint64_t so_far = 0;
    if (caloris_metrics_head(text, name, "histogram", help, err) < 0)
        return -1;
    for (size_t i = 0; i <= histogram->n; i++) {
        char bound[32] = "+Inf";
        if (i < histogram->n)
            snprintf(bound, sizeof(bound), "%g", histogram->bounds[i]);
        so_far += histogram->counts[i];
        if (caloris_buf_printf(text, err, "%s_bucket{le=\"%s\"} %llu\n", name, bound,
                               (unsigned long long)so_far) < 0)
            return -1;
    }
    return caloris_buf_printf(text, err, "%s_sum %.9g\n%s_count %llu\n", name, histogram->sum, name,
                              (unsigned long long)so_far);
}
