//! How messages meet their bytes: prost's way, with small buffers. A stream lives as long as its data plane and says little;
//! tonic's usual 8 KiB in each direction would be a fifth of what it costs the controller.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Encodes `T` and decodes `U`.
#[derive(Clone, Debug)]
pub struct Small<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Small<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Small<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(HELD, YIELDS)
}

/// Bytes that an idle stream holds, each way; a larger message gets its room for as long as it lasts.
const HELD: usize = 512;
/// Bytes after which tonic sends what it has gathered; its own default.
const YIELDS: usize = 32 * 1024;
