//! Compresses stored blobs with zlib, a format that every language can read. The work runs on the blocking thread pool,
//! because the blob of a job with millions of tasks would block the async runtime.

use std::io::{Read, Write};

pub use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Error;

/// Runs `work`, which compresses or decompresses, on the blocking thread pool.
pub async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Unexpected(error.to_string())))
}

/// Compresses bytes for storage.
pub fn compress(bytes: &[u8], level: Compression) -> Result<Vec<u8>, Error> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|error| Error::Unexpected(error.to_string()))
}

/// Decompresses stored bytes. `expected` is the initial capacity of the result.
pub fn decompress(compressed: &[u8], expected: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(expected);
    let read = ZlibDecoder::new(compressed).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| Error::Unexpected(error.to_string()))
}
