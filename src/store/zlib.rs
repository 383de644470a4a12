//! What is stored compressed: as zlib, so that any language can read it, and off the runtime, since what millions of tasks
//! leave behind takes a while.

use std::io::{Read, Write};

pub use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Error;

/// Compresses or decompresses, and what goes with that, off the runtime.
pub async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Unexpected(error.to_string())))
}

/// These bytes as they are stored.
pub fn compress(bytes: &[u8], level: Compression) -> Result<Vec<u8>, Error> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|error| Error::Unexpected(error.to_string()))
}

/// The bytes that were compressed, about `expected` of them.
pub fn decompress(compressed: &[u8], expected: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(expected);
    let read = ZlibDecoder::new(compressed).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| Error::Unexpected(error.to_string()))
}
