#include "worker/pool/cores.h"

#include "worker/pool/pool.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>

/* The topology of this machine and what the calling thread may use of it. */
struct view {
    hwloc_topology_t topology;
    hwloc_cpuset_t usable;
};

static void close_view(struct view *view)
{
    hwloc_bitmap_free(view->usable);
    if (view->topology)
        hwloc_topology_destroy(view->topology);
}

static int open_view(struct view *view)
{
    *view = (struct view){0};
    if (hwloc_topology_init(&view->topology) < 0) {
        view->topology = NULL;
        return -1;
    }
    view->usable = hwloc_bitmap_alloc();
    if (!view->usable || hwloc_topology_load(view->topology) < 0) {
        close_view(view);
        return -1;
    }
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(view->topology);
    /* Of this thread: libraries start others that are bound as they like. */
    if (hwloc_get_cpubind(view->topology, view->usable, HWLOC_CPUBIND_THREAD) < 0)
        hwloc_bitmap_copy(view->usable, allowed);
    hwloc_bitmap_and(view->usable, view->usable, allowed);
    return 0;
}

/* The next core that holds a usable hardware thread: two hardware threads of a core share its
 * arithmetic. */
static hwloc_obj_t next_core(const struct view *view, hwloc_obj_t core)
{
    do {
        core = hwloc_get_next_obj_by_type(view->topology, HWLOC_OBJ_CORE, core);
    } while (core && !hwloc_bitmap_intersects(core->cpuset, view->usable));
    return core;
}

size_t caloris_pool_list_cores(cpu_set_t *core, size_t most)
{
    struct view view;
    size_t count = 0;
    if (open_view(&view) < 0)
        return 0;
    hwloc_cpuset_t mine = hwloc_bitmap_alloc();
    hwloc_obj_t found = NULL;
    while (mine && hwloc_topology_is_thissystem(view.topology) &&
           (found = next_core(&view, found))) {
        hwloc_bitmap_and(mine, found->cpuset, view.usable);
        if (count < most)
            hwloc_cpuset_to_glibc_sched_affinity(view.topology, mine, &core[count],
                                                 sizeof(core[count]));
        count++;
    }
    hwloc_bitmap_free(mine);
    close_view(&view);
    return count;
}

static int cores_by_hwloc(void)
{
    struct view view;
    int cores = 0;
    if (open_view(&view) < 0)
        return 0;
    for (hwloc_obj_t core = next_core(&view, NULL); core; core = next_core(&view, core))
        cores++;
    if (cores == 0) /* a machine that tells of hardware threads only */
        cores = hwloc_bitmap_weight(view.usable);
    close_view(&view);
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
