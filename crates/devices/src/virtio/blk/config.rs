//! The device's features and its configuration space (5.2.3, 5.2.4).

use super::head::SECTOR_BYTES;

/// `VIRTIO_BLK_F_SIZE_MAX`: [`SEGMENT_BYTES_MAX`] holds.
pub(super) const F_SIZE_MAX: u64 = 1 << 1;
/// `VIRTIO_BLK_F_SEG_MAX`: [`SEGMENTS_MAX`] holds.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: the disk is read-only.
pub(super) const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`: `blk_size` holds.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: there is a flush request.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_TOPOLOGY`: the topology holds.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// `VIRTIO_BLK_F_CONFIG_WCE`: the driver may choose between write-back and write-through.
pub(super) const F_CONFIG_WCE: u64 = 1 << 11;
/// `VIRTIO_BLK_F_MQ`: several queues.
pub(super) const F_MQ: u64 = 1 << 12;
/// `VIRTIO_BLK_F_DISCARD`: there is a discard request.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`: there is a write-zeroes request.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;

/// Largest size of a virtqueue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Data buffers in a request: with header and status they fill a queue without indirect descriptors.
pub(super) const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes in one of them.
pub(super) const SEGMENT_BYTES_MAX: u32 = 1 << 20;
/// Bytes in a request, so that none keeps a worker for long.
pub(super) const REQUEST_BYTES_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64;
/// Ranges in a discard or write-zeroes request.
pub(super) const RANGES_MAX: u32 = 16;
/// Sectors in one of them: 1 GiB.
pub(super) const RANGE_SECTORS_MAX: u32 = (1 << 30) / SECTOR_BYTES as u32;

/// Host files and their page cache work in blocks of 4 KiB, eight sectors.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// The same, in sectors.
const PHYSICAL_BLOCK_SECTORS: u32 = 1 << PHYSICAL_BLOCK_EXPONENT;

/// Where `writeback` lies.
pub(super) const WRITEBACK_OFFSET: u64 = 32;

/// What the configuration space tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Config {
    pub(super) capacity_sectors: u64,
    pub(super) is_read_only: bool,
    pub(super) queue_count: u16,
    pub(super) is_write_back: bool,
}

impl Config {
    /// The device's feature bits.
    pub(super) fn features(&self) -> u64 {
        let always = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
        let writes = if self.is_read_only {
            F_RO
        } else {
            F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES
        };
        always | writes | if self.queue_count > 1 { F_MQ } else { 0 }
    }

    /// `struct virtio_blk_config`, up to the fields of secure erase, which is not offered.
    pub(super) fn bytes(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.capacity_sectors.to_le_bytes());
        put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        // 16: geometry, not offered.
        put(20, &(SECTOR_BYTES as u32).to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXPONENT, 0]);
        put(26, &(PHYSICAL_BLOCK_SECTORS as u16).to_le_bytes());
        // 28: optimal size, none.
        put(WRITEBACK_OFFSET as usize, &[u8::from(self.is_write_back)]);
        put(34, &self.queue_count.to_le_bytes());
        if !self.is_read_only {
            put(36, &RANGE_SECTORS_MAX.to_le_bytes());
            put(40, &RANGES_MAX.to_le_bytes());
            put(44, &PHYSICAL_BLOCK_SECTORS.to_le_bytes());
            put(48, &RANGE_SECTORS_MAX.to_le_bytes());
            put(52, &RANGES_MAX.to_le_bytes());
            put(56, &[1]);
        }
        bytes
    }
}
