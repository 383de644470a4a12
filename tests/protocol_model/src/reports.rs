//! The reports that workers send: a bit for each, and the marks that they set.

use std::sync::OnceLock;

use highwater::domain::Outcome;

use crate::marks::Marks;

/// The reports that workers send: a bit for each.
pub const FAILED: u8 = 1;
/// The same task again, which succeeds now.
pub const RETRIED: u8 = 2;
/// The other task.
pub const OTHER: u8 = 4;

/// The marks of one report.
pub fn marks_of(report: u8) -> Marks {
    marks_of_all(report)
}

/// The reports that these marks could be of.
pub fn reports_of(marks: Marks) -> u8 {
    [FAILED, RETRIED, OTHER].into_iter().filter(|report| marks_of(*report).are_in(marks)).sum()
}

/// The marks of several.
pub fn marks_of_all(reports: u8) -> Marks {
    static TABLE: OnceLock<[Marks; 8]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let each = [
            (FAILED, Marks::one(0, Outcome::Failed)),
            (RETRIED, Marks::one(0, Outcome::Succeeded)),
            (OTHER, Marks::one(1, Outcome::Succeeded)),
        ];
        std::array::from_fn(|bits| {
            let sent = each.iter().filter(|(bit, _)| bits & usize::from(*bit) != 0);
            sent.fold(Marks::default(), |all, (_, marks)| all.and(*marks))
        })
    });
    table[usize::from(reports & 7)]
}
