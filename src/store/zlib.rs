//! Compresses stored blobs with zlib, a format that every language can read. The work runs on blocking threads, because
//! the blob of a job with millions of tasks would block the async runtime.

use std::io::{Read, Write};

pub use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Error;
use crate::blocking::Caller;

/// The number of bytes that are compressed or decompressed before the work checks whether its caller is gone. They take
/// about a millisecond.
const CHUNK: usize = 256 * 1024;

/// Compresses bytes for storage.
pub fn compress(bytes: &[u8], level: Compression, caller: &Caller) -> Result<Vec<u8>, Error> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    for chunk in bytes.chunks(CHUNK) {
        caller.check()?;
        encoder.write_all(chunk).map_err(|error| Error::Unexpected(error.to_string()))?;
    }
    encoder.finish().map_err(|error| Error::Unexpected(error.to_string()))
}

/// Returns an upper limit for the size of `bytes` bytes after compression. Incompressible bytes grow by a few bytes per
/// block.
pub const fn max_compressed(bytes: usize) -> usize {
    bytes + bytes / 1000 + 64
}

/// Decompresses stored bytes to exactly `expected` bytes. The error says why they are not such bytes. No more than
/// `expected` bytes are allocated, whatever the compressed bytes contain.
pub fn decompress(compressed: &[u8], expected: usize, caller: &Caller) -> Result<Result<Vec<u8>, String>, Error> {
    let (mut bytes, mut decoder) = (vec![0; expected], ZlibDecoder::new(compressed));
    for chunk in bytes.chunks_mut(CHUNK) {
        caller.check()?;
        if let Err(error) = decoder.read_exact(chunk) {
            return Ok(Err(format!("they cannot be decompressed to {expected} bytes: {error}")));
        }
    }
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(Ok(bytes)),
        Ok(_) => Ok(Err(format!("they are more than {expected} bytes when decompressed"))),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Decompresses stored bytes to at most `max` bytes. The error says why this is not possible.
pub fn decompress_at_most(compressed: &[u8], max: usize, caller: &Caller) -> Result<Result<Vec<u8>, String>, Error> {
    let (mut size, mut chunk) = (0, vec![0; CHUNK]);
    let mut decoder = ZlibDecoder::new(compressed);
    loop {
        caller.check()?;
        match decoder.read(&mut chunk) {
            Ok(0) => return decompress(compressed, size, caller),
            Ok(read) => size += read,
            Err(error) => return Ok(Err(error.to_string())),
        }
        if size > max {
            return Ok(Err(format!("they are more than {max} bytes when decompressed")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_number_of_bytes_is_decompressed() {
        let caller = Caller::default();
        for size in [0, 1, CHUNK, 3 * CHUNK + 7] {
            let compressed = compress(&vec![7; size], Compression::fast(), &caller).unwrap();
            assert!(compressed.len() <= max_compressed(size));
            assert_eq!(decompress(&compressed, size, &caller), Ok(Ok(vec![7; size])));
            assert!(decompress(&compressed, size + 1, &caller).unwrap().is_err());
            assert!(size == 0 || decompress(&compressed, size - 1, &caller).unwrap().is_err());
        }
        assert!(decompress(b"no zlib", 3, &caller).unwrap().is_err());
    }
}
