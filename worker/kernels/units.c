/* Units of packed matrices: from memory to shard files and back. Numbers are moved, never made
 * anew, so what is loaded is bit for bit what was packed.
 *
 * A unit is made of atoms: what stands for the fewest numbers of a row that can be moved by
 * themselves, of 16 outputs next to each other. BF16, INT8: a group, a line of 64 bytes in memory
 * and in a unit. INT4: a run; in memory a byte of each output in the line of runs and two lines of
 * groups, in a unit these 16 bytes and the two lines behind them. */
#include "worker/kernels/panels.h"

#include "base/size.h"

#include <string.h>

enum { RUN_LINES = RUN_GROUPS / 2, RUN_BYTES = PANEL_OUTS + RUN_LINES * LINE_BYTES };

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Numbers of a row in an atom; bytes of an atom of 16 outputs in a unit. */
static size_t atom_numbers(enum caloris_format format)
{
    return format == CALORIS_FORMAT_INT4 ? RUN : caloris_group_numbers(format);
}

static size_t atom_bytes(enum caloris_format format)
{
    return format == CALORIS_FORMAT_INT4 ? RUN_BYTES : LINE_BYTES;
}

size_t caloris_unit_bytes(enum caloris_format format, size_t out, size_t in)
{
    const bool rows = format == CALORIS_FORMAT_FP32;
    const size_t down = rows ? out : caloris_size_ceil_div(out, PANEL_OUTS);
    const size_t across = rows ? in : caloris_size_ceil_div(in, atom_numbers(format));
    size_t atoms, bytes;
    if (!caloris_size_mul(down, across, &atoms) ||
        !caloris_size_mul(atoms, rows ? sizeof(float) : atom_bytes(format), &bytes))
        return SIZE_MAX;
    return caloris_size_round_up(bytes, LINE_BYTES);
}

/* ---- fp32 ------------------------------------------------------------------------------------ */

static void copy_rows(const float *from, size_t from_stride, float *to, size_t to_stride,
                      size_t rows, size_t cols)
{
    if (from_stride == cols && to_stride == cols) {
        memcpy(to, from, rows * cols * sizeof(float));
        return;
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, cols * sizeof(float));
}

/* ---- where numbers stand --------------------------------------------------------------------- */

/* Panels in memory or in a unit. */
struct grid {
    enum caloris_format format;
    bool unit;
    unsigned char *base; /* behind the start of the first panel */
    size_t panel_bytes;
    size_t out, in; /* of all numbers */
};

static struct grid grid_of_matrix(const struct caloris_matrix *matrix)
{
    return (struct grid){
        .format = matrix->format,
        .base = (unsigned char *)matrix->data + LINE_BYTES,
        .panel_bytes = caloris_panel_bytes(matrix->format, matrix->in),
        .out = matrix->out,
        .in = matrix->in,
    };
}

static struct grid grid_of_unit(enum caloris_format format, size_t out, size_t in, void *unit)
{
    return (struct grid){
        .format = format,
        .unit = true,
        .base = unit,
        .panel_bytes = caloris_size_ceil_div(in, atom_numbers(format)) * atom_bytes(format),
        .out = out,
        .in = in,
    };
}

/* What stands for an output in an atom. */
struct atom {
    unsigned char *groups; /* 4 bytes; INT4: 4 in each of two lines */
    unsigned char *run;    /* INT4 */
};

static struct atom atom_at(const struct grid *grid, size_t out, size_t atom)
{
    unsigned char *panel = grid->base + out / PANEL_OUTS * grid->panel_bytes;
    const size_t lane = out % PANEL_OUTS, runs = BLOCK_GROUPS / RUN_GROUPS;
    if (grid->format != CALORIS_FORMAT_INT4)
        return (struct atom){panel + atom * LINE_BYTES + lane * GROUP_BYTES, NULL};
    if (grid->unit) {
        unsigned char *run = panel + atom * RUN_BYTES;
        return (struct atom){run + PANEL_OUTS + lane * GROUP_BYTES, run + lane};
    }
    unsigned char *block = panel + atom / runs * INT4_BLOCK_BYTES + lane * GROUP_BYTES;
    return (struct atom){block + LINE_BYTES + atom % runs * RUN_LINES * LINE_BYTES,
                         block + atom % runs};
}

/* ---- moving them ----------------------------------------------------------------------------- */

/* A rectangle of numbers, at [out, in] of either grid; at most PANEL_OUTS outputs. */
struct rectangle {
    size_t from_out, from_in, to_out, to_in;
    size_t outs, ins;
};

static void copy_runs(const struct grid *from, const struct grid *to, const struct rectangle *r)
{
    for (size_t i = 0; i < r->ins; i += RUN) {
        for (size_t o = 0; o < r->outs; o++) {
            const struct atom source = atom_at(from, r->from_out + o, (r->from_in + i) / RUN);
            const struct atom target = atom_at(to, r->to_out + o, (r->to_in + i) / RUN);
            *target.run = *source.run;
            for (size_t line = 0; line < RUN_LINES; line++)
                memcpy(target.groups + line * LINE_BYTES, source.groups + line * LINE_BYTES,
                       GROUP_BYTES);
        }
    }
}

/* Output by output: 4 bytes at a time where groups stand alike in both, else number by number. */
static void copy_outputs(const struct grid *from, const struct grid *to, const struct rectangle *r)
{
    const size_t each = atom_numbers(from->format), number_bytes = GROUP_BYTES / each;
    const bool alike = r->from_in % each == 0 && r->to_in % each == 0;
    const size_t groups = alike ? r->ins / each : 0;
    for (size_t o = 0; o < r->outs; o++) {
        const unsigned char *source = atom_at(from, r->from_out + o, r->from_in / each).groups;
        unsigned char *target = atom_at(to, r->to_out + o, r->to_in / each).groups;
        for (size_t g = 0; g < groups; g++)
            memcpy(target + g * LINE_BYTES, source + g * LINE_BYTES, GROUP_BYTES);
        for (size_t i = groups * each; i < r->ins; i++) {
            const size_t a = r->from_in + i, b = r->to_in + i;
            memcpy(atom_at(to, r->to_out + o, b / each).groups + b % each * number_bytes,
                   atom_at(from, r->from_out + o, a / each).groups + a % each * number_bytes,
                   number_bytes);
        }
    }
}

/* Whether no number but those of the rectangle stands in the lines that it covers in this grid. */
static bool owns_lines(const struct grid *grid, size_t out, size_t in, const struct rectangle *r)
{
    const size_t each = atom_numbers(grid->format);
    return out % PANEL_OUTS == 0 && in % each == 0 &&
           (r->outs == PANEL_OUTS || out + r->outs == grid->out) &&
           (r->ins % each == 0 || in + r->ins == grid->in);
}

static void copy_rectangle(const struct grid *from, const struct grid *to,
                           const struct rectangle *r)
{
    const size_t each = atom_numbers(from->format);
    if (from->format == CALORIS_FORMAT_INT4)
        copy_runs(from, to, r);
    else if (owns_lines(from, r->from_out, r->from_in, r) && owns_lines(to, r->to_out, r->to_in, r))
        memcpy(atom_at(to, r->to_out, r->to_in / each).groups,
               atom_at(from, r->from_out, r->from_in / each).groups,
               caloris_size_ceil_div(r->ins, each) * LINE_BYTES);
    else
        copy_outputs(from, to, r);
}

/* ---- starts of sums -------------------------------------------------------------------------- */

/* sums[o] += the numbers of output o in n lines. Numbers + 128 are added two to a word; 16 bits
 * hold those of 128 lines. */
static void add_int8(const unsigned char *line, size_t n, int32_t sums[PANEL_OUTS])
{
    enum { AT_ONCE = 128 };
    for (size_t first = 0; first < n; first += AT_ONCE) {
        const size_t lines = min(AT_ONCE, n - first);
        uint32_t pairs[PANEL_OUTS] = {0};
        for (size_t i = 0; i < lines; i++, line += LINE_BYTES) {
            uint32_t words[PANEL_OUTS];
            memcpy(words, line, LINE_BYTES);
            for (size_t o = 0; o < PANEL_OUTS; o++) {
                const uint32_t word = words[o] ^ 0x80808080u;
                pairs[o] += (word & 0x00ff00ffu) + (word >> 8 & 0x00ff00ffu);
            }
        }
        for (size_t o = 0; o < PANEL_OUTS; o++)
            sums[o] += (int32_t)((pairs[o] & 0xffff) + (pairs[o] >> 16)) - (int32_t)(512 * lines);
    }
}

/* Of a run it is step * (Σ u - 16 zero). */
static void add_int4(const unsigned char *atom, size_t n, int32_t sums[PANEL_OUTS])
{
    for (size_t i = 0; i < n; i++, atom += RUN_BYTES) {
        uint32_t words[RUN_LINES][PANEL_OUTS];
        memcpy(words, atom + PANEL_OUTS, sizeof(words));
        for (size_t o = 0; o < PANEL_OUTS; o++) {
            uint32_t bytes = 0;
            for (size_t line = 0; line < RUN_LINES; line++)
                bytes += (words[line][o] & 0x0f0f0f0fu) + (words[line][o] >> 4 & 0x0f0f0f0fu);
            const int32_t all = (int32_t)(bytes * 0x01010101u >> 24);
            const int32_t zero = atom[o] >> 4, step = (atom[o] & 15) + 1;
            sums[o] += (all - RUN * zero) * step;
        }
    }
}

/* What sums of these outputs start from makes up for rows being stored as q + 128. Other threads
 * may be putting other columns. */
static void add_starts(struct caloris_matrix *matrix, size_t out, size_t outs,
                       const int32_t sums[PANEL_OUTS])
{
    const size_t panel_bytes = caloris_panel_bytes(matrix->format, matrix->in);
    for (size_t o = 0; o < outs; o++) {
        char *panel = (char *)matrix->data + (out + o) / PANEL_OUTS * panel_bytes;
        int32_t *start = (int32_t *)(void *)(panel + (out + o) % PANEL_OUTS * GROUP_BYTES);
        __atomic_fetch_sub(start, ROW_OFFSET * sums[o], __ATOMIC_RELAXED);
    }
}

/* ---- the door -------------------------------------------------------------------------------- */

void caloris_unit_get(const struct caloris_matrix *matrix, size_t out_first, size_t in_first,
                      size_t out, size_t in, void *to)
{
    memset(to, 0, caloris_unit_bytes(matrix->format, out, in));
    if (matrix->format == CALORIS_FORMAT_FP32) {
        copy_rows((const float *)matrix->data + out_first * matrix->in + in_first, matrix->in, to,
                  in, out, in);
        return;
    }
    const struct grid from = grid_of_matrix(matrix);
    const struct grid unit = grid_of_unit(matrix->format, out, in, to);
    for (size_t o = 0; o < out; o += PANEL_OUTS) {
        const size_t outs = min(PANEL_OUTS, out - o);
        copy_rectangle(&from, &unit, &(struct rectangle){out_first + o, in_first, o, 0, outs, in});
    }
}

void caloris_unit_put(struct caloris_matrix *matrix, size_t out_first, size_t in_first,
                      size_t out_step, size_t in_step, size_t n, size_t out, size_t in,
                      const void *from)
{
    const enum caloris_format format = matrix->format;
    const size_t unit_bytes = caloris_unit_bytes(format, out, in);
    const size_t atoms = caloris_size_ceil_div(in, atom_numbers(format));
    unsigned char *units = (unsigned char *)(uintptr_t)from;
    if (format == CALORIS_FORMAT_FP32) {
        float *to = (float *)matrix->data + out_first * matrix->in + in_first;
        for (size_t i = 0; i < n; i++)
            copy_rows((const float *)(const void *)(units + i * unit_bytes), in,
                      to + i * (out_step * matrix->in + in_step), matrix->in, out, in);
        return;
    }
    const struct grid to = grid_of_matrix(matrix);
    for (size_t o = 0; o < out; o += PANEL_OUTS) {
        const size_t outs = min(PANEL_OUTS, out - o);
        int32_t sums[PANEL_OUTS] = {0};
        for (size_t i = 0; i < n; i++) {
            const struct grid unit = grid_of_unit(format, out, in, units + i * unit_bytes);
            const unsigned char *panel = unit.base + o / PANEL_OUTS * unit.panel_bytes;
            const size_t to_out = out_first + i * out_step + o;
            copy_rectangle(&unit, &to,
                           &(struct rectangle){o, 0, to_out, in_first + i * in_step, outs, in});
            if (!caloris_format_scaled(format))
                continue;
            if (format == CALORIS_FORMAT_INT8)
                add_int8(panel, atoms, sums);
            else
                add_int4(panel, atoms, sums);
            if (out_step == 0 && i + 1 < n)
                continue; /* the next one adds to the same outputs */
            add_starts(matrix, to_out, outs, sums);
            memset(sums, 0, sizeof(sums));
        }
    }
}

void caloris_matrix_read(const struct caloris_matrix *matrix, size_t first, size_t n, float *to)
{
    const size_t in = matrix->in;
    if (matrix->format == CALORIS_FORMAT_FP32) {
        memcpy(to, (const float *)matrix->data + first * in, n * in * sizeof(float));
        return;
    }
    const struct grid grid = grid_of_matrix(matrix);
    const size_t each = atom_numbers(matrix->format);
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < in; i++) {
            const struct atom atom = atom_at(&grid, first + r, i / each);
            const size_t at = i % each, group = at / GROUP_BYTES;
            float *number = &to[r * in + i];
            if (matrix->format == CALORIS_FORMAT_BF16) {
                uint16_t half;
                memcpy(&half, atom.groups + at * sizeof(half), sizeof(half));
                caloris_convert_to_f32(CALORIS_DTYPE_BF16, &half, number, 1);
                continue;
            }
            int q;
            if (matrix->format == CALORIS_FORMAT_INT8) {
                q = (int8_t)atom.groups[at];
            } else {
                const int byte = atom.groups[group / 2 * LINE_BYTES + at % GROUP_BYTES];
                q = caloris_int4_number(*atom.run, group % 2 ? byte >> 4 : byte & 15);
            }
            *number = (float)q * matrix->scale[first + r];
        }
    }
}
