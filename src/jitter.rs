//! Chance, so that what began together drifts apart.

/// A share between 0 and 1, another one in each process and each time.
pub fn share() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}
