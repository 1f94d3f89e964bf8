//! Room for many short strings of bytes, counted exactly.
//!
//! Slots of one size lie together in a slab, so that what is freed can be used again and a slab that is empty goes back
//! to the host whole. Sizes go up in steps, so a string wastes less than one step.

/// Sizes are multiples of this.
const STEP_BYTES: usize = 64;
/// Longest string.
const LONGEST_BYTES: usize = 4096;
/// Bytes of a slab, at most.
const SLAB_BYTES: usize = 64 * 1024;

/// Where a string lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    class: u8,
    slab: u32,
    index: u16,
    len_bytes: u16,
}

impl Slot {
    /// Length of the string.
    pub(crate) fn len_bytes(self) -> usize {
        usize::from(self.len_bytes)
    }
}

#[derive(Debug)]
struct Slab {
    bytes: Box<[u8]>,
    free: Vec<u16>,
}

#[derive(Debug, Default)]
struct Class {
    slabs: Vec<Option<Slab>>,
    /// Positions in `slabs` with a free slot.
    open: Vec<u32>,
    /// Positions in `slabs` without a slab.
    gaps: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slabs {
    classes: Vec<Class>,
    held_bytes: u64,
    used_bytes: u64,
}

impl Default for Slabs {
    fn default() -> Slabs {
        let classes = (0..LONGEST_BYTES / STEP_BYTES)
            .map(|_| Class::default())
            .collect();
        Slabs {
            classes,
            held_bytes: 0,
            used_bytes: 0,
        }
    }
}

fn class_of(len: usize) -> usize {
    assert!(
        (1..=LONGEST_BYTES).contains(&len),
        "a packed page is neither empty nor longer than a page"
    );
    len.div_ceil(STEP_BYTES) - 1
}

fn slot_bytes(class: usize) -> usize {
    (class + 1) * STEP_BYTES
}

fn slots_in(class: usize) -> usize {
    SLAB_BYTES / slot_bytes(class)
}

impl Slabs {
    /// Bytes that all slabs take.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Bytes of all strings.
    #[cfg(test)]
    fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// How many bytes more would be held with a string of this length.
    pub(crate) fn cost_bytes(&self, len: usize) -> u64 {
        let class = class_of(len);
        if self.classes[class].open.is_empty() {
            (slots_in(class) * slot_bytes(class)) as u64
        } else {
            0
        }
    }

    /// Keeps a string.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Slot {
        let class_index = class_of(bytes.len());
        let class = &mut self.classes[class_index];
        let position = match class.open.last() {
            Some(&position) => position,
            None => {
                let slab = Slab {
                    bytes: vec![0; slots_in(class_index) * slot_bytes(class_index)].into(),
                    free: (0..slots_in(class_index) as u16).rev().collect(),
                };
                self.held_bytes += slab.bytes.len() as u64;
                let position = class.gaps.pop().unwrap_or_else(|| {
                    class.slabs.push(None);
                    class.slabs.len() as u32 - 1
                });
                class.slabs[position as usize] = Some(slab);
                class.open.push(position);
                position
            }
        };
        let slab = class.slabs[position as usize]
            .as_mut()
            .expect("open slabs are there");
        let index = slab.free.pop().expect("open slabs have a free slot");
        if slab.free.is_empty() {
            class.open.pop();
        }
        let at = usize::from(index) * slot_bytes(class_index);
        slab.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.used_bytes += bytes.len() as u64;
        Slot {
            class: class_index as u8,
            slab: position,
            index,
            len_bytes: bytes.len() as u16,
        }
    }

    /// A string that is kept.
    pub(crate) fn get(&self, slot: Slot) -> &[u8] {
        let class = usize::from(slot.class);
        let slab = self.classes[class].slabs[slot.slab as usize]
            .as_ref()
            .expect("kept strings have a slab");
        let at = usize::from(slot.index) * slot_bytes(class);
        &slab.bytes[at..at + slot.len_bytes()]
    }

    /// Keeps it no more.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let class_index = usize::from(slot.class);
        let class = &mut self.classes[class_index];
        let place = &mut class.slabs[slot.slab as usize];
        let slab = place.as_mut().expect("kept strings have a slab");
        slab.free.push(slot.index);
        self.used_bytes -= u64::from(slot.len_bytes);
        if slab.free.len() == 1 {
            class.open.push(slot.slab);
        }
        if slab.free.len() == slots_in(class_index) {
            self.held_bytes -= slab.bytes.len() as u64;
            *place = None;
            class.open.retain(|&position| position != slot.slab);
            class.gaps.push(slot.slab);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_what_they_were_and_nothing_is_held_for_none(
            steps in prop::collection::vec((1_usize..=4096, any::<u8>(), any::<bool>(), any::<u16>()), 1..400)
        ) {
            let mut slabs = Slabs::default();
            let mut model: Vec<(Slot, Vec<u8>)> = Vec::new();
            for (len, byte, removes, which) in steps {
                if removes && !model.is_empty() {
                    let (slot, bytes) = model.swap_remove(usize::from(which) % model.len());
                    prop_assert_eq!(slabs.get(slot), &bytes[..]);
                    slabs.remove(slot);
                } else {
                    let bytes: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                    let before = slabs.held_bytes();
                    let cost = slabs.cost_bytes(len);
                    model.push((slabs.add(&bytes), bytes));
                    prop_assert_eq!(slabs.held_bytes(), before + cost);
                }
                let used: usize = model.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert_eq!(slabs.used_bytes(), used as u64);
            }
            for (slot, bytes) in model {
                prop_assert_eq!(slabs.get(slot), &bytes[..]);
                slabs.remove(slot);
            }
            prop_assert_eq!(slabs.held_bytes(), 0);
        }
    }
}
