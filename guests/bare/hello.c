/* The smallest guest: a line on the serial console, then out through the debug-exit port. */
#include "console.h"

void guest_main(void)
{
    put("hello from ring 0\n");
    leave(0x10);
}
