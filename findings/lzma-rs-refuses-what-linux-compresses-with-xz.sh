#!/usr/bin/env bash
# The crate lzma-rs decodes .xz files, but none with the filters that the Linux kernel's build gives its image for x86.
#
# Expected: an .xz block may have a chain of filters; of those in the format's list, LZMA2 is the last of it, and x86 BCJ (ID 4)
# may stand before it (The .xz File Format, 5.3.2). Linux builds its compressed image for x86 with exactly that chain
# (`scripts/xz_wrap.sh`), and `xz --x86 --lzma2` is how distributors pack programs. A decoder "for the .xz format" takes it.
# Seen: the same bytes packed with LZMA2 alone are decoded; with x86 BCJ before it, `xz_decompress` says
# "Unknown filter id 4". Every test file packed without options is fine, so that it is found with the first kernel image.
# Where: lzma-rs 0.3.0, xz-utils of Debian 12 (5.4.1), x86-64. Source: the crate's `decode/xz.rs` has a match on filter IDs with 0x21 only.
# Output: "plain: 35664 bytes come back", "x86 BCJ: xz error: Unknown filter id 4" (sizes are those of the host's /usr/bin/true).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for tool in cargo xz; do
    command -v "$tool" > /dev/null || { echo "this host has no $tool"; exit 2; }
done
input=/usr/bin/true
xz --format=xz --check=crc32 --lzma2 --stdout "$input" > plain.xz
xz --format=xz --check=crc32 --x86 --lzma2 --stdout "$input" > bcj.xz
# Both are good: xz itself says so.
for file in plain.xz bcj.xz; do
    xz --decompress --stdout "$file" | cmp - "$input"
done
mkdir src
cat > Cargo.toml << 'END'
[package]
name = "probe"
version = "0.0.0"
edition = "2021"
[dependencies]
lzma-rs = "=0.3.0"
[workspace]
END
cat > src/main.rs << 'END'
fn main() {
    for (name, path) in [("plain", "plain.xz"), ("x86 BCJ", "bcj.xz")] {
        let file = std::fs::File::open(path).unwrap();
        let mut bytes = Vec::new();
        match lzma_rs::xz_decompress(&mut std::io::BufReader::new(file), &mut bytes) {
            Ok(()) => println!("{name}: {} bytes come back", bytes.len()),
            Err(error) => println!("{name}: {error}"),
        }
    }
}
END
cargo build --quiet 2> build.log || { tail -n 3 build.log; echo "lzma-rs 0.3.0 cannot be had here"; exit 2; }
./target/debug/probe | tee seen
size=$(stat --format=%s "$input")
grep -qx "plain: $size bytes come back" seen || exit 1
grep -q '^x86 BCJ: .*4' seen && ! grep -q '^x86 BCJ: .* come back' seen
