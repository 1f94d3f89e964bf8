"""A guest of one TCP connection, spoken frame by frame to the socket of a passt: what a virtual machine's card would
carry, without a virtual machine. Frames are Ethernet II behind a big-endian length of four bytes, as passt(1) says."""

import os
import socket
import struct
import subprocess
import threading
import time

GUEST, GATEWAY = bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])
MAC = bytes.fromhex("020000000001")
PORT = 40001
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Guest:
    def __init__(self, path, port, shortest_frame=0):
        """`port`: of the gateway's address, which passt maps to the host's loopback.
        `shortest_frame`: bytes to which a shorter frame is padded with zeros."""
        self.pipe = socket.socket(socket.AF_UNIX)
        self.pipe.settimeout(0.2)
        self.pipe.connect(path)
        self.port, self.seq, self.ack, self.shortest_frame = port, 1000, 0, shortest_frame
        self.peer, self.buffer, self.data = b"\xff" * 6, b"", b""
        self.is_open = self.got_fin = self.got_reset = False

    def send(self, kind, payload):
        frame = self.peer + MAC + struct.pack("!H", kind) + payload
        frame = frame.ljust(self.shortest_frame, b"\0")
        self.pipe.sendall(struct.pack("!I", len(frame)) + frame)

    def send_tcp(self, flags, payload=b"", options=b""):
        length = 20 + len(options)
        head = struct.pack("!HHIIBBHHH", PORT, self.port, self.seq, self.ack, length // 4 << 4, flags, 64000, 0, 0)
        head += options
        pseudo = GUEST + GATEWAY + struct.pack("!BBH", 0, 6, len(head) + len(payload))
        head = head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head) + len(payload), 0, 0, 64, 6, 0) + GUEST + GATEWAY
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self.send(0x0800, ip + head + payload)
        self.seq += len(payload) + (1 if flags & (FIN | SYN) else 0)

    def listen(self, seconds):
        """Takes and acknowledges what comes for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.buffer += self.pipe.recv(65536)
            except TimeoutError:
                continue
            while len(self.buffer) >= 4:
                length = struct.unpack("!I", self.buffer[:4])[0]
                if len(self.buffer) < 4 + length:
                    break
                frame, self.buffer = self.buffer[4:4 + length], self.buffer[4 + length:]
                self.take(frame)

    def take(self, frame):
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
            self.peer = frame[22:28]
        if frame[12:14] != b"\x08\x00" or frame[23] != 6:
            return
        ip = frame[14:]
        tcp = ip[20:struct.unpack("!H", ip[2:4])[0]]
        if struct.unpack("!H", tcp[2:4])[0] != PORT:
            return
        seq, flags, payload = struct.unpack("!I", tcp[4:8])[0], tcp[13], tcp[(tcp[12] >> 4) * 4:]
        if flags & RST:
            self.got_reset = True
        elif flags & (SYN | ACK) == SYN | ACK:
            self.is_open, self.ack = True, seq + 1 & 0xFFFFFFFF
            self.send_tcp(ACK)
        elif payload or flags & FIN:
            if seq == self.ack:
                self.data += payload
                self.ack = self.ack + len(payload) + (flags & FIN) & 0xFFFFFFFF
                self.got_fin |= bool(flags & FIN)
            self.send_tcp(ACK)

    def connect(self):
        """Asks for the gateway's address, then for a connection; whether it came."""
        self.send(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MAC + GUEST + bytes(6) + GATEWAY)
        self.listen(1)
        assert self.peer != b"\xff" * 6, "passt did not answer the ARP request"
        self.send_tcp(SYN, options=struct.pack("!BBH", 2, 4, 1460))
        self.listen(2)
        return self.is_open


class Passt:
    """passt on a socket of its own, for the time of a `with`."""

    def __init__(self, program, folder):
        self.path = folder + "/socket"
        words = "--foreground --quiet -4 -a 10.9.0.2 -n 24 -g 10.9.0.1 -t none -u none --no-dhcp -M 02:00:00:00:00:02"
        self.words = [program, *words.split(), "--socket", self.path]

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            if os.path.exists(self.path):
                return self.path
            time.sleep(0.1)
        raise SystemExit("passt made no socket")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        if os.path.exists(self.path):
            os.unlink(self.path)


def serve(handle):
    """A listener on the host's loopback whose first client `handle` is given, on a thread; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: handle(listener.accept()[0]), daemon=True).start()
    return listener.getsockname()[1]
