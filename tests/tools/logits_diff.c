/* logits_diff FOUND TOLERANCE EXPECTED…: holds a file of raw fp32 numbers against others that
 * follow one another. Fails when a number is off by more, is none, or when there are more or
 * fewer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double worst;
static size_t numbers;

/* All of path against what comes next in found; false and a line on a difference. */
static int compare(FILE *found, const char *path, double tolerance)
{
    float x, y;
    size_t at = 0;
    FILE *expected = fopen(path, "rb");
    if (!expected) {
        perror(path);
        return -1;
    }
    int rc = 0;
    for (; rc == 0 && fread(&x, sizeof(x), 1, expected) == 1; at++) {
        if (fread(&y, sizeof(y), 1, found) != 1) {
            printf("%s: only %zu numbers found\n", path, at);
            rc = -1;
            break;
        }
        const double off = fabs((double)x - (double)y);
        if (!(off <= tolerance)) {
            printf("%s: number %zu is %g, expected %g\n", path, at, (double)y, (double)x);
            rc = -1;
        }
        worst = off > worst ? off : worst;
    }
    if (rc == 0 && at == 0) {
        printf("%s: empty\n", path);
        rc = -1;
    }
    numbers += at;
    fclose(expected);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "logits_diff FOUND TOLERANCE EXPECTED…\n");
        return 2;
    }
    FILE *found = fopen(argv[1], "rb");
    if (!found) {
        perror(argv[1]);
        return 2;
    }
    const double tolerance = strtod(argv[2], NULL);
    int rc = 0;
    for (int i = 3; i < argc && rc == 0; i++)
        rc = compare(found, argv[i], tolerance);
    if (rc == 0 && getc(found) != EOF) {
        printf("%s: more than %zu numbers\n", argv[1], numbers);
        rc = -1;
    }
    if (rc == 0)
        printf("%zu numbers, off by at most %.2g\n", numbers, worst);
    fclose(found);
    return rc < 0 ? 1 : 0;
}
