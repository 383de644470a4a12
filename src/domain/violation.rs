//! A malformed field of a request.

/// The maximum number of violations that an error lists. It keeps the error message short.
pub const MAX_VIOLATIONS: usize = 20;

/// A malformed field of a request, and the requirement that it violates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct Violation {
    /// The path of the field in the API, such as `results[3].stage`.
    pub field: String,
    /// The requirement, such as "must not be negative".
    pub description: String,
}

impl Violation {
    /// Creates a violation. `description` completes a sentence that begins with the field: "must …".
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}
