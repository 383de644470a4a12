//! The protocols of Highwater, explored exhaustively: every order in which the steps of calls, reconcilers and faults can
//! happen, for one job of two tasks, two gateways or three, one Redis and one Postgres.
//!
//! Everything that the domain decides is asked of the domain: marks and their merging and counting (`Cells`), which
//! state may follow which (`JobState::can_become`), what is an end (`end`, `verdict`), what a read answers (`resolve`),
//! what a tracker needs (`due`); and of the gateway's mirrors, what they hold of which tracker. The order of steps
//! is that of `src/gateway`, the scripts and statements are those of `src/live` and `src/store`, written down
//! again for a single job ([`steps`], [`stores`]): who changes them there changes them here.
//!
//! | file | what |
//! |---|---|
//! | `marks`, `reports` | marks, by the domain's cells; the reports that set them |
//! | `stores` | Redis and Postgres: scripts and statements |
//! | `gateway`, `feed` | what a gateway remembers, and hears |
//! | `world` | the state |
//! | `steps` | what gateways do, one file for each use case |
//! | `model`, `faults` | what can happen, and go wrong |
//! | `properties` | what must be so |
//! | `rules` | what can be left out, to see what it is for |
//! | `protocol`, `worlds` | what is explored: jobs, and pairs of faults |
//! | `explore` | exploring, and the story of what must not be |
//!
//! Not in it: several calls at once within one gateway (another gateway makes up for that), more than one place in a
//! tracker at which marks collide, what is no tracker in a tracker's key, a Redis that can be read but not written,
//! mirrors that are dropped for want of memory, gateways that are stopped as planned, and time. That the settle time is
//! longer than a report and two rounds take, and than a feed is believed, is what [`world::World::settled`] says; and
//! nothing forgets an end once its tracker has gone away by itself.

pub mod explore;
pub mod faults;
pub mod feed;
pub mod gateway;
pub mod marks;
pub mod model;
pub mod properties;
pub mod protocol;
pub mod reports;
pub mod rules;
pub mod steps;
pub mod stores;
pub mod world;
pub mod worlds;
