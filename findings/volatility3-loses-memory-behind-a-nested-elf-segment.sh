#!/bin/bash
# In an ELF dump with one segment inside another, Volatility 3 finds or loses what is behind the inner one by the order of the segments.
#
# Expected: a dump says for each virtual range where its memory is, and memory that Linux maps twice, as the kernel's text, is in two
# segments. Of their order ELF asks that virtual addresses ascend; an address is in each segment that has it.
# Seen: Volatility keeps the segments by physical address in the order of the file and bisects them, as if they were sorted and apart.
# It asks only the last that begins at or before an address; where that one has ended, the address is "invalid", though the
# segment around it has it. With virtual addresses ascending, the kernel's text comes after all of memory and its inner segment takes
# everything above it away. Linux puts the text first in /proc/vmcore, where the bisection happens to pass it over. drgn reads both.
# Where: Volatility 3 2.28.2, drgn 0.3.0 (PyPI). Source: _load_segments in Volatility's framework/layers/elf.py, _find_segment in
# framework/layers/segmented.py, whose words ask for sorted segments; gABI, "Program Header".
# Output seen: "text first: Volatility has 3.5 of 3.5 MiB, drgn 3.5; text last: Volatility has 2.5 of 3.5 MiB, drgn 3.5"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv tools
tools/bin/pip install -q volatility3==2.28.2 drgn==0.3.0 2> /dev/null || { echo "needs PyPI"; exit 2; }
tools/bin/python - <<'P'
import pathlib, struct, sys
import drgn
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import elf, physical

MIB, PAGE = 1 << 20, 4096
DIRECT, TEXT = 0xffff888000000000, 0xffffffff81000000
# (virtual address, physical address, size) of memory, and of the kernel's text in it.
RAM = [(DIRECT, 0, MIB // 2), (DIRECT + MIB, MIB, 3 * MIB)]
KERNEL = [(TEXT, 2 * MIB, MIB)]

def write(path, segments):
    """An ELF dump, each page of which begins with its physical address."""
    with open(path, "wb") as file:
        file.write(struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0))
        offset = PAGE
        for virtual, address, size in segments:
            file.write(struct.pack("<IIQQQQQQ", 1, 7, offset, virtual, address, size, size, 0))
            offset += size
        file.write(bytes(PAGE - file.tell()))
        for _, address, size in segments:
            for page in range(address, address + size, PAGE):
                file.write(struct.pack("<Q", page).ljust(PAGE, b"\0"))

def count(read, error):
    """MiB of memory that `read` has, and has right."""
    found = 0
    for _, address, size in RAM:
        for page in range(address, address + size, PAGE):
            try:
                found += read(page) == struct.pack("<Q", page)
            except error:
                pass
    return found * PAGE / MIB

def answers(path):
    context = contexts.Context()
    context.config["file.location"] = pathlib.Path(path).resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["elf.base_layer"] = "file"
    layer = elf.Elf64Layer(context, "elf", "elf")
    program = drgn.Program()
    program.set_core_dump(path)
    volatility = count(lambda page: layer.read(page, 8), exceptions.InvalidAddressException)
    return f"Volatility has {volatility} of 3.5 MiB, drgn {count(lambda page: program.read(page, 8, True), drgn.FaultError)}"

write("first", KERNEL + RAM)
write("last", RAM + KERNEL)
line = f"text first: {answers('first')}; text last: {answers('last')}"
print(line)
sys.exit(line != "text first: Volatility has 3.5 of 3.5 MiB, drgn 3.5; text last: Volatility has 2.5 of 3.5 MiB, drgn 3.5")
P
