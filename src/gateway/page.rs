//! Pages of a list: how much each may hold, and where the next one begins. A token names a place in the order of the list,
//! not a number of entries before it, so that pages survive what comes and goes. It is bound to its query by a digest:
//! with another one, or changed on its way, it is refused.

use serde::Serialize;

use crate::domain::Violation;
use crate::error::{Error, Result};

/// A page as a caller asked for it, not yet looked at.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// 0: the default.
    pub size: i32,
    /// Empty: the first.
    pub token: String,
}

/// How much a page of some list holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSizes {
    pub default: u32,
    pub most: u32,
}

impl PageRequest {
    /// How much the page holds, and the place behind which it begins; `None`: at the beginning of the list.
    pub(super) fn read<P: Place>(&self, sizes: PageSizes, query: &impl Serialize) -> Result<(u32, Option<P>)> {
        let mut violations = Vec::new();
        let size = match u32::try_from(self.size) {
            Ok(0) => sizes.default,
            Ok(size) => size.min(sizes.most),
            Err(_) => {
                let description = format!("must not be negative, but is {}", self.size);
                violations.push(Violation::new("page_size", description));
                0
            }
        };
        let place = place(&self.token, query);
        if place.is_none() && !self.token.is_empty() {
            let description = "is no token of this very list: take it from the last page, or begin anew without one";
            violations.push(Violation::new("page_token", description));
        }
        if violations.is_empty() { Ok((size, place)) } else { Err(Error::Invalid(violations)) }
    }
}

/// A place in the order of a list.
pub(super) trait Place: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

/// The token of the page that begins behind this place.
pub(super) fn token(place: &impl Place, query: &impl Serialize) -> Result<String> {
    let place = place.write();
    Ok(format!("{}{place}", digest(&place, query).map_err(|error| Error::Internal(error.to_string()))?))
}

const DIGEST: usize = 16;

fn place<P: Place>(token: &str, query: &impl Serialize) -> Option<P> {
    let (bound, place) = token.split_at_checked(DIGEST)?;
    let right = digest(place, query).ok()?;
    (bound == right).then(|| P::read(place)).flatten()
}

fn digest(place: &str, query: &impl Serialize) -> serde_json::Result<String> {
    let mut hash = sha1_smol::Sha1::from(serde_json::to_vec(query)?);
    hash.update(b"\n");
    hash.update(place.as_bytes());
    let mut digest = hash.digest().to_string();
    digest.truncate(DIGEST);
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PageSizes = PageSizes { default: 50, most: 200 };

    fn read(size: i32, token: &str, query: &str) -> std::result::Result<(u32, Option<u32>), Vec<String>> {
        match (PageRequest { size, token: token.to_owned() }).read(SIZES, &query) {
            Ok(page) => Ok(page),
            Err(Error::Invalid(violations)) => Err(violations.into_iter().map(|violation| violation.field).collect()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_size_of_none_is_the_default_one_that_is_too_large_the_most_and_less_than_none_an_error() {
        let sizes = [0, 1, 200, 201, i32::MAX].map(|size| read(size, "", "q").unwrap().0);
        assert_eq!(sizes, [50, 1, 200, 200, 200]);
        assert_eq!(read(-1, "", "q"), Err(vec!["page_size".to_owned()]));
    }

    #[test]
    fn a_token_is_good_for_its_own_list_alone_and_only_unchanged() {
        let token = token(&17_u32, &"q").unwrap();
        assert_eq!(read(0, &token, "q"), Ok((50, Some(17))));
        let changed = format!("{}8", &token[..token.len() - 1]);
        for (token, query) in [(&*token, "other"), (&changed, "q"), ("17", "q"), ("ä", "q"), (&"0".repeat(20), "q")] {
            assert_eq!(read(0, token, query), Err(vec!["page_token".to_owned()]), "{token}");
        }
        assert_eq!(read(-1, "x", "q"), Err(vec!["page_size".to_owned(), "page_token".to_owned()]));
    }
}
