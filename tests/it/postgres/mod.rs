//! Tests of Postgres in practice: limits of connections, poolers, and a server that answers but refuses.

mod connections;
mod poolers;
mod refusals;
