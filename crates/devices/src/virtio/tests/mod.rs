//! All virtio devices behind their transport: against a driver that keeps the rules, and against ones that do not.

mod bench;
mod devices;
mod folder;
mod hostile;
mod queues;
mod random;
mod rules;
mod saved;
mod windows;
