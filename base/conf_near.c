#include "base/conf_impl.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST = 64 };

/* Case and the two dashes are no difference. */
static int fold(char c)
{
    return c == '_' ? '-' : tolower((unsigned char)c);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many letters must be changed, added, dropped or swapped with their neighbour to make a into b
 * (optimal string alignment). Longer words are not compared. */
static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    size_t rows[3][LONGEST + 1]; /* the last three rows of the table, [letters of b + 1] each */
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= m; j++)
        last[j] = j;
    for (size_t i = 1; i <= n; i++) {
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t change = last[j - 1] + (fold(a[i - 1]) == fold(b[j - 1]) ? 0 : 1);
            now[j] = least(change, least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) &&
                fold(a[i - 2]) == fold(b[j - 1]))
                now[j] = least(now[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = last;
        last = now;
        now = oldest;
    }
    return last[m];
}

void conf_near_offer(struct conf_near *near, const char *word)
{
    size_t d = distance(near->typed, word);
    if (!near->best || d < near->distance) {
        near->best = word;
        near->distance = d;
    }
}

const char *conf_near_hint(const struct conf_near *near, const char *prefix,
                           char hint[CONF_HINT_BYTES])
{
    hint[0] = '\0';
    /* One slip in three letters is a slip; more is another word. */
    if (near->best && near->distance <= strlen(near->typed) / 3 + (near->distance <= 1))
        snprintf(hint, CONF_HINT_BYTES, "; did you mean %s%s?", prefix, near->best);
    return hint;
}
