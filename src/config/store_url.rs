//! The URL of a store, which may hold a password.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// URL of a store. It is displayed without user, password and parameters, because a parameter of a Postgres URL may be
/// a password too.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// Returns the whole URL, for the store's client only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Parsing never fails, because the error of a flag's parser would quote the value. The store's client validates the
/// URL.
impl FromStr for StoreUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("…") };
        // A password may contain any delimiter, so only the part after the last @ is safe to display.
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
    fn displayed_url_contains_no_password() {
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
