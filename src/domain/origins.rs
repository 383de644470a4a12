//! The origins of a retry: which task of the original job each task of the retry repeats. They are stored as runs of
//! consecutive tasks. A retry of contiguous ranges therefore takes little space, and no retry takes more than a few
//! bytes per task.

use std::ops::Range;

use super::MAX_TASKS;

/// Consecutive tasks of the retry whose origins are consecutive too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The first task of the retry.
    first: u32,
    /// The origin of the first task.
    origin: u32,
    count: u32,
}

/// The origin of each task of a retry: its index in the original job. Origins ascend with the tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    runs: Vec<Run>,
}

/// The bytes are not the encoding of [`Origins`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a valid encoding of task origins")]
pub struct InvalidOrigins;

impl Origins {
    /// Creates the origins of a retry of `tasks`. If the retried job is itself a retry, `earlier` holds its origins,
    /// and the result refers to the tasks of the first job.
    pub fn of(tasks: &[Range<u32>], earlier: Option<&Self>) -> Self {
        let mut origins = Self { runs: Vec::with_capacity(Self::max_runs(tasks, earlier)) };
        for range in tasks {
            match earlier {
                None => origins.push(range.start, range.end - range.start),
                Some(earlier) => {
                    for (piece, origin) in earlier.pieces(range.clone()) {
                        origins.push(origin, piece.end - piece.start);
                    }
                }
            }
        }
        origins
    }

    /// Returns the memory that [`of`](Self::of) allocates for these tasks.
    pub fn size_of(tasks: &[Range<u32>], earlier: Option<&Self>) -> usize {
        Self::max_runs(tasks, earlier) * size_of::<Run>()
    }

    /// Returns the maximum number of runs of a retry of these tasks. Each run of `earlier` can split a range.
    fn max_runs(tasks: &[Range<u32>], earlier: Option<&Self>) -> usize {
        tasks.len() + earlier.map_or(0, |earlier| earlier.runs.len())
    }

    /// Returns the number of tasks of the retry.
    pub fn count(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.first + run.count)
    }

    /// Splits `tasks` of the retry into ranges with consecutive origins. Each item is a range and the origin of its
    /// first task.
    pub fn pieces(&self, tasks: Range<u32>) -> impl Iterator<Item = (Range<u32>, u32)> {
        let begin = self.runs.partition_point(|run| run.first + run.count <= tasks.start);
        let runs = self.runs[begin..].iter().take_while(move |run| run.first < tasks.end);
        runs.map(move |run| {
            let first = run.first.max(tasks.start);
            (first..(run.first + run.count).min(tasks.end), run.origin + (first - run.first))
        })
    }

    fn push(&mut self, origin: u32, count: u32) {
        let first = self.count();
        match self.runs.last_mut() {
            Some(last) if last.origin + last.count == origin => last.count += count,
            _ => self.runs.push(Run { first, origin, count }),
        }
    }

    /// Encodes the origins. Each run is encoded as two variable-length numbers: the gap between the end of the previous
    /// run's origins and its own first origin, and its length. Each byte of a number has seven bits, the lowest bits
    /// first.
    pub fn encode(&self) -> Vec<u8> {
        let (mut bytes, mut previous_end) = (Vec::new(), 0);
        for run in &self.runs {
            for mut number in [run.origin - previous_end, run.count] {
                while number >= 0x80 {
                    bytes.push(number.to_le_bytes()[0] | 0x80);
                    number >>= 7;
                }
                bytes.push(number.to_le_bytes()[0]);
            }
            previous_end = run.origin + run.count;
        }
        bytes
    }

    /// Returns the maximum size of the encoding for a retry of `tasks` tasks, in bytes. A run takes at most eight bytes.
    /// A number takes at most as many bytes as its value, except for zero, which only the first gap can be. All numbers
    /// together are at most the number of tasks of the original job.
    pub fn max_encoded(tasks: u32) -> usize {
        (8 * tasks as usize).min(MAX_TASKS as usize + 1)
    }

    /// Returns the memory that [`decode`](Self::decode) allocates for these bytes.
    pub fn decoded_size(bytes: &[u8]) -> usize {
        Self::encoded_runs(bytes) * size_of::<Run>()
    }

    /// Returns the number of runs that the bytes encode. The last byte of each number is below 0x80.
    fn encoded_runs(bytes: &[u8]) -> usize {
        bytes.iter().filter(|byte| **byte < 0x80).count().div_ceil(2)
    }

    /// Decodes the bytes that [`encode`](Self::encode) returns.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidOrigins> {
        let (mut origins, mut previous_end) = (Self { runs: Vec::with_capacity(Self::encoded_runs(bytes)) }, 0_u32);
        let mut bytes = bytes.iter();
        while !bytes.as_slice().is_empty() {
            let gap = number(&mut bytes).ok_or(InvalidOrigins)?;
            let count = number(&mut bytes).filter(|count| *count > 0).ok_or(InvalidOrigins)?;
            let origin = previous_end.checked_add(gap).ok_or(InvalidOrigins)?;
            previous_end = origin.checked_add(count).filter(|end| *end <= MAX_TASKS).ok_or(InvalidOrigins)?;
            origins.push(origin, count);
        }
        Ok(origins)
    }
}

/// Decodes one variable-length number. Returns `None` if the number is incomplete or too large.
fn number<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..32).step_by(7) {
        let byte = *bytes.next()?;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(tasks: &[Range<u32>]) -> Origins {
        Origins::of(tasks, None)
    }

    /// The origin of each task.
    fn all(origins: &Origins) -> Vec<u32> {
        let pieces = origins.pieces(0..origins.count());
        pieces.flat_map(|(tasks, origin)| (0..tasks.end - tasks.start).map(move |task| origin + task)).collect()
    }

    #[test]
    fn every_task_of_a_retry_has_its_origin() {
        let retry = origins(&[2..4, 7..8, 8..10, 90..91]);
        assert_eq!((retry.count(), all(&retry)), (6, vec![2, 3, 7, 8, 9, 90]));
        assert_eq!(retry.pieces(1..4).collect::<Vec<_>>(), [(1..2, 3), (2..4, 7)]);
        assert_eq!(retry.pieces(3..4).collect::<Vec<_>>(), [(3..4, 8)]);
        assert_eq!(retry.pieces(6..9).collect::<Vec<_>>(), []);
        assert_eq!(origins(&[]).count(), 0);
    }

    #[test]
    fn retry_of_a_retry_refers_to_the_first_job() {
        let first = origins(&[2..4, 7..10, 90..91]);
        let second = Origins::of(&[1..3, 5..6], Some(&first));
        assert_eq!(all(&second), [3, 7, 90]);
    }

    #[test]
    fn encoding_round_trips_and_invalid_bytes_are_rejected() {
        for tasks in [vec![], vec![0..1, 2..3], vec![5..200, 300..301, 9_000_000..10_000_000]] {
            let written = origins(&tasks);
            let encoded = written.encode();
            assert!(encoded.len() <= Origins::max_encoded(written.count()));
            assert_eq!(Origins::decoded_size(&encoded), written.runs.len() * size_of::<Run>());
            assert_eq!(Origins::decode(&encoded), Ok(written));
        }
        let scattered: Vec<_> = (0..1000).map(|task| task * 3..task * 3 + 1).collect();
        assert_eq!(origins(&scattered).encode().len(), 2000);
        for wrong in [
            &[1][..],
            &[1, 0],
            &[0x80, 1],
            &[0xff; 12],
            &[0, 0x81, 0xad, 0xe2, 0x04],
            &[0xff, 0xff, 0xff, 0xff, 0x0f, 2],
        ] {
            assert_eq!(Origins::decode(wrong), Err(InvalidOrigins), "{wrong:?}");
        }
    }
}
