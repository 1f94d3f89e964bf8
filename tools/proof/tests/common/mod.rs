//! What tests with the silicon as their oracle share.

use std::io::Write as _;

use iced_x86::{Code, Decoder, DecoderOptions};

use proof::case::Case;
use proof::forms;

/// Whether this host has every instruction of a case.
pub(crate) fn can_run(case: &Case) -> bool {
    let table = forms::model();
    let mut decoder = Decoder::new(case.bits, &case.code, DecoderOptions::NONE);
    let mut codes = Vec::new();
    while decoder.can_decode() {
        codes.push(decoder.decode().code());
    }
    codes
        .iter()
        .all(|&code| code == Code::INVALID || forms::is_presented(code, case.bits, &table))
}

/// Whether this host can tell right from wrong; says so if not.
pub(crate) fn is_oracle() -> bool {
    let reason = forms::host_cannot().or(forms::other_vendor());
    if let Some(reason) = reason {
        // Past the test runner's capture: what is skipped is said aloud.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: this host cannot be the oracle: {reason}").unwrap();
    }
    reason.is_none()
}
