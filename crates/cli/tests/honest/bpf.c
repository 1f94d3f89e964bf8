/* Loads BPF programs that do nothing, and attaches them: to the entries and exits of kernel functions, whose numbers in
 * the kernel's type information are the arguments, and to a socket. They run for a while and go.
 */
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <fcntl.h>
#include <unistd.h>

static char log_text[65536];

static int bpf(int command, union bpf_attr *attributes) {
    return (int)syscall(__NR_bpf, command, attributes, sizeof *attributes);
}

static int load(enum bpf_prog_type type, int attach_type, unsigned function) {
    struct bpf_insn code[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = type;
    a.insns = (uintptr_t)code;
    a.insn_cnt = 2;
    a.license = (uintptr_t) "GPL";
    a.log_buf = (uintptr_t)log_text;
    a.log_size = sizeof log_text;
    a.log_level = 1;
    a.expected_attach_type = attach_type;
    a.attach_btf_id = function;
    int program = bpf(BPF_PROG_LOAD, &a);
    if (program < 0) {
        perror("load");
        puts(log_text);
        exit(1);
    }
    return program;
}

static void attach(int program) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.raw_tracepoint.prog_fd = program;
    if (bpf(BPF_RAW_TRACEPOINT_OPEN, &a) < 0) {
        perror("attach");
        exit(1);
    }
}

int main(int count, char **words) {
    for (int n = 1; n < count; n++) {
        unsigned function = (unsigned)strtoul(words[n], 0, 10);
        attach(load(BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, function));
        attach(load(BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT, function));
    }
    int pair[2], filter = load(BPF_PROG_TYPE_SOCKET_FILTER, 0, 0);
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) || setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_BPF, &filter, sizeof filter)) {
        perror("socket");
        return 1;
    }
    for (int n = 0; n < 30; n++) {
        int file = open("/etc/passwd", O_RDONLY);
        if (read(file, log_text, 100) < 0 || write(pair[0], "x", 1) < 0)
            return 1;
        close(file);
        usleep(100000);
    }
    return 0;
}
