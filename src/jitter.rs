//! Random jitter for timers. With jitter, timers that were started together do not fire together.

/// Returns a random number from 0 to 1, with a resolution of 1/255. The numbers of different calls and of different
/// processes are independent.
pub fn random_fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}
