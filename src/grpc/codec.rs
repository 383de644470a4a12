//! How messages are read and written: as tonic does with prost, but read from one piece of memory. tonic hands prost a
//! buffer that could be in many, which a report's thousands of small fields take half as long again to be read from.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Writes `T`, reads `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Reads `U`.
#[derive(Debug)]
pub struct FromOnePiece<U>(PhantomData<U>);

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
    type Decoder = FromOnePiece<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        FromOnePiece(PhantomData)
    }
}

impl<U: Message + Default> Decoder for FromOnePiece<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Takes it out of the buffer, without copying it.
        let message = buffer.copy_to_bytes(buffer.remaining());
        // As tonic calls it; `own_errors` explains it.
        U::decode(&*message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
