//! Registers of the guest by number.

use iced_x86::Register;

/// Number of the general register that `register` is part of, if it is one.
pub(crate) fn gpr_number(register: Register) -> Option<u8> {
    register
        .is_gpr()
        .then(|| register.full_register().number() as u8)
}
