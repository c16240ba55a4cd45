/* A configuration file, for a program with one option of each type. */
#include <string.h>

#include "base/conf.h"
#include "base/err.h"
#include "tests/fuzz/fuzz.h"

struct values {
    bool flag;
    int64_t integer, choice;
    double real;
    uint64_t size, duration;
    char *text;
};

#define AT(field) offsetof(struct values, field)

static const struct caloris_option options[] = {
    {.name = "flag", .type = CALORIS_OPTION_FLAG, .offset = AT(flag), .help = "f"},
    {.name = "integer",
     .type = CALORIS_OPTION_INT,
     .offset = AT(integer),
     .default_text = "1",
     .min = 0,
     .max = 9,
     .argument = "N",
     .help = "i"},
    {.name = "choice",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(choice),
     .default_text = "a",
     .choices = "a|b",
     .argument = "X",
     .help = "c"},
    {.name = "real",
     .type = CALORIS_OPTION_REAL,
     .offset = AT(real),
     .default_text = "0.5",
     .argument = "R",
     .help = "r"},
    {.name = "size",
     .type = CALORIS_OPTION_SIZE,
     .offset = AT(size),
     .default_text = "1GiB",
     .argument = "S",
     .help = "s"},
    {.name = "duration",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(duration),
     .default_text = "1s",
     .argument = "D",
     .help = "d"},
    {.name = "some-text",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(text),
     .argument = "T",
     .help = "t"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct caloris_program program = {.name = "fuzz",
                                                   .group = "fuzz",
                                                   .usage = "fuzz",
                                                   .about = "A program.",
                                                   .options = options,
                                                   .n_options = sizeof options / sizeof options[0]};
    struct values values = {0};
    struct caloris_conf *conf;
    struct caloris_err err;
    char name[] = "fuzz", flag[] = "--config", path[256];
    char *argv[] = {name, flag, path, NULL};
    bool done;

    /* What @include reads are files of the machine: another test's matter. */
    if (size && memmem(data, size, "@include", 8))
        return 0;
    strcpy(path, fuzz_file("caloris.conf", data, size));
    conf = caloris_conf_load(&program, 3, argv, &values, NULL, &done, &err);
    caloris_conf_free(conf);
    return 0;
}
