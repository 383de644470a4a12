//! The page of the benchmark: tables, plots, and the figures that its text cites.

use super::Kind;
use super::contender::{ALL, Contender, DURABLE, SAVED};
use super::end_errors::EndErrors;
use super::hot_job::Load;
use super::measurement::Measurement;
use super::postgres_stats::TableStats;
use super::results::Results;
use super::run::REPORTERS;
use crate::Result;
use crate::format::count;
use crate::page::{Page, Run};
use crate::plot;

/// The load for which latencies, reads and costs are shown.
const HOT: Load = Load::of(64, 0);
const TEN_RESULTS: Load = Load { reporters: 16, redelivered: 0, results: 10 };

/// The names of the designs in figures.
const NAMES: [(&str, Contender); 6] = [
    ("blob", Contender::Design(Kind::Blob)),
    ("locked", Contender::Design(Kind::Locked)),
    ("counters", Contender::Design(Kind::Counters)),
    ("receipts", Contender::Design(Kind::Receipts)),
    ("writer", Contender::Design(Kind::SingleWriter)),
    ("highwater", Contender::Highwater),
];

/// Renders the page.
pub fn render(run: &Run<Results>) -> Result<Page> {
    let mut page = Page::new("designs", run);
    let results = &run.results;
    rates(&mut page, results)?;
    reads(&mut page, results);
    costs(&mut page, results);
    wrong_counts(&mut page, results)?;
    ends(&mut page, results);
    for (name, contender) in NAMES {
        load_figures(&mut page, results, name, contender);
    }
    derived_figures(&mut page, results);
    Ok(page)
}

fn rates(page: &mut Page, results: &Results) -> Result<()> {
    let rate =
        |contender, load| format!("{} ({:.2})", count(results.rate(contender, load)), results.ratio(contender, load));
    let millis = |contender| {
        let median = |figure| results.median(contender, HOT, figure);
        format!("{:.1} / {:.1}", median(|it| it.p50_millis), median(|it| it.p99_millis))
    };
    let row = |contender: &Contender| {
        let [one, some, many] = REPORTERS.map(|reporters| rate(*contender, Load::of(reporters, 0)));
        let (redelivered, ten) = match contender {
            Contender::Durable(_) => (String::new(), String::new()),
            _ => (rate(*contender, Load::of(64, 10)), rate(*contender, TEN_RESULTS)),
        };
        [contender.to_string(), one, some, many, millis(*contender), redelivered, ten]
    };
    let rows: Vec<_> = ALL.iter().chain(&DURABLE).map(row).collect();
    page.table(
        "rates",
        ["", "1 reporter", "16", "64", "64: ms (p50 / p99)", "64, 10 % redelivered", "16, 10 results each"],
        &rows,
    );
    let line = |contender: &Contender| {
        let point = |reporters| (reporters as f64, results.rate(*contender, Load::of(reporters, 0)));
        (contender.to_string(), REPORTERS.map(point).to_vec())
    };
    let lines: Vec<_> = ALL.iter().map(line).collect();
    let svg = plot::lines("Reports per second to one hot job", "reporters", "reports per second", &lines)?;
    page.plot("rates", "Reports per second by number of reporters", svg);
    Ok(())
}

fn reads(page: &mut Page, results: &Results) {
    let row = |contender: &Contender| {
        let median = |figure| results.median(*contender, HOT, figure);
        let worst = |figure| results.worst(*contender, HOT, figure);
        let wrong = worst(|it| it.excess) != 0.0;
        let lag = format!("{:.1} / {:.1}", median(|it| it.lag_millis), worst(|it| it.lag_millis_max));
        [
            contender.to_string(),
            count(median(|it| it.reads)),
            format!("{:.1}", median(|it| it.read_p99_millis)),
            format!("{} / {}", count(median(|it| it.lag_marks)), count(worst(|it| it.lag_marks_max))),
            if wrong { "wrong".to_owned() } else { lag },
        ]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    let head = ["", "reads per second", "p99, ms", "missing reports (median / max)", "age, ms (median / max)"];
    page.table("reads", head, &rows);
}

fn costs(page: &mut Page, results: &Results) {
    let row = |contender: &Contender| {
        let median = |figure| count(results.median(*contender, HOT, figure));
        let tables = results.tables(*contender);
        let cell = |format: fn(f64, TableStats) -> String| {
            tables.map_or_else(String::new, |tables| format(tables.reports, tables.stats))
        };
        [
            contender.to_string(),
            median(|it| it.wal_bytes),
            median(|it| it.server_micros),
            median(|it| it.postgres_micros),
            median(|it| it.redis_micros),
            cell(|reports, stats| format!("{:.3}", stats.updated as f64 / reports.max(1.0))),
            cell(|_, stats| format!("{:.1} %", stats.hot_updated as f64 * 100.0 / stats.updated.max(1) as f64)),
            cell(|_, stats| count(stats.dead as f64)),
            cell(|_, stats| format!("{} KiB", count(stats.bytes as f64 / 1024.0))),
        ]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    page.table(
        "costs",
        [
            "",
            "WAL, bytes",
            "server CPU, µs",
            "Postgres CPU, µs",
            "Redis CPU, µs",
            "dead rows per report",
            "HOT updates",
            "dead rows at the end",
            "size of tables",
        ],
        &rows,
    );
}

fn wrong_counts(page: &mut Page, results: &Results) -> Result<()> {
    let excess = |contender: Contender, load| results.worst(contender, load, Measurement::excess_percent);
    let percent = |contender, load| match excess(contender, load) {
        0.0 => "0".to_owned(),
        excess => format!("{excess:+.1} %"),
    };
    let row = |contender: &Contender| {
        let [one, some, many] = REPORTERS.map(|reporters| percent(*contender, Load::of(reporters, 0)));
        let redelivered = REPORTERS.map(|reporters| percent(*contender, Load::of(reporters, 10)));
        let [one_again, some_again, many_again] = redelivered;
        [contender.to_string(), one, some, many, one_again, some_again, many_again]
    };
    let rows: Vec<_> = ALL.iter().map(row).collect();
    page.table("wrong", ["", "1 reporter", "16", "64", "10 % redelivered: 1", "16", "64"], &rows);
    let names: Vec<_> = ALL.iter().map(ToString::to_string).collect();
    let series = [("no redelivery", 0), ("10 % redelivered", 10)].map(|(name, redelivered)| {
        let values = ALL.iter().map(|contender| excess(*contender, Load::of(64, redelivered))).collect();
        (name.to_owned(), values)
    });
    let title = "Marks lost (below 0) and counted twice (above 0), 64 reporters";
    page.plot("wrong", "Marks lost and counted twice", plot::groups(title, "% of marks", &names, &series)?);
    Ok(())
}

fn ends(page: &mut Page, results: &Results) {
    let contenders: Vec<_> = [SAVED].into_iter().chain(ALL).collect();
    let row = |contender: &Contender| {
        let both = [0, 10].map(|redelivered| results.errors(*contender, redelivered));
        let cell = |error: fn(&EndErrors) -> u64| both.each_ref().map(error).map(|jobs| jobs.to_string()).join(" / ");
        [
            contender.to_string(),
            cell(|it| it.marks_lost),
            cell(|it| it.marks_counted_twice),
            cell(|it| it.never_ended),
            cell(|it| it.ended_early),
            cell(|it| it.ended_twice),
            cell(|it| it.end_changed),
        ]
    };
    let rows: Vec<_> = contenders.iter().map(row).collect();
    page.table(
        "ends",
        [
            "",
            "marks lost",
            "marks counted twice",
            "never ended",
            "ended before all was reported",
            "end written more than once",
            "a caller got another end",
        ],
        &rows,
    );
}

fn load_figures(page: &mut Page, results: &Results, name: &str, contender: Contender) {
    let percent = |load| results.worst(contender, load, Measurement::excess_percent);
    for reporters in REPORTERS {
        let load = Load::of(reporters, 0);
        page.figure(format!("{name}.rate_{reporters}"), results.rate(contender, load));
        page.figure(format!("{name}.ratio_{reporters}"), results.ratio(contender, load));
        page.figure(format!("{name}.p50_{reporters}"), results.median(contender, load, |it| it.p50_millis));
        page.figure(format!("{name}.p99_{reporters}"), results.median(contender, load, |it| it.p99_millis));
        page.figure(format!("{name}.lost_{reporters}"), -percent(load));
        page.figure(format!("{name}.extra_{reporters}"), percent(Load::of(reporters, 10)));
    }
    page.figure(format!("{name}.lag_millis"), results.median(contender, HOT, |it| it.lag_millis));
    page.figure(format!("{name}.lag_millis_max"), results.worst(contender, HOT, |it| it.lag_millis_max));
    page.figure(format!("{name}.lag_marks"), results.median(contender, HOT, |it| it.lag_marks));
    page.figure(format!("{name}.wal"), results.median(contender, HOT, |it| it.wal_bytes));
}

fn derived_figures(page: &mut Page, results: &Results) {
    let [_, (_, locked), (_, counters), (_, receipts), (_, writer), (_, highwater)] = NAMES;
    let gain = |contender| results.rate(contender, HOT) / results.rate(contender, Load::of(16, 0));
    let on_disk = |kind| results.rate(Contender::Durable(kind), HOT);
    page.figure("counters.gain", gain(counters));
    page.figure("highwater.gain", gain(highwater));
    page.figure("counters.over_locked", results.rate(counters, HOT) / results.rate(locked, HOT));
    page.figure("counters.on_disk", on_disk(Kind::Counters));
    page.figure("counters.over_on_disk", results.rate(counters, HOT) / on_disk(Kind::Counters));
    page.figure("receipts.on_disk", on_disk(Kind::Receipts));
    page.figure("highwater.over_writer", 1.0 / results.ratio(writer, HOT));
    if let Some(tables) = results.tables(receipts) {
        page.figure("receipts.table_bytes", tables.stats.bytes as f64 / tables.stats.inserted.max(1) as f64);
    }
    for (name, contender) in [("saved", SAVED)].into_iter().chain(NAMES) {
        let both = results.errors(contender, 0).and(results.errors(contender, 10));
        page.figure(format!("{name}.jobs"), both.jobs as f64);
        page.figure(format!("{name}.marks_lost"), both.marks_lost as f64);
        page.figure(format!("{name}.never_ended"), both.never_ended as f64);
        page.figure(format!("{name}.ended_early"), both.ended_early as f64);
        page.figure(format!("{name}.end_changed"), both.end_changed as f64);
        page.figure(format!("{name}.jobs_redelivered"), results.errors(contender, 10).jobs as f64);
    }
}
