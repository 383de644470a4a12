//! An exhaustive model of Highwater's protocols. It explores every order of the steps of calls, reconcilers and faults,
//! for one job with two tasks, two or three gateways, one Redis and one Postgres.
//!
//! The model calls the domain and the gateway's `Mirrors` for every decision. It repeats only the order of steps in
//! `src/gateway` ([`steps`]) and the effects of scripts and statements in `src/live` and `src/store` ([`stores`]). A
//! change in these directories needs the same change here. `README.md` explains how to read and run the model, and
//! lists its limits.
//!
//! | module | contents |
//! |---|---|
//! | `marks`, `reports` | marks, computed by the domain's cells; the reports that set them |
//! | `stores` | Redis and Postgres: scripts and statements |
//! | `gateway`, `feed` | a gateway's memory, and its feed session |
//! | `world` | the complete state that is explored |
//! | `steps` | the steps of a gateway, one file for each use case |
//! | `model`, `faults` | the actions that are possible in a state, and their effects |
//! | `properties` | the conditions that every state must meet |
//! | `rules` | protocol rules that a scenario can omit |
//! | `scenario` | the calls, faults and omitted rule of one exploration |
//! | `explore` | runs an exploration and prints the trace of a violation |

pub mod explore;
pub mod faults;
pub mod feed;
pub mod gateway;
pub mod marks;
pub mod model;
pub mod properties;
pub mod reports;
pub mod rules;
pub mod scenario;
pub mod steps;
pub mod stores;
pub mod world;
