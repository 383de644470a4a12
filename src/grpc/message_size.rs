//! Estimates the memory that a decoded message takes, from its encoded bytes. A repeated field of two bytes becomes a
//! struct of more than a hundred bytes, so the size of a message does not bound its memory.
//!
//! Only the fields at the top level are counted. No message of the interface repeats a field of a nested message, so a
//! nested message takes a fixed size and the bytes of its texts. A test compares this with the descriptors.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The maximum number of fields at the top level of a message. Four times as many as the elements that a valid request
/// can have, so that a request with a few elements too many gets the error that names the field.
pub const MAX_FIELDS: usize = 40_000;

/// The memory of one field in bytes: the largest struct (a task result) in a list that has grown to twice its size,
/// with its four texts.
const FIELD_BYTES: usize = 320;

/// The memory of one byte of a list of numbers: the old and the new copy of a growing list of four-byte numbers.
const PACKED_FACTOR: usize = 12;

/// Returns the memory that the decoded message takes at most, in bytes. Returns `None` if the message has more than
/// [`MAX_FIELDS`] fields. `has_packed` says whether the message can contain lists of numbers.
///
/// The fields of a malformed message are counted up to the fault, at which decoding also stops.
pub fn decoded_bytes(message: &[u8], has_packed: bool) -> Option<usize> {
    let factor = if has_packed { PACKED_FACTOR } else { 1 };
    let (mut rest, mut fields) = (message, 0);
    while let Some(after) = after_field(rest) {
        rest = after;
        fields += 1;
        if fields > MAX_FIELDS {
            return None;
        }
    }
    // The field at a fault may have been decoded in part.
    Some((fields + 1) * FIELD_BYTES + factor * message.len())
}

/// Returns the bytes after the first field. Returns `None` at the end, or if the field is malformed.
fn after_field(mut bytes: &[u8]) -> Option<&[u8]> {
    if bytes.is_empty() {
        return None;
    }
    let (_, wire_type) = decode_key(&mut bytes).ok()?;
    let skipped = match wire_type {
        WireType::Varint => {
            decode_varint(&mut bytes).ok()?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(&mut bytes).ok()?).ok()?,
        // Groups are unknown fields, which are skipped in decoding. Their fields count one by one.
        WireType::StartGroup | WireType::EndGroup => 0,
    };
    bytes.get(skipped..)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::grpc::pb;

    #[test]
    fn every_element_at_the_top_level_counts() {
        assert_eq!(decoded_bytes(&[], false), Some(FIELD_BYTES));
        let smallest = [0x12, 0].repeat(MAX_FIELDS);
        assert_eq!(decoded_bytes(&smallest, false), Some((MAX_FIELDS + 1) * FIELD_BYTES + smallest.len()));
        assert_eq!(decoded_bytes(&[0x12, 0].repeat(MAX_FIELDS + 1), false), None);
        let packed = pb::ListJobsRequest { states: vec![1; 1000], ..pb::ListJobsRequest::default() }.encode_to_vec();
        assert_eq!(decoded_bytes(&packed, true), Some(2 * FIELD_BYTES + PACKED_FACTOR * packed.len()));
        let groups = [0x0b, 0x0c].repeat(MAX_FIELDS);
        assert_eq!(decoded_bytes(&groups, false), None);
    }

    #[test]
    fn a_malformed_message_counts_up_to_the_fault() {
        for fault in [&[0x12_u8, 5][..], &[0x12], &[0x07], &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            let message = [&[0x12, 0, 0x12, 0], fault].concat();
            assert_eq!(decoded_bytes(&message, false), Some(3 * FIELD_BYTES + message.len()), "{fault:?}");
        }
    }

    #[test]
    fn estimate_is_not_below_the_size_of_a_report() {
        let texts = || "x".repeat(20);
        let error = Some(pb::TaskError { code: texts(), message: texts() });
        let result = pb::TaskResult { stage: texts(), task_name: texts(), error, ..pb::TaskResult::default() };
        let report = pb::ReportResultsRequest { job_id: texts(), results: vec![result; 1025] };
        let growing = 3 * 1024 * size_of::<pb::TaskResult>();
        let texts = 1025 * 4 * 32;
        let estimate = decoded_bytes(&report.encode_to_vec(), false).unwrap();
        assert!(estimate >= growing.min(2048 * size_of::<pb::TaskResult>()) + texts / 2, "{estimate}");
    }
}
