//! Goals, and whether they are met.

use serde::Serialize;

use crate::page::Page;

/// A figure that is to be at most, or at least, so much.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    what: &'static str,
    found: f64,
    bound: f64,
    at_least: bool,
}

impl Goal {
    /// Must not be more.
    pub fn at_most(what: &'static str, bound: f64, found: f64) -> Self {
        Self { what, found, bound, at_least: false }
    }

    /// Must not be less.
    pub fn at_least(what: &'static str, bound: f64, found: f64) -> Self {
        Self { what, found, bound, at_least: true }
    }

    fn row(&self) -> [String; 4] {
        let bound = if self.at_least { "≥" } else { "≤" };
        [
            self.what.to_owned(),
            format!("**{}**", short(self.found)),
            format!("{bound} {}", short(self.bound)),
            self.verdict(),
        ]
    }

    fn verdict(&self) -> String {
        let missed = if self.at_least { 1.0 - self.found / self.bound } else { self.found / self.bound - 1.0 };
        if missed <= 0.0 { "met".to_owned() } else { format!("missed by {:.0} %", (missed * 100.0).max(1.0)) }
    }
}

/// The goals as a table.
pub fn tell(page: &mut Page, goals: &[Goal]) {
    let rows: Vec<_> = goals.iter().map(Goal::row).collect();
    page.table(["", "found", "goal", ""], &rows);
}

/// With as many digits as say something.
pub fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => crate::page::count(number),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_by_how_much_it_is_missed() {
        assert_eq!(Goal::at_most("", 5.0, 5.0).verdict(), "met");
        assert_eq!(Goal::at_most("", 5.0, 6.0).verdict(), "missed by 20 %");
        assert_eq!(Goal::at_least("", 0.9, 0.45).verdict(), "missed by 50 %");
        assert_eq!(Goal::at_least("", 0.9, 0.95).verdict(), "met");
    }
}
