//! The marks of the model's job, stored as the single byte that its cells take. The domain computes merges and counts,
//! once for each possible byte.

use std::sync::OnceLock;

use highwater::domain::{Cells, Counts, EndCause, Layout, Mark, Outcome, Status, Verdict, verdict};

/// The number of tasks.
pub const TASKS: u32 = 2;
/// The number of stages. The cells of both tasks must fit in one byte.
pub const STAGES: usize = 1;
/// The failure threshold of the job. One failed task fails the job, so a success on retry changes the verdict.
pub const FAILURE_THRESHOLD: f64 = 0.0;
/// The layout of the cells.
pub const LAYOUT: Layout = Layout { total: TASKS, stages: STAGES };

/// A set of marks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Marks(u8);

/// The results of the domain, indexed by the byte of a set of marks. `None` for a byte that is not valid as cells.
struct Table {
    merged: Vec<[Option<Marks>; 256]>,
    counts: Vec<Option<Counts>>,
}

impl Marks {
    /// A single mark.
    pub fn single(task: u32, outcome: Outcome) -> Self {
        let mut cells = Cells::blank(LAYOUT);
        cells.mark(&[Mark { task, stage: 0, outcome }]);
        Self(cells.bytes()[0])
    }

    /// The mark that the first task succeeded.
    pub fn first_succeeded() -> Self {
        Self::single(0, Outcome::Succeeded)
    }

    /// The marks of all tasks except for the first.
    #[must_use]
    pub fn without_first(self) -> Self {
        Self(self.0 & !Self::first_succeeded().0)
    }

    /// Converts the marks to cells.
    pub fn cells(self) -> Option<Cells> {
        Cells::new(LAYOUT, vec![self.0]).ok()
    }

    /// Converts cells to marks.
    pub fn from_cells(cells: &Cells) -> Self {
        Self(cells.bytes()[0])
    }

    /// The marks of both sets, merged by the domain.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        table().merged[usize::from(self.0)][usize::from(other.0)].unwrap_or_default()
    }

    /// Whether `other` contains all of these marks.
    pub fn is_subset_of(self, other: Self) -> bool {
        self.union(other) == other
    }

    /// Whether the set is not empty.
    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// The counts of each stage.
    pub fn counts(self) -> &'static Counts {
        static NONE: OnceLock<Counts> = OnceLock::new();
        let counts = table().counts[usize::from(self.0)].as_ref();
        counts.unwrap_or_else(|| NONE.get_or_init(|| Counts::none(TASKS, STAGES)))
    }

    /// Whether no task is pending at any stage.
    pub fn is_complete(self) -> bool {
        self.counts().is_complete()
    }

    /// The domain's verdict on these marks. `may_miss_marks` says whether acknowledged marks may be missing from the
    /// set.
    pub fn verdict(self, cause: EndCause, may_miss_marks: bool) -> Option<Verdict> {
        verdict(cause, self.counts(), may_miss_marks, FAILURE_THRESHOLD)
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let cells: Vec<Option<Cells>> = (0..=u8::MAX).map(|byte| Marks(byte).cells()).collect();
        let merge = |left: &Option<Cells>, right: &Option<Cells>| {
            let mut cells = left.clone()?;
            cells.merge(right.as_ref()?);
            Some(Marks::from_cells(&cells))
        };
        let row = |left: &Option<Cells>| std::array::from_fn(|right| merge(left, &cells[right]));
        let merged = cells.iter().map(row).collect();
        Table { merged, counts: cells.iter().map(|cells| cells.as_ref().map(Cells::count)).collect() }
    })
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(cells) = self.cells() else { return write!(f, "{:#b}", self.0) };
        let letter = |status| match status {
            Status::Pending => '-',
            Status::Failed => 'f',
            Status::Succeeded => 's',
            Status::Skipped => 'x',
        };
        (0..TASKS).try_for_each(|task| {
            cells.cell(task).statuses(STAGES).try_for_each(|status| write!(f, "{}", letter(status)))
        })
    }
}
