//! Integration tests of the public API with real servers and real processes, and checks of the source and the
//! documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot continue fails")]

mod airtight;
mod bad_input;
mod breakers;
mod cancelling;
mod chaos;
mod claiming;
mod clients;
mod commands;
mod concurrent_reports;
mod contention;
mod counting;
mod demo;
mod docs;
mod end_constraints;
mod ending;
mod examples;
mod faults;
mod fleet;
mod jobs;
mod language;
mod layers;
mod lists;
mod mentions;
mod named_tasks;
mod no_postgres_writes;
mod observability;
mod outages;
mod packaging;
mod private_servers;
mod prose;
mod reading;
mod runbook;
mod server_without_stores;
mod sharing;
mod source;
mod stalled_jobs;
mod startup;
mod stopping;
mod support;
mod ten_million_tasks;
mod ten_thousand_jobs;
mod tracker;
mod watching;
