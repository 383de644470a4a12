//! The marks of the model's job as one byte: its cells, byte for byte. What they come to is asked of the domain once for
//! each byte there can be, and remembered.

use std::sync::OnceLock;

use highwater::domain::{Cells, Counts, EndCause, Layout, Mark, Outcome, Verdict, verdict};

/// How many tasks.
pub const TASKS: u32 = 2;
/// How many stages: with both tasks, no more than a byte.
pub const STAGES: usize = 1;
/// One failure is too many: a success after it turns the verdict.
pub const FAILURE_THRESHOLD: f64 = 0.0;
/// How the cells lie.
pub const LAYOUT: Layout = Layout { total: TASKS, stages: STAGES };

/// Marks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Marks(u8);

struct Table {
    merged: Vec<[Option<Marks>; 256]>,
    counts: Vec<Option<Counts>>,
}

impl Marks {
    /// One mark.
    pub fn one(task: u32, outcome: Outcome) -> Self {
        let mut cells = Cells::blank(LAYOUT);
        cells.mark(&[Mark { task, stage: 0, outcome }]);
        Self(cells.bytes()[0])
    }

    /// The cells that these are.
    pub fn cells(self) -> Option<Cells> {
        Cells::new(LAYOUT, vec![self.0]).ok()
    }

    /// The marks that these cells are.
    pub fn of(cells: &Cells) -> Self {
        Self(cells.bytes()[0])
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        table().merged[usize::from(self.0)][usize::from(other.0)].unwrap_or_default()
    }

    /// Whether `other` has all of these.
    pub fn are_in(self, other: Self) -> bool {
        self.and(other) == other
    }

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// Who stands where.
    pub fn counts(self) -> &'static Counts {
        static NONE: OnceLock<Counts> = OnceLock::new();
        let counts = table().counts[usize::from(self.0)].as_ref();
        counts.unwrap_or_else(|| NONE.get_or_init(|| Counts::none(TASKS, STAGES)))
    }

    /// Whether nothing is pending.
    pub fn are_complete(self) -> bool {
        self.counts().is_complete()
    }

    /// What they lead to.
    pub fn end(self, cause: EndCause, unseen: bool) -> Option<Verdict> {
        verdict(cause, self.counts(), unseen, FAILURE_THRESHOLD)
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let cells: Vec<Option<Cells>> = (0..=u8::MAX).map(|byte| Marks(byte).cells()).collect();
        let merge = |one: &Option<Cells>, other: &Option<Cells>| {
            let mut cells = one.clone()?;
            cells.merge(other.as_ref()?);
            Some(Marks::of(&cells))
        };
        let row = |one: &Option<Cells>| std::array::from_fn(|other| merge(one, &cells[other]));
        let merged = cells.iter().map(row).collect();
        Table { merged, counts: cells.iter().map(|cells| cells.as_ref().map(Cells::count)).collect() }
    })
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(cells) = self.cells() else { return write!(f, "{:#b}", self.0) };
        let letter = |status| match status {
            highwater::domain::Status::Pending => '-',
            highwater::domain::Status::Failed => 'f',
            highwater::domain::Status::Succeeded => 's',
            highwater::domain::Status::Skipped => 'x',
        };
        (0..TASKS).try_for_each(|task| cells.cell(task).statuses(STAGES).try_for_each(|s| write!(f, "{}", letter(s))))
    }
}
