//! Random jitter, so that timers that started together do not fire together.

/// A random number from 0 to 1, with a resolution of 1/255. Independent in each process and on each call.
pub fn random_fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}
