//! Tests of the whole crate on machines without a GPU: the kernels' source as the C++ compiler understands it, and devices that fail.

mod kernels;
mod ptx;
mod watchdog;

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tenfour_erasure::{Codec, by_name};

/// All 14 shards.
type Shards = [Vec<u8>; 14];

/// `reed-solomon-erasure`, or the portable kernel where that does not run.
fn reference() -> Arc<dyn Codec> {
    by_name("reed-solomon-erasure").or_else(|| by_name("scalar")).unwrap()
}

/// Random data, and parity by the reference.
fn stripe(shard_bytes: usize, seed: u64) -> Shards {
    let mut random = StdRng::seed_from_u64(seed);
    let mut shards: Shards = std::array::from_fn(|_| vec![0; shard_bytes]);
    let (data, parity) = shards.split_at_mut(10);
    data.iter_mut().for_each(|shard| random.fill_bytes(shard));
    let data: [&[u8]; 10] = std::array::from_fn(|shard| &data[shard][..]);
    let mut parity = parity.iter_mut().map(|shard| &mut shard[..]);
    let mut parity: [&mut [u8]; 4] = std::array::from_fn(|_| parity.next().unwrap());
    reference().encode(&data, &mut parity, None).unwrap();
    shards
}

/// The data, and room for parity.
fn data(shards: &Shards) -> [&[u8]; 10] {
    std::array::from_fn(|shard| &shards[shard][..])
}

/// Every set of at most four lost shards.
fn loss_patterns() -> impl Iterator<Item = Vec<usize>> {
    (0..1_u32 << 14)
        .filter(|lost| lost.count_ones() <= 4)
        .map(|lost| (0..14).filter(|shard| lost >> shard & 1 == 1).collect())
}
