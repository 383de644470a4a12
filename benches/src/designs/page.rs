//! The page: how it was measured, tables, plots. What it comes to is told by `prose`, from the same figures.

use super::contender::{ALL, Contender, DURABLE};
use super::ends;
use super::judge::Wrongs;
use super::load::Load;
use super::outcome::Outcome;
use super::run::REPORTERS;
use super::{Kind, prose};
use crate::Result;
use crate::page::{Page, count};
use crate::plot;

/// Where the loads are told apart most.
const HOT: Load = Load { reporters: 64, redelivered: 0, results: 1 };
const TEN: Load = Load { reporters: 16, redelivered: 0, results: 10 };

/// Writes all of it.
pub fn write(outcome: &Outcome) -> Result<Page> {
    let mut page = Page::new("designs", "The designs that it replaces");
    page.say(prose::MEASURED);
    page.say(prose::TUNED);
    for answer in prose::answers(outcome) {
        page.heading(answer.question);
        for paragraph in answer.paragraphs {
            page.say(paragraph);
        }
    }
    rates(&mut page, outcome)?;
    reads(&mut page, outcome);
    costs(&mut page, outcome);
    wrongs(&mut page, outcome)?;
    page.data("loads", &outcome.loaded)?;
    page.data("left", &outcome.left)?;
    page.data("ends", &outcome.judged)?;
    Ok(page)
}

fn rates(page: &mut Page, outcome: &Outcome) -> Result<()> {
    page.heading("Reports a second");
    page.say("In brackets: for each one of Highwater's. Each figure is the middle of the rounds.");
    let rate =
        |contender, load| format!("{} ({:.2})", count(outcome.rate(contender, load)), outcome.ratio(contender, load));
    let millis = |contender| {
        let middle = |figure| outcome.middle(contender, HOT, figure);
        format!("{:.1} / {:.1}", middle(|figures| figures.p50_millis), middle(|figures| figures.p99_millis))
    };
    let row = |contender: &Contender| {
        let [one, some, many] = REPORTERS.map(|reporters| rate(*contender, Load::of(reporters, 0)));
        let (again, ten) = match contender {
            Contender::Durable(_) => (String::new(), String::new()),
            _ => (rate(*contender, Load::of(64, 10)), rate(*contender, TEN)),
        };
        [contender.to_string(), one, some, many, millis(*contender), again, ten]
    };
    let rows: Vec<_> = ALL.iter().chain(&DURABLE).map(row).collect();
    page.table(
        ["", "1 reporter", "16", "64", "64: ms (p50 / p99)", "64, a tenth comes twice", "16, 10 results each"],
        &rows,
    );
    let line = |contender: &Contender| {
        let point = |reporters| (reporters as f64, outcome.rate(*contender, Load::of(reporters, 0)));
        (contender.to_string(), REPORTERS.map(point).to_vec())
    };
    let lines: Vec<_> = ALL.iter().map(line).collect();
    let svg = plot::lines("Reports a second of one hot job", "reporters", "reports a second", &lines)?;
    page.plot("rates", "Reports a second by the number of reporters", svg);
    Ok(())
}

fn reads(page: &mut Page, outcome: &Outcome) {
    page.heading("What a reader sees meanwhile");
    page.say(
        "Two readers ask for the same job, 5 ms after each answer, while 64 reporters report, none twice. Behind is how \
         many reports that had been answered an answer lacked; old, how long ago the first of them had been answered. \
         Where marks are lost, what is shown is not old but wrong.",
    );
    let row = |contender: &Contender| {
        let middle = |figure| outcome.middle(*contender, HOT, figure);
        let most = |figure| outcome.worst(*contender, HOT, figure);
        let wrong = outcome.worst(*contender, HOT, |figures| figures.off) != 0.0;
        let old = format!("{:.1} / {:.1}", middle(|it| it.age_millis), most(|it| it.age_most_millis));
        [
            contender.to_string(),
            count(middle(|it| it.reads)),
            format!("{:.1}", middle(|it| it.read_p99_millis)),
            format!("{} / {}", count(middle(|it| it.behind)), count(most(|it| it.behind_most))),
            if wrong { "wrong".to_owned() } else { old },
        ]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    page.table(["", "reads a second", "p99, ms", "reports behind (middle / most)", "ms old (middle / most)"], &rows);
}

fn costs(page: &mut Page, outcome: &Outcome) {
    page.heading("What a report costs");
    page.say(
        "64 reporters, none twice. WAL is what Postgres writes ahead. Rows are of all loads together: versions that were \
         written over, so dead ones, for each report; how many of these touched no index (HOT); how many had not been \
         cleared away at the end; and what the tables take then.",
    );
    let row = |contender: &Contender| {
        let middle = |figure| count(outcome.middle(*contender, HOT, figure));
        let left = outcome.left(*contender);
        let kept = |tell: fn(f64, super::tables::Kept) -> String| {
            left.map_or_else(String::new, |left| tell(left.reports, left.kept))
        };
        [
            contender.to_string(),
            middle(|it| it.wal),
            middle(|it| it.server_micros),
            middle(|it| it.postgres_micros),
            middle(|it| it.redis_micros),
            kept(|reports, kept| format!("{:.3}", kept.updated as f64 / reports.max(1.0))),
            kept(|_, kept| format!("{:.1} %", kept.hot as f64 * 100.0 / kept.updated.max(1) as f64)),
            kept(|_, kept| count(kept.dead as f64)),
            kept(|_, kept| format!("{} KiB", count(kept.bytes as f64 / 1024.0))),
        ]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    page.table(
        [
            "",
            "WAL, bytes",
            "CPU of the server, µs",
            "of Postgres",
            "of Redis",
            "dead rows a report",
            "HOT",
            "dead at the end",
            "tables",
        ],
        &rows,
    );
}

fn wrongs(page: &mut Page, outcome: &Outcome) -> Result<()> {
    page.heading("What went wrong");
    page.say(
        "By how much what is shown at last differs from what was reported, in the worst round: lost below zero, counted \
         twice above it.",
    );
    let off = |contender: Contender, load| outcome.worst(contender, load, super::figures::Figures::off_percent);
    let percent = |contender, load| match off(contender, load) {
        0.0 => "0".to_owned(),
        off => format!("{off:+.1} %"),
    };
    let row = |contender: &Contender| {
        let [one, some, many] = REPORTERS.map(|reporters| percent(*contender, Load::of(reporters, 0)));
        let twice = REPORTERS.map(|reporters| percent(*contender, Load::of(reporters, 10)));
        let [one_twice, some_twice, many_twice] = twice;
        [contender.to_string(), one, some, many, one_twice, some_twice, many_twice]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    page.table(["", "1 reporter", "16", "64", "a tenth twice: 1", "16", "64"], &rows);
    let names: Vec<_> = ALL.iter().map(ToString::to_string).collect();
    let series = [("none twice", 0), ("a tenth twice", 10)].map(|(name, redelivered)| {
        let values = ALL.iter().map(|contender| off(*contender, Load::of(64, redelivered))).collect();
        (name.to_owned(), values)
    });
    let title = "Lost (below) and counted twice (above), 64 reporters";
    page.plot(
        "wrong",
        "What was lost, and what was counted twice",
        plot::groups(title, "% of marks", &names, &series)?,
    );

    let judged: Vec<_> = [Contender::Design(Kind::Saved)].into_iter().chain(ALL).collect();
    let jobs = outcome.wrongs(Contender::Highwater, 0).jobs;
    page.say(format!(
        "Ends: jobs of {} tasks at three stages, each reported by {} reporters to its end; in half of them a cancel \
         comes just before it. So many ended of {jobs} jobs without, and of {jobs} with a tenth of the reports coming twice:",
        ends::TASKS,
        ends::REPORTERS,
    ));
    let row = |contender: &Contender| {
        let both = [0, 10].map(|redelivered| outcome.wrongs(*contender, redelivered));
        let tell = |wrong: fn(&Wrongs) -> u64| both.each_ref().map(wrong).map(|jobs| jobs.to_string()).join(" / ");
        [
            contender.to_string(),
            tell(|it| it.short),
            tell(|it| it.over),
            tell(|it| it.endless),
            tell(|it| it.early),
            tell(|it| it.rewritten),
            tell(|it| it.taken_back),
        ]
    };
    let rows: Vec<_> = judged.iter().map(row).collect();
    page.table(
        [
            "",
            "with marks lost",
            "with marks counted twice",
            "never",
            "before all was reported",
            "more than once",
            "otherwise than somebody was told",
        ],
        &rows,
    );
    Ok(())
}
