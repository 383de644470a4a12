//! The protocols of Highwater, explored exhaustively: every order in which the steps of calls, reconcilers and faults can
//! happen, for one job of two tasks, two gateways or three, one Redis and one Postgres.
//!
//! Everything that the domain decides is asked of the domain: marks and their merging and counting (`Cells`), which
//! state may follow which (`JobState::can_become`), what is an end (`end`, `verdict`), what a read answers (`resolve`),
//! what a tracker needs (`due`); and of the gateway's mirrors, what they hold of which tracker. The order of steps
//! is that of `src/gateway`, the scripts and statements are those of `src/live` and `src/store`, written down
//! again for a single job ([`steps`], [`stores`]).
//!
//! | file | what |
//! |---|---|
//! | `marks` | marks, by the domain's cells |
//! | `stores` | Redis and Postgres: scripts and statements |
//! | `world` | the state |
//! | `steps` | what gateways do |
//! | `model` | what can happen |
//! | `properties` | what must be so |
//! | `rules` | what can be left out, to see what it is for |

pub mod marks;
pub mod model;
pub mod properties;
pub mod rules;
pub mod steps;
pub mod stores;
pub mod world;
