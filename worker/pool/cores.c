#include "worker/pool/pool.h"

#include <hwloc.h>
#include <sched.h>

/* Cores that hold at least one hardware thread of set: two hardware threads of a core share its
 * arithmetic. */
static int count_cores(hwloc_topology_t topology, hwloc_const_cpuset_t set)
{
    int cores = 0;
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)))
        cores += hwloc_bitmap_intersects(core->cpuset, set);
    return cores > 0 ? cores : hwloc_bitmap_weight(set);
}

static int cores_by_hwloc(void)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) < 0)
        return 0;
    int cores = 0;
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    if (set && hwloc_topology_load(topology) == 0) {
        /* Of this thread: libraries start others that are bound as they like. */
        if (hwloc_get_cpubind(topology, set, HWLOC_CPUBIND_THREAD) < 0)
            hwloc_bitmap_copy(set, hwloc_topology_get_allowed_cpuset(topology));
        hwloc_bitmap_and(set, set, hwloc_topology_get_allowed_cpuset(topology));
        cores = count_cores(topology, set);
    }
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(topology);
    return cores;
}

static int cores_by_affinity(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

int caloris_pool_cores(int neighbours)
{
    int cores = cores_by_hwloc();
    if (cores < 1)
        cores = cores_by_affinity();
    if (neighbours > 1)
        cores /= neighbours;
    return cores > 0 ? cores : 1;
}
