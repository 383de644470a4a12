//! Collects the bytes of one gRPC message at a time. tonic allocates a message as soon as its five-byte prefix arrives,
//! however little of the message follows. It therefore gets a message only when all bytes have arrived.

use bytes::{Buf, Bytes};
use tonic::Status;

use super::call_memory::{CallMemory, refused};

/// The prefix of a message: a flag, and the size as four bytes.
const PREFIX_BYTES: usize = 5;

/// The smallest buffer for a message that arrives in parts.
const MIN_BUFFER_BYTES: usize = 1024;

/// The bytes of the next message that have arrived.
pub struct MessageBuffer {
    /// The maximum size of a message.
    limit: usize,
    /// The beginning of a message whose end has not arrived yet.
    partial: Vec<u8>,
    /// Bytes that have arrived and were not used yet.
    arrived: Bytes,
}

impl MessageBuffer {
    /// Creates an empty buffer for messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new(), arrived: Bytes::new() }
    }

    /// Adds bytes that have arrived. All earlier ones must have been used: [`next`](Self::next) returned `None`.
    pub fn push(&mut self, bytes: Bytes) {
        self.arrived = bytes;
    }

    /// Whether a part of a message has arrived.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Returns the next message with its prefix, or `None` if its end has not arrived. A message within one chunk is not
    /// copied. Memory for the parts of all other messages is reserved before it is allocated. Fails if the message is
    /// too large, or if no memory is left.
    pub fn next(&mut self, memory: &CallMemory) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty()
            && let Some(size) = self.size(&self.arrived)?
            && self.arrived.len() >= size
        {
            return Ok(Some(self.arrived.split_to(size)));
        }
        loop {
            let size = self.size(&self.partial)?;
            if size == Some(self.partial.len()) {
                return Ok(Some(std::mem::take(&mut self.partial).into()));
            }
            if self.arrived.is_empty() {
                return Ok(None);
            }
            self.take_arrived(size.unwrap_or(PREFIX_BYTES), memory)?;
        }
    }

    /// Moves arrived bytes to the partial message until it has `size` bytes. The buffer grows with what arrives, and
    /// not with what the prefix announces.
    fn take_arrived(&mut self, size: usize, memory: &CallMemory) -> Result<(), Status> {
        let taken = self.arrived.len().min(size - self.partial.len());
        let needed = self.partial.len() + taken;
        let capacity = self.partial.capacity();
        if needed > capacity {
            let grown = (2 * capacity).max(MIN_BUFFER_BYTES).min(size).max(needed);
            memory.grow(grown - capacity)?;
            self.partial.reserve_exact(grown - self.partial.len());
        }
        self.partial.extend_from_slice(&self.arrived[..taken]);
        self.arrived.advance(taken);
        Ok(())
    }

    /// Returns the size of the message that begins with these bytes, including its prefix. Returns `None` if the prefix
    /// is incomplete.
    fn size(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [_, size @ ..] = *prefix;
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if size > self.limit {
            return Err(too_large(&format!("found {size} bytes, the limit is: {} bytes", self.limit)));
        }
        Ok(Some(PREFIX_BYTES + size))
    }
}

/// Returns the bytes of a message after its prefix.
pub fn payload(message: &[u8]) -> &[u8] {
    message.get(PREFIX_BYTES..).unwrap_or_default()
}

/// Counts a message that is too large, and returns a status like that of tonic, to which `ErrorDetailsLayer` adds the
/// reason.
pub fn too_large(sizes: &str) -> Status {
    refused("message");
    Status::out_of_range(format!("the message is too large: {sizes}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::call_memory::CallBudget;
    use crate::memory::MemoryBudget;

    fn message(size: u8) -> Vec<u8> {
        [&[0, 0, 0, 0, size][..], &vec![7; size.into()]].concat()
    }

    /// Returns the messages that come out when these chunks arrive.
    fn messages(chunks: &[&[u8]], memory: &CallMemory) -> Result<Vec<Bytes>, Status> {
        let mut buffer = MessageBuffer::new(100);
        let mut messages = Vec::new();
        for chunk in chunks {
            buffer.push(Bytes::copy_from_slice(chunk));
            while let Some(message) = buffer.next(memory)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    #[test]
    fn messages_come_out_whole_wherever_they_are_split() {
        let memory = CallMemory::reserve(&CallBudget::new(&MemoryBudget::new(1 << 20), None), 0).unwrap();
        let sent = [message(3), message(0), message(100)];
        let bytes = sent.concat();
        assert_eq!(messages(&[&bytes], &memory).unwrap(), sent);
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(messages(&single, &memory).unwrap(), sent);
        for split in 0..bytes.len() {
            let (first, second) = bytes.split_at(split);
            assert_eq!(messages(&[first, second], &memory).unwrap(), sent, "split at {split}");
        }
    }

    #[test]
    fn announced_size_is_limited_and_allocates_nothing() {
        let budget = MemoryBudget::new(2000);
        let memory = CallMemory::reserve(&CallBudget::new(&budget, None), 0).unwrap();
        assert_eq!(messages(&[&[0, 0, 0, 0, 101]], &memory).unwrap_err().code(), tonic::Code::OutOfRange);
        let mut buffer = MessageBuffer::new(1 << 20);
        buffer.push(Bytes::from_static(&[0, 0, 16, 0, 0]));
        assert_eq!(buffer.next(&memory).unwrap(), None);
        assert!(buffer.is_partial() && budget.reserved() <= MIN_BUFFER_BYTES);
        buffer.push(Bytes::from(vec![0; 2000]));
        assert_eq!(buffer.next(&memory).unwrap_err().code(), tonic::Code::ResourceExhausted);
    }
}
