//! The reports that workers send, with one bit for each report, and the marks that the reports set.

use std::sync::OnceLock;

use highwater::domain::Outcome;

use crate::marks::Marks;

/// The first task failed.
pub const FAILED: u8 = 1;
/// The first task succeeded on retry.
pub const RETRIED: u8 = 2;
/// The other task succeeded.
pub const OTHER: u8 = 4;

/// The marks that a set of reports sets.
pub fn marks_of(reports: u8) -> Marks {
    static TABLE: OnceLock<[Marks; 8]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let each = [
            (FAILED, Marks::single(0, Outcome::Failed)),
            (RETRIED, Marks::single(0, Outcome::Succeeded)),
            (OTHER, Marks::single(1, Outcome::Succeeded)),
        ];
        std::array::from_fn(|bits| {
            let sent = each.iter().filter(|(bit, _)| bits & usize::from(*bit) != 0);
            sent.fold(Marks::default(), |all, (_, marks)| all.union(*marks))
        })
    });
    table[usize::from(reports & 7)]
}

/// The reports whose marks this set contains.
pub fn reports_of(marks: Marks) -> u8 {
    [FAILED, RETRIED, OTHER].into_iter().filter(|report| marks_of(*report).is_subset_of(marks)).sum()
}
