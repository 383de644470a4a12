//! The stores that a command's settings name. Neither has to be there yet.

use super::Misuse;
use crate::config::{POSTGRES_FORM, REDIS_FORM};
use crate::live::{self, Live};
use crate::store::{self, Store};

/// Redis.
pub fn redis(settings: &live::Settings) -> Result<Live, Misuse> {
    Live::new(settings).map_err(|error| Misuse(format!("--redis-url: {error}; it is written {REDIS_FORM}")))
}

/// Postgres.
pub fn postgres(settings: &store::Settings) -> Result<Store, Misuse> {
    Store::new(settings).map_err(|error| Misuse(format!("--postgres-url: {error}; it is written {POSTGRES_FORM}")))
}
