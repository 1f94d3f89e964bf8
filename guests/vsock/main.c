/* A guest's end of vsock connections.
 *
 *   vsock echo PORT          takes connections one after another and sends everything back; says when it listens
 *   vsock send PORT BYTES    connects to the host, sends so many bytes that count up, and says what came back
 *   vsock pipe PORT          connects to the host and sends what comes on standard input
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

enum { PIECE = 65536 };
static uint8_t bytes[PIECE];

static int fail(const char *what) {
    perror(what);
    return 1;
}

static struct sockaddr_vm address(unsigned cid, unsigned port) {
    struct sockaddr_vm a;
    memset(&a, 0, sizeof a);
    a.svm_family = AF_VSOCK;
    a.svm_cid = cid;
    a.svm_port = port;
    return a;
}

static int send_all(int to, const uint8_t *from, size_t count) {
    while (count > 0) {
        ssize_t done = write(to, from, count);
        if (done <= 0)
            return -1;
        from += done;
        count -= (size_t)done;
    }
    return 0;
}

static int echo(unsigned port) {
    struct sockaddr_vm here = address(VMADDR_CID_ANY, port);
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 8) < 0)
        return fail("listen");
    puts("listening");
    fflush(stdout);
    for (;;) {
        int peer = accept(listener, 0, 0);
        if (peer < 0)
            return fail("accept");
        ssize_t count;
        while ((count = read(peer, bytes, PIECE)) > 0)
            if (send_all(peer, bytes, (size_t)count) < 0)
                break;
        close(peer);
    }
}

static int send_and_count(unsigned port, unsigned long total) {
    struct sockaddr_vm host = address(VMADDR_CID_HOST, port);
    int peer = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (peer < 0 || connect(peer, (struct sockaddr *)&host, sizeof host) < 0)
        return fail("connect");
    for (unsigned long sent = 0; sent < total;) {
        size_t count = total - sent < PIECE ? total - sent : PIECE;
        for (size_t n = 0; n < count; n++)
            bytes[n] = (uint8_t)((sent + n) % 251);
        if (send_all(peer, bytes, count) < 0)
            return fail("send");
        sent += count;
    }
    shutdown(peer, SHUT_WR);
    unsigned long came = 0, wrong = 0;
    ssize_t count;
    while ((count = read(peer, bytes, PIECE)) > 0) {
        for (ssize_t n = 0; n < count; n++)
            wrong += bytes[n] != (uint8_t)((came + (unsigned long)n) % 251);
        came += (unsigned long)count;
    }
    printf("came %lu wrong %lu\n", came, wrong);
    return count < 0 ? fail("receive") : 0;
}

static int pipe_to_host(unsigned port) {
    struct sockaddr_vm host = address(VMADDR_CID_HOST, port);
    int peer = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (peer < 0 || connect(peer, (struct sockaddr *)&host, sizeof host) < 0)
        return fail("connect");
    ssize_t count;
    while ((count = read(0, bytes, PIECE)) > 0)
        if (send_all(peer, bytes, (size_t)count) < 0)
            return fail("send");
    return 0;
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "echo"))
        return echo((unsigned)atoi(words[2]));
    if (count == 4 && !strcmp(words[1], "send"))
        return send_and_count((unsigned)atoi(words[2]), strtoul(words[3], 0, 10));
    if (count == 3 && !strcmp(words[1], "pipe"))
        return pipe_to_host((unsigned)atoi(words[2]));
    fputs("usage: vsock echo PORT | send PORT BYTES | pipe PORT\n", stderr);
    return 2;
}
