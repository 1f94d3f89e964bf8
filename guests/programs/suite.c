/* `suite`: runs every program, or those named on the command line. */
#include "suite.h"

static const char *self;
static void all_processes(void) { processes(self); }

static const struct {
    const char *name;
    void (*run)(void);
} programs[] = {
    { "integers", integers }, { "floats", floats }, { "x87", x87 }, { "vectors", vectors }, { "strings", strings },
    { "signals", signals }, { "threads", threads }, { "processes", all_processes }, { "mappings", mappings },
    { "self-modifying", self_modifying }, { "steps", steps }, { "narrow", narrow },
};

int main(int count, char **words)
{
    self = words[0];
    if (count == 3 && !strcmp(words[1], "child")) {
        printf("child says %s\n", words[2]);
        return atoi(words[2]);
    }
    for (size_t index = 0; index < sizeof programs / sizeof *programs; index++) {
        int wanted = count == 1;
        for (int word = 1; word < count; word++)
            wanted |= !strcmp(words[word], programs[index].name);
        if (!wanted)
            continue;
        printf("-- %s\n", programs[index].name);
        programs[index].run();
        fflush(stdout);
    }
    puts("-- end");
    return 0;
}
