#include "base/size.h"

#include "base/err.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

bool caloris_size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool caloris_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

size_t caloris_size_round_up(size_t n, size_t unit)
{
    size_t above;
    if (!caloris_size_add(n, unit - 1, &above))
        return SIZE_MAX;
    return above - above % unit;
}

int caloris_size_parse(const char *text, uint64_t *bytes, struct caloris_err *err)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {
        {"", 1},       {"B", 1},        {"K", 1024},     {"KiB", 1024}, {"KB", 1e3},
        {"M", 0x1p20}, {"MiB", 0x1p20}, {"MB", 1e6},     {"G", 0x1p30}, {"GiB", 0x1p30},
        {"GB", 1e9},   {"T", 0x1p40},   {"TiB", 0x1p40}, {"TB", 1e12},
    };
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || errno || !(number >= 0) || isinf(number))
        return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is not a size like 512MiB or 8GiB",
                               text);
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcasecmp(end, units[i].suffix) != 0)
            continue;
        double value = number * units[i].factor;
        if (value >= 0x1p63)
            return caloris_err_set(err, CALORIS_USAGE, "size %.80s is too large", text);
        *bytes = (uint64_t)value;
        return 0;
    }
    return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is not a size like 512MiB or 8GiB", text);
}

const char *caloris_size_text(uint64_t bytes, char text[CALORIS_SIZE_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(text, CALORIS_SIZE_TEXT, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

void caloris_size_deal(size_t total, size_t parts, size_t index, size_t *first, size_t *count)
{
    size_t share = total / parts;
    size_t rest = total % parts;
    *count = share + (index < rest ? 1 : 0);
    *first = index * share + (index < rest ? index : rest);
}
