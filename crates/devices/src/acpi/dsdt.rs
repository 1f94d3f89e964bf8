//! The DSDT: devices that cannot be found by looking, in the language of ACPI (ACPI 6.5, chapters 6, 19, 20).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Method, Name, Notify,
    Package, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{OEM, OEM_REVISION, OEM_TABLE, Raw, bytes_of};
use crate::layout::{self, irq, port};
use crate::pm::S5_SLEEP_TYPE;

/// An interrupt of the PC, edge-triggered and active high as all on the ISA bus (ACPI 6.5, 6.4.2.1).
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// One port, or some from an aligned start.
fn ports(start: u16, count: u8) -> IO {
    IO::new(start, start, 1, count)
}

fn resources(children: Vec<&dyn Aml>) -> Raw {
    Raw(bytes_of(&Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(children),
    )))
}

/// A device with an identity from the plug and play list and its resources.
fn device(name: &str, identity: &str, children: Vec<&dyn Aml>) -> Raw {
    let identity = Name::new("_HID".into(), &EISAName::new(identity));
    let resources = resources(children);
    Raw(bytes_of(&Device::new(
        name.into(),
        vec![&identity, &resources],
    )))
}

/// The table.
pub(super) fn build() -> Vec<u8> {
    let sleep_type = S5_SLEEP_TYPE;
    let off = Name::new(
        "_S5_".into(),
        &Package::new(vec![&sleep_type, &sleep_type, &ZERO, &ZERO]),
    );
    let parts = [
        pci_root(),
        board(),
        device(
            "COM1",
            "PNP0501",
            vec![&ports(port::COM1, 8), &Irq(irq::COM1)],
        ),
        device(
            "RTC_",
            "PNP0B00",
            vec![&ports(port::RTC, 2), &Irq(irq::RTC)],
        ),
        device(
            "KBD_",
            "PNP0303",
            vec![
                &ports(port::I8042_DATA, 1),
                &ports(port::I8042_COMMAND, 1),
                &Irq(irq::KEYBOARD),
            ],
        ),
        generation(),
        clock(),
        device("MOU_", "PNP0F13", vec![&Irq(irq::MOUSE)]),
        device(
            "TIMR",
            "PNP0100",
            vec![&ports(port::PIT, 4), &Irq(irq::PIT)],
        ),
        device(
            "PIC_",
            "PNP0000",
            vec![
                &ports(port::PIC_PRIMARY, 2),
                &ports(port::PIC_SECONDARY, 2),
                &ports(port::PIC_ELCR, 2),
            ],
        ),
    ];
    let system_bus = Scope::new(
        "_SB_".into(),
        parts.iter().map(|part| part as &dyn Aml).collect(),
    );
    let events = general_events();
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&bytes_of(&off));
    table.append_slice(&bytes_of(&system_bus));
    table.append_slice(&bytes_of(&events));
    table.as_slice().to_vec()
}

/// The generation of the machine ("Virtual Machine Generation ID", Microsoft 2012): where it lies. Kernels know it by one of
/// these names.
fn generation() -> Raw {
    let identity = Name::new("_HID".into(), &"VMGENCTR");
    let names: Vec<&dyn Aml> = vec![&"VM_Gen_Counter", &"VM_GEN_COUNTER"];
    let compatible = Name::new("_CID".into(), &Package::new(names));
    let described = Name::new("_DDN".into(), &"VM_Gen_Counter");
    let place = Package::new(vec![
        &layout::GENERATION_WORDS[0],
        &layout::GENERATION_WORDS[1],
    ]);
    let place = Name::new("ADDR".into(), &place);
    let children: Vec<&dyn Aml> = vec![&identity, &compatible, &described, &place];
    Raw(bytes_of(&Device::new("VGEN".into(), children)))
}

/// VMClock (`include/uapi/linux/vmclock-abi.h`): where its page lies. Kernels know it by one of these names.
fn clock() -> Raw {
    let identity = Name::new("_HID".into(), &"AMZNC10C");
    let compatible = Name::new("_CID".into(), &"VMCLOCK");
    let described = Name::new("_DDN".into(), &"VMCLOCK");
    let page = Memory32Fixed::new(
        false,
        layout::VMCLOCK.0 as u32,
        layout::VMCLOCK_BYTES as u32,
    );
    let place = resources(vec![&page]);
    let children: Vec<&dyn Aml> = vec![&identity, &compatible, &described, &place];
    Raw(bytes_of(&Device::new("VCLK".into(), children)))
}

/// What general-purpose events mean: the first one that the generation is another, which both devices tell of (ACPI 6.5,
/// 5.6.4.1.1: level-triggered events have methods with an L).
fn general_events() -> Raw {
    let changed = 0x80_u8;
    let [generation, clock] = ["\\_SB_.VGEN", "\\_SB_.VCLK"].map(Path::new);
    let [first, second] = [&generation, &clock].map(|told| Notify::new(told, &changed));
    let event = Method::new("_L00".into(), 0, false, vec![&first, &second]);
    Raw(bytes_of(&Scope::new("\\_GPE".into(), vec![&event])))
}

/// What belongs to the board itself and must not be given to anything else.
fn board() -> Raw {
    let ecam = Memory32Fixed::new(true, layout::ECAM.0 as u32, layout::ECAM_BYTES as u32);
    let power_management = ports(port::PM1_EVENT, 0x0c);
    let events = ports(port::GPE0, crate::pm::GPE0_BYTES);
    device(
        "MBRD",
        "PNP0C02",
        vec![
            &ecam,
            &power_management,
            &events,
            &ports(port::SYSTEM_CONTROL_A, 1),
        ],
    )
}

/// PCI bus 0 with what its functions may use. It says "PCI", not "PCI Express": there is no native control of
/// hotplug, errors and power to negotiate.
fn pci_root() -> Raw {
    let identity = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let [unit, bus, segment] = ["_UID", "_BBN", "_SEG"].map(|name| Name::new(name.into(), &ZERO));
    let window_end = layout::PCI_WINDOW.0 + layout::PCI_WINDOW_BYTES - 1;
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_WINDOW.0 as u32,
        window_end as u32,
        None,
    );
    let resources = resources(vec![
        &AddressSpace::new_bus_number(0_u16, 0),
        &ports(port::PCI_ADDRESS, 8),
        &AddressSpace::new_io(0_u16, port::PCI_ADDRESS - 1, None),
        &AddressSpace::new_io(port::PCI_LAST + 1, u16::MAX, None),
        &memory,
    ]);
    let routing = pci_routing();
    let children: Vec<&dyn Aml> = vec![&identity, &unit, &bus, &segment, &resources, &routing];
    Raw(bytes_of(&Device::new("PCI0".into(), children)))
}

/// Which line each pin of each device goes to.
fn pci_routing() -> Raw {
    let mut entries = Vec::new();
    for device in 1..32_u32 {
        for pin in 0..4_u8 {
            let line = u32::from(irq::PCI_FIRST) + crate::pci::line_of(device as u8, pin) as u32;
            let address = device << 16 | 0xffff;
            entries.push(Raw(bytes_of(&Package::new(vec![
                &address, &pin, &ZERO, &line,
            ]))));
        }
    }
    // A package of up to 255 elements.
    let package = Package::new(entries.iter().map(|entry| entry as &dyn Aml).collect());
    Raw(bytes_of(&Name::new("_PRT".into(), &package)))
}
