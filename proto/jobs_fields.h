/* proto/jobs_fields.h: the table of fields at work; inside proto only. */
#ifndef CALORIS_JOBS_FIELDS_H
#define CALORIS_JOBS_FIELDS_H

#include "proto/jobs.h"

enum { CALORIS_JOB_QUOTE = 72 };

/* A value, or a name, as shortened JSON for error texts, so that nothing of a job gets into a
 * log line raw. Returns text. */
const char *caloris_job_quote(const json_t *value, char text[CALORIS_JOB_QUOTE]);
const char *caloris_job_quote_name(const char *name, char text[CALORIS_JOB_QUOTE]);

/* NULL when there is no such field. */
const struct caloris_job_field *caloris_job_field_find(const char *name);

/* The defaults of the table alone, without a preset's fields. */
void caloris_job_params_plain(struct caloris_job_params *params);

/* Sets a field to a default, which needs no check. */
void caloris_job_field_default(const struct caloris_job_field *field, const char *text,
                               struct caloris_job_params *params);

/* Checks value; what is no text goes into params. */
int caloris_job_field_read(const struct caloris_job_field *field, const json_t *value,
                           struct caloris_job_params *params, struct caloris_err *err);

#endif
