//! Page sizes and page tokens. A token contains a position in the order of the list instead of an offset, so that pages
//! stay consistent while entries are added and removed. A keyed hash (HMAC) over the position and the query
//! authenticates the token. A token that no gateway issued, or that belongs to another query, is rejected.

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use tokio::sync::OnceCell;

use crate::deadline::Deadline;
use crate::domain::Violation;
use crate::error::{Error, Result};
use crate::store::Store;

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

/// Reads and writes page tokens. All gateways share one key, which is stored in Postgres. The key is read when it is
/// first needed, and kept.
pub struct PageTokens {
    store: Store,
    key: OnceCell<TokenKey>,
}

/// The key that authenticates page tokens.
#[derive(Clone)]
struct TokenKey(Vec<u8>);

impl PageTokens {
    /// Creates a value that reads the key from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, key: OnceCell::new() }
    }

    /// Reads the key, unless it was read before. Lists that need no other answer of Postgres then work without it.
    pub async fn load_key(&self, deadline: Deadline) -> Result<()> {
        self.key(deadline).await.map(drop)
    }

    /// Validates a request. Returns the page size and the position after which the page begins. The position is `None`
    /// for the first page.
    pub async fn read<P: Position>(
        &self,
        request: &PageRequest,
        sizes: PageSizes,
        query: &impl Serialize,
        deadline: Deadline,
    ) -> Result<(u32, Option<P>)> {
        let key = if request.token.is_empty() { None } else { Some(self.key(deadline).await?) };
        request.read(sizes, query, key)
    }

    /// Returns the token of the page that begins after this position.
    pub async fn token(&self, position: &impl Position, query: &impl Serialize, deadline: Deadline) -> Result<String> {
        self.key(deadline).await?.token(position, query)
    }

    async fn key(&self, deadline: Deadline) -> Result<&TokenKey> {
        let read = async || Ok(TokenKey(self.store.page_token_key(deadline).await?));
        self.key.get_or_try_init(read).await
    }
}

impl PageRequest {
    /// Validates the request. `key` is needed only if the request has a token.
    fn read<P: Position>(
        &self,
        sizes: PageSizes,
        query: &impl Serialize,
        key: Option<&TokenKey>,
    ) -> Result<(u32, Option<P>)> {
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
        let position = key.and_then(|key| key.position(&self.token, query));
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

/// The number of bytes of the hash in a token.
const HASH_BYTES: usize = 16;

impl TokenKey {
    fn token(&self, position: &impl Position, query: &impl Serialize) -> Result<String> {
        let position = position.write();
        let hash = self.hash(&position, query)?.finalize().into_bytes();
        let mut token = String::with_capacity(2 * HASH_BYTES + position.len());
        for byte in &hash[..HASH_BYTES] {
            token += &format!("{byte:02x}");
        }
        Ok(token + &position)
    }

    fn position<P: Position>(&self, token: &str, query: &impl Serialize) -> Option<P> {
        let (digits, position) = token.split_at_checked(2 * HASH_BYTES)?;
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        let given: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
        self.hash(position, query).ok()?.verify_truncated_left(&given).ok()?;
        P::read(position)
    }

    fn hash(&self, position: &str, query: &impl Serialize) -> Result<Hmac<Sha256>> {
        let query = serde_json::to_vec(query).map_err(|error| Error::Internal(error.to_string()))?;
        let mut hash = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|error| Error::Internal(error.to_string()))?;
        // JSON contains no unescaped newline, so the two parts cannot be confused.
        for part in [&query[..], b"\n", position.as_bytes()] {
            hash.update(part);
        }
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PageSizes = PageSizes { default: 50, max: 200 };

    fn read(size: i32, token: &str, query: &str) -> std::result::Result<(u32, Option<u32>), Vec<String>> {
        let key = TokenKey(b"key".to_vec());
        match (PageRequest { size, token: token.to_owned() }).read(SIZES, &query, Some(&key)) {
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
    fn a_token_is_valid_only_unmodified_for_its_own_query_and_with_the_same_key() {
        let token = TokenKey(b"key".to_vec()).token(&17_u32, &"q").unwrap();
        let other_key = TokenKey(b"other key".to_vec()).token(&17_u32, &"q").unwrap();
        assert_eq!(read(0, &token, "q"), Ok((50, Some(17))));
        let changed = format!("{}8", &token[..token.len() - 1]);
        let invalid =
            [(&*token, "other"), (&changed, "q"), (&other_key, "q"), ("17", "q"), ("ä", "q"), (&"+0".repeat(20), "q")];
        for (token, query) in invalid {
            assert_eq!(read(0, token, query), Err(vec!["page_token".to_owned()]), "{token}");
        }
        assert_eq!(read(-1, "x", "q"), Err(vec!["page_size".to_owned(), "page_token".to_owned()]));
    }
}
