//! Messages of a guest that has mounted a folder of the host: what is beside that folder has to stay as it is.

use std::fs;

use folder::{Access, Bounds, HEADER_BYTES, Owners, Server};

use super::Target;

/// Beside the folder.
const OUTSIDE: &str = "nobody changes this";

const BOUNDS: Bounds = Bounds {
    nodes: 16,
    handles: 8,
};

/// `fuse_out_header` begins with a length and an error.
const ERROR: std::ops::Range<usize> = 4..8;

pub(super) fn target() -> Target {
    Target {
        mend: |input| mend(input),
        ..Target::plain("folder", seeds(), read)
    }
}

/// One message: its body in words, then a text.
fn message(opcode: u32, node: u64, words: &[u32], text: &[u8]) -> Vec<u8> {
    let body = words.iter().flat_map(|word| word.to_le_bytes());
    let body: Vec<u8> = body.chain(text.iter().copied()).collect();
    let len_bytes = (HEADER_BYTES + body.len()) as u32;
    let mut message: Vec<u8> = [len_bytes, opcode]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    message.extend([7_u64, node].iter().flat_map(|long| long.to_le_bytes()));
    message.resize(HEADER_BYTES, 0);
    message.extend(body);
    message
}

/// What guests do, each from mounting on. Nodes are numbered from the root's 1 in the order in which they are told, handles from 1.
fn seeds() -> Vec<Vec<u8>> {
    let init = message(26, 0, &[7, 31, 0, u32::MAX], &[]);
    let reading = [
        message(1, 1, &[], b"file\0"),
        message(3, 2, &[0, 0, 0, 0], &[]),
        message(14, 2, &[0, 0], &[]),
        message(15, 2, &[1, 0, 0, 0, 4096, 0, 0, 0, 0, 0], &[]),
        message(46, 2, &[1, 0, 0, 0, 3, 0], &[]),
        message(18, 2, &[1, 0, 0, 0, 0, 0], &[]),
        message(1, 1, &[], b"out\0"),
        message(5, 3, &[], &[]),
        message(17, 1, &[], &[]),
        message(2, 3, &[1, 0], &[]),
    ];
    let listing = [
        message(1, 1, &[], b"below\0"),
        message(27, 1, &[0, 0], &[]),
        message(28, 1, &[1, 0, 0, 0, 4096, 0, 0, 0, 0, 0], &[]),
        message(44, 1, &[1, 0, 0, 0, 4096, 0, 0, 0, 0, 0], &[]),
        message(30, 1, &[1, 0, 0, 0], &[]),
        message(29, 1, &[1, 0, 0, 0, 0, 0], &[]),
        message(42, 0, &[2, 0, 2, 0, 1, 0, 1, 0, 1, 0], &[]),
    ];
    // `fuse_setattr_in`: which, of these the size and the mode.
    let mut setting = [0; 22];
    setting[0] = 0b1001;
    setting[4] = 9;
    setting[17] = 0o4711;
    let making = [
        message(35, 1, &[2, 0o644, 0, 0], b"new\0"),
        message(16, 2, &[1, 0, 0, 0, 4, 0, 0, 0, 0, 0], b"text"),
        message(43, 2, &[1, 0, 0, 0, 64, 0, 0, 0], &[]),
        message(20, 2, &[1, 0, 0, 0], &[]),
        message(9, 1, &[0o755, 0], b"folder\0"),
        message(6, 3, &[], b"link\0../../outside\0"),
        message(8, 3, &[0o100_644, 0, 0, 0], b"plain\0"),
        message(13, 3, &[2, 0], b"second\0"),
        message(12, 1, &[3, 0], b"new\0newer\0"),
        message(45, 3, &[1, 0, 0, 0], b"newer\0newest\0"),
        message(10, 1, &[], b"newest\0"),
        message(4, 2, &setting, &[]),
        message(38, 0, &[], &[]),
    ];
    let sequence = |messages: &[Vec<u8>]| [init.clone(), messages.concat()].concat();
    vec![sequence(&reading), sequence(&listing), sequence(&making)]
}

/// The message that begins here is as long as it says, or goes to the end.
fn len_bytes(rest: &[u8]) -> usize {
    let said = rest
        .first_chunk()
        .map_or(0, |said| u32::from_le_bytes(*said) as usize);
    if (HEADER_BYTES..=rest.len()).contains(&said) {
        said
    } else {
        rest.len()
    }
}

/// Lengths are those of what there is.
fn mend(input: &mut [u8]) {
    let mut at = 0;
    while input.len() - at >= HEADER_BYTES {
        let len = len_bytes(&input[at..]);
        let said = u32::try_from(len).unwrap_or(u32::MAX);
        input[at..at + 4].copy_from_slice(&said.to_le_bytes());
        at += len;
    }
}

fn read(input: &[u8]) -> bool {
    let around = tempfile::tempdir().expect("there is a folder for temporary files");
    let outside = around.path().join("outside");
    let shared = around.path().join("shared");
    fs::create_dir_all(shared.join("below")).expect("it is empty");
    fs::write(shared.join("file"), "text").expect("the folder is new");
    fs::write(&outside, OUTSIDE).expect("the folder is new");
    std::os::unix::fs::symlink("../outside", shared.join("out")).expect("the folder is new");
    let open = fs::File::open(&shared).expect("it has just been made");
    let mut server = Server::new(open.into(), Access::Write, Owners::of_process(), BOUNDS)
        .expect("it is a folder");
    let mut is_good = true;
    let mut rest = input;
    while !rest.is_empty() {
        let (message, more) = rest.split_at(len_bytes(rest));
        rest = more;
        if let Some(answer) = server.answer(message) {
            let said = answer
                .first_chunk()
                .map(|said| u32::from_le_bytes(*said) as usize);
            assert_eq!(said, Some(answer.len()), "an answer has its length");
            is_good &= answer[ERROR] == [0; 4];
        }
    }
    let found = fs::read_to_string(&outside).expect("what is outside stays");
    assert_eq!(found, OUTSIDE, "what is outside stays as it is");
    let beside = fs::read_dir(around.path()).expect("it stays").count();
    assert_eq!(beside, 2, "nothing comes beside it");
    is_good
}
