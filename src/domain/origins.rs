//! Which task of another job each task of a retry is. Kept as runs of consecutive tasks, so that it is small where whole
//! stretches are retried, and never more than a few bytes a task.

use std::ops::Range;

/// One run: tasks of the retry that follow each other, and so do their origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The first task of the retry.
    first: u32,
    /// What that one is a retry of.
    origin: u32,
    count: u32,
}

/// The origins of all tasks of a retry, in order; those grow with the tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    runs: Vec<Run>,
}

/// Bytes that are no origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no origins of tasks")]
pub struct InvalidOrigins;

impl Origins {
    /// Of a retry of these tasks, whose own origins are `earlier` if they are those of a retry.
    pub fn of(tasks: &[Range<u32>], earlier: Option<&Self>) -> Self {
        let mut origins = Self::default();
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

    /// How many tasks the retry has.
    pub fn count(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.first + run.count)
    }

    /// These tasks of the retry in pieces whose origins follow each other; with the origin of each piece's first.
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

    /// As bytes: of each run how far its origins lie behind those of the run before, and how many they are; numbers of
    /// seven bits a byte, the lowest first.
    pub fn encode(&self) -> Vec<u8> {
        let (mut bytes, mut behind) = (Vec::new(), 0);
        for run in &self.runs {
            for mut number in [run.origin - behind, run.count] {
                while number >= 0x80 {
                    bytes.push(number.to_le_bytes()[0] | 0x80);
                    number >>= 7;
                }
                bytes.push(number.to_le_bytes()[0]);
            }
            behind = run.origin + run.count;
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidOrigins> {
        let (mut origins, mut behind) = (Self::default(), 0_u32);
        let mut bytes = bytes.iter();
        while !bytes.as_slice().is_empty() {
            let gap = number(&mut bytes).ok_or(InvalidOrigins)?;
            let count = number(&mut bytes).filter(|count| *count > 0).ok_or(InvalidOrigins)?;
            let origin = behind.checked_add(gap).ok_or(InvalidOrigins)?;
            behind = origin.checked_add(count).ok_or(InvalidOrigins)?;
            origins.push(origin, count);
        }
        Ok(origins)
    }
}

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

    /// Task by task.
    fn all(origins: &Origins) -> Vec<u32> {
        let pieces = origins.pieces(0..origins.count());
        pieces.flat_map(|(tasks, origin)| (0..tasks.end - tasks.start).map(move |task| origin + task)).collect()
    }

    #[test]
    fn each_task_of_a_retry_knows_what_it_is_a_retry_of() {
        let retry = origins(&[2..4, 7..8, 8..10, 90..91]);
        assert_eq!((retry.count(), all(&retry)), (6, vec![2, 3, 7, 8, 9, 90]));
        assert_eq!(retry.pieces(1..4).collect::<Vec<_>>(), [(1..2, 3), (2..4, 7)]);
        assert_eq!(retry.pieces(3..4).collect::<Vec<_>>(), [(3..4, 8)]);
        assert_eq!(retry.pieces(6..9).collect::<Vec<_>>(), []);
        assert_eq!(origins(&[]).count(), 0);
    }

    #[test]
    fn a_retry_of_a_retry_names_the_tasks_of_the_first_job() {
        let first = origins(&[2..4, 7..10, 90..91]);
        let second = Origins::of(&[1..3, 5..6], Some(&first));
        assert_eq!(all(&second), [3, 7, 90]);
    }

    #[test]
    fn what_was_written_is_read_and_anything_else_is_refused() {
        for tasks in [vec![], vec![0..1, 2..3], vec![5..200, 300..301, 9_000_000..10_000_000]] {
            let written = origins(&tasks);
            assert_eq!(Origins::decode(&written.encode()), Ok(written));
        }
        let scattered: Vec<_> = (0..1000).map(|task| task * 3..task * 3 + 1).collect();
        assert_eq!(origins(&scattered).encode().len(), 2000);
        for wrong in [&[1][..], &[1, 0], &[0x80, 1], &[0xff; 12], &[0xff, 0xff, 0xff, 0xff, 0x0f, 2]] {
            assert_eq!(Origins::decode(wrong), Err(InvalidOrigins), "{wrong:?}");
        }
    }
}
