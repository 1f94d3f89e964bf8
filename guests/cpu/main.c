/*
 * Runs every work some times and says the shortest of its times: a line "cpu CLASS NAME NANOSECONDS VALUE" for each.
 *
 * On the host it is a program; in a guest it is the first process, makes the little of a system that its works need, and
 * powers off. Its words: where the dynamic leaf is, and then the names of works, or none for all of them.
 */
#include "cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Times that each work is run: the first one also warms everything. */
#define RUNS 3

const char *static_leaf, *dynamic_leaf;

static int is_init(void)
{
    return getpid() == 1;
}

void die(const char *what)
{
    printf("cpu failed: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    if (is_init()) {
        sleep(1);
        reboot(RB_POWER_OFF);
    }
    _exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0)
        die("read the clock");
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void measure(const char *class, const struct work *work)
{
    uint64_t shortest = UINT64_MAX, value = 0;
    if (work->is_possible && !work->is_possible()) {
        printf("cpu %s %s - -\n", class, work->name);
        return;
    }
    for (int run = 0; run < RUNS; run++) {
        uint64_t start = now(), said = work->run(), time = now() - start;
        if (run > 0 && said != value)
            die(work->name);
        value = said;
        shortest = time < shortest ? time : shortest;
    }
    printf("cpu %s %s %llu %016llx\n", class, work->name, (unsigned long long)shortest, (unsigned long long)value);
    fflush(stdout);
}

static int is_wanted(const char *name, int count, char **words)
{
    for (int n = 0; n < count; n++)
        if (strcmp(words[n], name) == 0)
            return 1;
    return count == 0;
}

static void make_system(void)
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0755);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("tmp", "/tmp", "tmpfs", 0, NULL) != 0)
        die("mount what works need");
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "leaf") == 0)
        return 0;
    if (count < 2)
        die("the first word is the path of the dynamic leaf");
    dynamic_leaf = words[1];
    if (is_init())
        make_system();
    static_leaf = "/proc/self/exe";
    for (const struct work *work = user_works; work->name; work++)
        if (is_wanted(work->name, count - 2, words + 2))
            measure("user", work);
    for (const struct work *work = system_works; work->name; work++)
        if (is_wanted(work->name, count - 2, words + 2))
            measure("system", work);
    printf("cpu done\n");
    fflush(stdout);
    if (is_init()) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return 0;
}
