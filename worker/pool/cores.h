/* worker/pool/cores.h: which core is whose. Inside this folder only. */
#ifndef CALORIS_POOL_CORES_H
#define CALORIS_POOL_CORES_H

#include <sched.h>
#include <stddef.h>

/* The cores that the calling thread may run on, each as the set of its hardware threads: the first
 * `most` of them into core. Returns how many there are; 0 when hwloc does not know this machine (or
 * describes another one). */
size_t caloris_pool_list_cores(cpu_set_t *core, size_t most);

#endif
