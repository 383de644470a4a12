//! The address of a store, which may hold a password.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// Shown without user, password and parameters: those of Postgres may hold a password too.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// The whole address, for the store alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Never refused here: the refusal would quote it.
impl FromStr for StoreUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("…") };
        // A password may hold any of the characters that end a part, so only what comes behind the last @ is safe.
        let (hidden, shown) = rest.rsplit_once('@').map_or(("", rest), |(_, shown)| ("…@", shown));
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        write!(f, "{scheme}://{hidden}{shown}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_holds_no_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
            ("redis://:hunter2@cache:6379", "redis://…@cache:6379"),
            ("postgres://app:hun@ter2?@db/highwater?sslmode=require", "postgres://…@db/highwater"),
            ("postgres://db/highwater?password=hunter2", "postgres://db/highwater"),
            ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock"),
            ("hunter2", "…"),
        ] {
            assert_eq!(format!("{:?}", StoreUrl(url.to_owned())), shown);
        }
    }
}
