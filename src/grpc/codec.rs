//! A codec like tonic's codec for prost, except that it decodes from contiguous memory. tonic hands prost a buffer that
//! may consist of several chunks. From such a buffer, the thousands of small fields of a report take half as long again
//! to decode.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Encodes messages of type `T` and decodes messages of type `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Decodes messages of type `U` from contiguous memory.
#[derive(Debug)]
pub struct ContiguousDecoder<U>(PhantomData<U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ContiguousDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        ContiguousDecoder(PhantomData)
    }
}

impl<U: Message + Default> Decoder for ContiguousDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // This takes the bytes out of the buffer without copying them.
        let message = buffer.copy_to_bytes(buffer.remaining());
        // tonic's codec returns the same code. The module `error_details` replaces the status.
        U::decode(&*message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
