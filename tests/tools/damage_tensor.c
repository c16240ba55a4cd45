/* damage_tensor FILE TENSOR shape N… | offsets FIRST END | dtype NAME: changes what the header of a
 * safetensors file says of one tensor, and nothing else of the file.
 * damage_tensor FILE TENSOR remove: makes it a good file without that tensor. */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *numbers(char **texts, int n)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(array, json_integer(strtoll(texts[i], NULL, 10)));
    return array;
}

struct content {
    json_t *header;
    char *data;
    size_t size;
};

/* The tensor's bytes go, and what stands behind them moves up. */
static int remove_tensor(struct content *content, const char *tensor)
{
    json_int_t first, end, other_first, other_end;
    if (json_unpack(json_object_get(content->header, tensor), "{s:[I,I]}", "data_offsets", &first,
                    &end) < 0 ||
        first > end || (size_t)end > content->size)
        return -1;
    memmove(content->data + first, content->data + end, content->size - (size_t)end);
    content->size -= (size_t)(end - first);
    json_object_del(content->header, tensor);
    const char *name;
    json_t *other;
    json_object_foreach(content->header, name, other)
    {
        if (json_unpack(other, "{s:[I,I]}", "data_offsets", &other_first, &other_end) == 0 &&
            other_first >= end)
            json_object_set_new(
                other, "data_offsets",
                json_pack("[I,I]", other_first - (end - first), other_end - (end - first)));
    }
    return 0;
}

static int damage(struct content *content, const char *tensor, char **action, int n)
{
    json_t *entry = json_object_get(content->header, tensor);
    if (!entry)
        return -1;
    if (strcmp(action[0], "remove") == 0)
        return remove_tensor(content, tensor);
    if (strcmp(action[0], "dtype") == 0 && n == 2)
        return json_object_set_new(entry, "dtype", json_string(action[1]));
    if (strcmp(action[0], "shape") == 0)
        return json_object_set_new(entry, "shape", numbers(action + 1, n - 1));
    if (strcmp(action[0], "offsets") == 0 && n == 3)
        return json_object_set_new(entry, "data_offsets", numbers(action + 1, 2));
    return -1;
}

static char *read_all(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        return NULL;
    *size = (size_t)ftell(file);
    char *bytes = malloc(*size);
    rewind(file);
    if (!bytes || fread(bytes, 1, *size, file) != *size)
        return NULL;
    fclose(file);
    return bytes;
}

static int write_all(const char *path, const struct content *content)
{
    char *text = json_dumps(content->header, JSON_COMPACT);
    const uint64_t length = strlen(text); /* little-endian, as all machines we know */
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(&length, sizeof(length), 1, file) != 1 ||
        fwrite(text, 1, length, file) != length ||
        fwrite(content->data, 1, content->size, file) != content->size)
        return -1;
    free(text);
    return fclose(file);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "damage_tensor FILE TENSOR remove | shape N… | offsets FIRST END | "
                        "dtype NAME\n");
        return 2;
    }
    size_t size;
    uint64_t length;
    char *bytes = read_all(argv[1], &size);
    if (!bytes || size < sizeof(length)) {
        perror(argv[1]);
        return 2;
    }
    memcpy(&length, bytes, sizeof(length));
    const size_t data = sizeof(length) + length;
    struct content content = {NULL, bytes + data, size - data};
    if (data <= size)
        content.header = json_loadb(bytes + sizeof(length), length, 0, NULL);
    int rc = content.header ? damage(&content, argv[2], argv + 3, argc - 3) : -1;
    if (rc == 0)
        rc = write_all(argv[1], &content);
    if (rc != 0)
        fprintf(stderr, "%s: %s not damaged\n", argv[1], argv[2]);
    json_decref(content.header);
    free(bytes);
    return rc == 0 ? 0 : 1;
}
