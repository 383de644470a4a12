//! One malformed field of a request: which, and what it must be.

/// One malformed field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct Violation {
    /// The path of the field as the interface writes it, such as `results[3].stage`.
    pub field: String,
    /// What it must be.
    pub description: String,
}

impl Violation {
    /// A violation of `field`, which must be what `description` says.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}
