/* The parts of the processor guest. */
#ifndef PROCESSOR_H
#define PROCESSOR_H

#include "trap.h"

/* Whether the command line says `gentle`. */
extern int gentle;

void exceptions(void);
void paging(void);
void ring3(void);
void debugging(void);
void self_modifying(void);

/* Ring-3 memory: a page for code, two for data and stack, mapped by `ring3_init`. */
#define USER_CODE 0x5000000000ul
#define USER_DATA 0x5000010000ul
#define USER_STACK (USER_DATA + 0x2000 - 0x100)
void ring3_init(void);
/* Runs code in ring 3 until it faults or says `int $0x40`; the end is in `trap`. */
void run_user(const char *from, const char *to, u64 cs, u64 rflags);

#endif
