/*
 * A guest that asks the processor about itself: every exception with its error code, paging in all its forms, the way
 * to ring 3 and back, single-stepping, debug registers and code that changes itself. What it prints is the same on
 * every processor; `processor.expected` is the transcript.
 */
#include "pages.h"
#include "processor.h"

void guest_main(void)
{
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
