//! Series of metrics that are found once: looking one up by its labels takes longer than what it measures.

use std::sync::OnceLock;

/// So many series of one metric. Each is made when it is needed first, so that none shows what never happened.
#[derive(Debug)]
pub struct Series<T, const N: usize>([OnceLock<T>; N]);

impl<T, const N: usize> Default for Series<T, N> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; N])
    }
}

impl<T, const N: usize> Series<T, N> {
    /// The series of this number; of one that there is not, nothing is kept.
    pub fn of(&self, number: usize, make: impl FnOnce() -> T, measure: impl FnOnce(&T)) {
        match self.0.get(number) {
            Some(series) => measure(series.get_or_init(make)),
            None => measure(&make()),
        }
    }
}
