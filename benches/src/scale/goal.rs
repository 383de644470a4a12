//! Goals of the page, and whether they are met.

use crate::format::short;
use crate::page::Page;

/// A figure with an upper or lower bound.
#[derive(Debug, Clone)]
pub struct Goal {
    what: &'static str,
    measured: f64,
    bound: f64,
    at_least: bool,
}

impl Goal {
    /// A goal with an upper bound.
    pub fn at_most(what: &'static str, bound: f64, measured: f64) -> Self {
        Self { what, measured, bound, at_least: false }
    }

    /// A goal with a lower bound.
    pub fn at_least(what: &'static str, bound: f64, measured: f64) -> Self {
        Self { what, measured, bound, at_least: true }
    }

    fn row(&self) -> [String; 4] {
        let bound = if self.at_least { "≥" } else { "≤" };
        [
            self.what.to_owned(),
            format!("**{}**", short(self.measured)),
            format!("{bound} {}", short(self.bound)),
            self.verdict(),
        ]
    }

    /// By how much the goal is missed, as a share of the bound; zero or negative if it is met.
    fn shortfall(&self) -> f64 {
        if self.at_least { 1.0 - self.measured / self.bound } else { self.measured / self.bound - 1.0 }
    }

    fn verdict(&self) -> String {
        let missed = self.shortfall();
        if missed <= 0.0 { "met".to_owned() } else { format!("missed by {:.0} %", (missed * 100.0).max(1.0)) }
    }
}

/// Adds the table of goals.
pub fn render(page: &mut Page, goals: &[Goal]) {
    let rows: Vec<_> = goals.iter().map(Goal::row).collect();
    page.table("goals", ["", "measured", "goal", ""], &rows);
    page.figure("goals.missed", goals.iter().filter(|goal| goal.shortfall() > 0.0).count() as f64);
    page.figure("goals.total", goals.len() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_says_by_how_much_a_goal_is_missed() {
        assert_eq!(Goal::at_most("", 5.0, 5.0).verdict(), "met");
        assert_eq!(Goal::at_most("", 5.0, 6.0).verdict(), "missed by 20 %");
        assert_eq!(Goal::at_least("", 0.9, 0.45).verdict(), "missed by 50 %");
        assert_eq!(Goal::at_least("", 0.9, 0.95).verdict(), "met");
    }
}
