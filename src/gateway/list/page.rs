//! Page sizes and page tokens. A token contains a position in the order of the list instead of an offset, so that pages
//! stay consistent while entries are added and removed. A digest binds the token to its query. A token that was
//! modified, or that belongs to another query, is rejected.

use serde::Serialize;

use crate::domain::Violation;
use crate::error::{Error, Result};

/// The page that a caller asked for, not yet validated.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// The page size, or 0 for the default size.
    pub size: i32,
    /// The token, or an empty text for the first page.
    pub token: String,
}

/// The page sizes of a list.
#[derive(Debug, Clone, Copy)]
pub struct PageSizes {
    /// The size of a page if the request does not set one.
    pub default: u32,
    /// The maximum size. A larger requested size is reduced to it.
    pub max: u32,
}

impl PageRequest {
    /// Validates the request. Returns the page size and the position after which the page begins. The position is
    /// `None` for the first page.
    pub fn read<P: Position>(&self, sizes: PageSizes, query: &impl Serialize) -> Result<(u32, Option<P>)> {
        let mut violations = Vec::new();
        let size = match u32::try_from(self.size) {
            Ok(0) => sizes.default,
            Ok(size) => size.min(sizes.max),
            Err(_) => {
                let description = format!("must not be negative, but is {}", self.size);
                violations.push(Violation::new("page_size", description));
                0
            }
        };
        let position = position(&self.token, query);
        if position.is_none() && !self.token.is_empty() {
            let description = "must be the next_page_token of the previous page of the same query; omit it to start from the first page";
            violations.push(Violation::new("page_token", description));
        }
        if violations.is_empty() { Ok((size, position)) } else { Err(Error::Invalid(violations)) }
    }
}

/// A position in the order of a list, as it is written into a token.
pub trait Position: Sized {
    /// Encodes the position as text.
    fn write(&self) -> String;
    /// Decodes a position. Returns `None` if the text is not an encoded position.
    fn read(text: &str) -> Option<Self>;
}

/// Returns the token of the page that begins after this position.
pub fn token(position: &impl Position, query: &impl Serialize) -> Result<String> {
    let position = position.write();
    Ok(format!("{}{position}", digest(&position, query).map_err(|error| Error::Internal(error.to_string()))?))
}

/// The number of hexadecimal digits of the digest at the start of a token.
const DIGEST_DIGITS: usize = 16;

fn position<P: Position>(token: &str, query: &impl Serialize) -> Option<P> {
    let (bound, position) = token.split_at_checked(DIGEST_DIGITS)?;
    let expected = digest(position, query).ok()?;
    (bound == expected).then(|| P::read(position)).flatten()
}

fn digest(position: &str, query: &impl Serialize) -> serde_json::Result<String> {
    let mut hash = sha1_smol::Sha1::from(serde_json::to_vec(query)?);
    hash.update(b"\n");
    hash.update(position.as_bytes());
    let mut digest = hash.digest().to_string();
    digest.truncate(DIGEST_DIGITS);
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PageSizes = PageSizes { default: 50, max: 200 };

    fn read(size: i32, token: &str, query: &str) -> std::result::Result<(u32, Option<u32>), Vec<String>> {
        match (PageRequest { size, token: token.to_owned() }).read(SIZES, &query) {
            Ok(page) => Ok(page),
            Err(Error::Invalid(violations)) => Err(violations.into_iter().map(|violation| violation.field).collect()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn page_size_defaults_clamps_and_rejects_negative() {
        let sizes = [0, 1, 200, 201, i32::MAX].map(|size| read(size, "", "q").unwrap().0);
        assert_eq!(sizes, [50, 1, 200, 200, 200]);
        assert_eq!(read(-1, "", "q"), Err(vec!["page_size".to_owned()]));
    }

    #[test]
    fn a_token_is_valid_only_unmodified_and_for_its_own_query() {
        let token = token(&17_u32, &"q").unwrap();
        assert_eq!(read(0, &token, "q"), Ok((50, Some(17))));
        let changed = format!("{}8", &token[..token.len() - 1]);
        for (token, query) in [(&*token, "other"), (&changed, "q"), ("17", "q"), ("ä", "q"), (&"0".repeat(20), "q")] {
            assert_eq!(read(0, token, query), Err(vec!["page_token".to_owned()]), "{token}");
        }
        assert_eq!(read(-1, "x", "q"), Err(vec!["page_size".to_owned(), "page_token".to_owned()]));
    }
}
