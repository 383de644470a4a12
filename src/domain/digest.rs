//! Digests of cells. A tracker's header holds a digest of each region of its cells. Every script that changes marks adds
//! the change of the digests in the same step, so a digest that does not match its region shows that something else
//! changed the cells: faulty memory, a bug, or another program.
//!
//! A digest is the sum of one pseudorandom number for each byte that is not zero, modulo 2^48. A change of a few bytes
//! therefore changes the digest by a difference that needs no other bytes. A damaged region keeps its digest with a
//! probability of 2^-48.

use std::ops::Range;

use super::Layout;

/// The maximum number of regions of a tracker.
pub const MAX_REGIONS: u32 = 8;
/// The minimum number of tasks of a region, unless the job has fewer tasks. Most jobs have one region.
const MIN_REGION_TASKS: u32 = 65_536;
/// A digest is smaller than this number. Lua's numbers are exact up to 2^53, so a script can add two digests.
const MODULUS: u64 = 1 << 48;

/// The digest of each region. Regions that the job does not have count as empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests(pub [u64; MAX_REGIONS as usize]);

impl Layout {
    /// Returns the tasks of each region. A region starts at a byte boundary and has at most 2.5 MB, so that Redis reads
    /// it together with the header in about a millisecond.
    pub fn regions(self) -> impl Iterator<Item = Range<u32>> {
        let starts = (0..self.total).step_by(self.region_tasks() as usize);
        starts.map(move |start| start..self.total.min(start + self.region_tasks()))
    }

    /// Returns the bytes that hold the cells of these tasks, as offsets from the first cell. `tasks` must not be empty.
    /// It must start at a multiple of four, so that its first cell starts at a byte boundary.
    pub fn byte_range(self, tasks: &Range<u32>) -> Range<usize> {
        self.span(tasks.start).start..self.span(tasks.end - 1).end
    }

    /// Returns the number of tasks of every region but the last. It is a multiple of four.
    fn region_tasks(self) -> u32 {
        MIN_REGION_TASKS.max(self.total.div_ceil(MAX_REGIONS).next_multiple_of(4))
    }

    /// Returns the region that holds this byte, an offset from the first cell.
    fn region_of(self, byte: usize) -> usize {
        // Four cells take as many bytes as the job has stages.
        byte / (self.region_tasks() as usize / 4 * self.stages)
    }
}

impl Digests {
    /// Computes the digests of all cells.
    pub fn of(layout: Layout, cells: &[u8]) -> Self {
        let mut digests = Self::default();
        for (byte, value) in cells.iter().enumerate() {
            digests.add(layout, byte, number(byte, *value));
        }
        digests
    }

    /// Computes the digest of one region. `cells` are its bytes, and `start` is the offset of the first of them.
    pub fn of_region(start: usize, cells: &[u8]) -> u64 {
        let numbers = cells.iter().enumerate().map(|(index, value)| number(start + index, *value));
        numbers.fold(0_u64, u64::wrapping_add) % MODULUS
    }

    /// Adds the change that is made by replacing the bytes `old` by `new`. The first of them is byte `start` of all
    /// cells.
    pub fn replace(&mut self, layout: Layout, start: usize, old: &[u8], new: &[u8]) {
        for (index, (old, new)) in old.iter().zip(new).enumerate() {
            if old != new {
                let byte = start + index;
                self.add(layout, byte, number(byte, *new).wrapping_sub(number(byte, *old)));
            }
        }
    }

    fn add(&mut self, layout: Layout, byte: usize, number: u64) {
        if let Some(digest) = self.0.get_mut(layout.region_of(byte)) {
            *digest = digest.wrapping_add(number) % MODULUS;
        }
    }

    /// Returns the regions whose digest is not zero, with their digests.
    pub fn nonzero(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, digest)| *digest != 0)
    }
}

/// Returns the number that a byte adds to the digest. It is a hash of the byte and its position (the finalizer of
/// SplitMix64), and zero for a byte without marks.
fn number(byte: usize, value: u8) -> u64 {
    if value == 0 {
        return 0;
    }
    let mut hash = ((byte as u64) << 8 | u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ hash >> 31) % MODULUS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_cover_all_tasks_and_start_at_byte_boundaries() {
        for (total, expected) in [(0, 0), (1, 1), (65_536, 1), (65_537, 2), (524_288, 8), (600_001, 8), (10_000_000, 8)]
        {
            for stages in [1, 3, 8] {
                let layout = Layout { total, stages };
                let regions: Vec<_> = layout.regions().collect();
                assert_eq!(regions.len(), expected, "{total}");
                assert!(regions.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert_eq!(regions.last().map_or(0, |last| last.end), total);
                for (index, tasks) in regions.iter().enumerate() {
                    let bytes = layout.byte_range(tasks);
                    assert!(bytes.len() <= 2_500_008, "{total} {stages}: {bytes:?}");
                    assert_eq!((layout.region_of(bytes.start), layout.region_of(bytes.end - 1)), (index, index));
                }
            }
        }
    }

    #[test]
    fn differences_add_up_to_the_digest_of_the_result() {
        let layout = Layout { total: 200_000, stages: 1 };
        let mut cells = vec![0; layout.bytes()];
        let mut added = Digests::default();
        for (start, new) in [(0, [1, 3]), (16_383, [0xff, 0x7f]), (1, [7, 0]), (49_998, [1, 1])] {
            added.replace(layout, start, &cells[start..start + 2], &new);
            cells[start..start + 2].copy_from_slice(&new);
        }
        assert_eq!(added, Digests::of(layout, &cells));
        for (region, tasks) in layout.regions().enumerate() {
            let bytes = layout.byte_range(&tasks);
            assert_eq!(Digests::of_region(bytes.start, &cells[bytes]), added.0[region]);
        }
        assert_eq!(added.nonzero().map(|(region, _)| region).collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn every_flipped_bit_changes_the_digest() {
        let layout = Layout { total: 1000, stages: 2 };
        let cells: Vec<u8> = (0..layout.bytes()).map(|byte| [0, 0x55, 0xff, 0x17][byte % 4]).collect();
        let intact = Digests::of(layout, &cells);
        for bit in 0..8 * cells.len() {
            let mut flipped = cells.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Digests::of(layout, &flipped), intact, "bit {bit}");
        }
    }
}
