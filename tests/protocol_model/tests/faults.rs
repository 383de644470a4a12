//! Tests of faults in jobs that end in each possible way.

use std::time::Duration;

use protocol_model::faults::Faults;
use protocol_model::scenario::Scenario;

/// The time limit of an exploration. It is far longer than any of these explorations takes.
const TIME_LIMIT: Duration = Duration::from_secs(600);

fn explore_pairs(job: &str, scenario: &Scenario<2>) {
    for (faults, pair) in Faults::pairs() {
        scenario.clone().with_faults(pair).explore(1, TIME_LIMIT).assert_holds(&format!("{job}, {faults}"));
    }
}

fn explore_single_faults(job: &str, scenario: &Scenario<2>) {
    for (faults, single) in Faults::SINGLE {
        scenario.clone().with_faults(single).explore(1, TIME_LIMIT).assert_holds(&format!("{job}, {faults}"));
    }
}

#[test]
fn successful_job_survives_every_pair_of_faults() {
    explore_pairs("success", &Scenario::all_succeed());
}

#[test]
fn failing_job_survives_every_pair_of_faults() {
    explore_pairs("failure", &Scenario::one_fails());
}

#[test]
fn cancelled_job_survives_every_pair_of_faults() {
    explore_pairs("cancel", &Scenario::cancelled());
}

#[test]
fn stalled_job_survives_every_pair_of_faults() {
    explore_pairs("stalled", &Scenario::cancelled().with_stall());
}

#[test]
fn retried_job_survives_every_single_fault() {
    explore_single_faults("retry", &Scenario::failure_retried());
}

#[test]
fn start_of_a_job_survives_every_single_fault() {
    explore_single_faults("start", &Scenario::cancelled().with_start());
}

#[test]
fn job_with_a_slow_feed_survives_every_single_fault() {
    explore_single_faults("slow feed", &Scenario::cancelled().with_slow_feed());
}

#[test]
fn damaged_tracker_falsifies_no_end_and_loses_no_mark() {
    let jobs = [Scenario::<2>::all_succeed(), Scenario::one_fails(), Scenario::cancelled().with_stall()];
    let damage = Faults { damages: 1, ..Faults::NONE };
    for (index, job) in jobs.into_iter().enumerate() {
        job.with_faults(damage).explore(1, TIME_LIMIT).assert_holds(&format!("damage, job {index}"));
    }
}

#[test]
fn failing_job_survives_damage_and_another_fault() {
    for (faults, pair) in Faults::pairs_with_damage() {
        Scenario::<2>::one_fails().with_faults(pair).explore(1, TIME_LIMIT).assert_holds(&format!("failure, {faults}"));
    }
}

#[test]
fn three_gateways_without_a_fault_meet_every_property() {
    Scenario::<3>::failure_retried().explore(1, TIME_LIMIT).assert_holds("three gateways");
}
