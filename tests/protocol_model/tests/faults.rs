//! Every pair of faults, on jobs that end in each way.

use std::time::Duration;

use protocol_model::protocol::Protocol;
use protocol_model::worlds::{self, KINDS};

/// Far more than any of these takes.
const WITHIN: Duration = Duration::from_secs(600);

fn every_pair(protocol: &Protocol<2>) {
    for (name, faults) in worlds::pairs() {
        protocol.clone().with(faults).explore(1, WITHIN).holds(&name);
    }
}

fn every_fault(protocol: &Protocol<2>) {
    for (name, faults) in KINDS {
        protocol.clone().with(faults).explore(1, WITHIN).holds(name);
    }
}

#[test]
fn a_job_that_succeeds_past_two_faults() {
    every_pair(&worlds::succeeding());
}

#[test]
fn a_job_that_fails_past_two_faults() {
    every_pair(&worlds::failing());
}

#[test]
fn a_job_that_is_cancelled_past_two_faults() {
    every_pair(&worlds::cancelled());
}

#[test]
fn a_job_that_is_tried_again_past_a_fault() {
    every_fault(&worlds::retrying());
}

#[test]
fn a_job_that_is_started_past_a_fault() {
    every_fault(&worlds::cancelled().started());
}

#[test]
fn a_job_whose_feed_lags_past_a_fault() {
    every_fault(&worlds::cancelled().lagging());
}

#[test]
fn a_job_that_makes_no_progress_past_two_faults() {
    every_pair(&worlds::cancelled().stalled());
}

#[test]
fn three_gateways_without_a_fault() {
    worlds::retrying::<3>().explore(1, WITHIN).holds("three gateways");
}
