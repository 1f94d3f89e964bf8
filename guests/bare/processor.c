/*
 * A guest that asks the processor about itself: every exception with its error code, paging in all its forms, the way
 * to ring 3 and back, single-stepping, debug registers and code that changes itself. What it prints is the same on
 * every processor; `processor.expected` is the transcript. With the word `gentle`
 * it leaves out what emulators that take such things on trust do not survive.
 */
#include "pages.h"
#include "processor.h"

int gentle;

void guest_main(u32 *info)
{
    const char *words = info[0] & 4 ? (const char *)(u64)info[4] : "";
    for (; *words; words++)
        gentle |= words[0] == 'g' && words[1] == 'e' && words[2] == 'n';
    traps_init();
    exceptions();
    paging();
    ring3_init();
    ring3();
    debugging();
    self_modifying();
    put("-- end\n");
    leave(0);
}
