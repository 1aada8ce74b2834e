//! What must hold on a device, whoever is its driver.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tenfour_erasure::{BlockSums, best, block_sums, by_name};
use tenfour_gpu::{Gpu, When};

type Shards = [Vec<u8>; 14];

fn gpu() -> Gpu {
    Gpu::open(best(), When::Always, 1).expect("these tests want a GPU")
}

/// The counter of that name.
fn counted(gpu: &Gpu, name: &str) -> u64 {
    gpu.counted().into_iter().find(|(known, _)| *known == name).unwrap().1
}

fn stripe(shard_bytes: usize, seed: u64) -> Shards {
    let mut random = StdRng::seed_from_u64(seed);
    let mut shards: Shards = std::array::from_fn(|_| vec![0; shard_bytes]);
    let (data, parity) = shards.split_at_mut(10);
    data.iter_mut().for_each(|shard| random.fill_bytes(shard));
    let data: [&[u8]; 10] = std::array::from_fn(|shard| &data[shard][..]);
    let mut parity = parity.iter_mut().map(|shard| &mut shard[..]);
    let mut parity: [&mut [u8]; 4] = std::array::from_fn(|_| parity.next().unwrap());
    by_name("reed-solomon-erasure").unwrap().encode(&data, &mut parity, None).unwrap();
    shards
}

fn encode(gpu: &Gpu, shards: &Shards) {
    let data: [&[u8]; 10] = std::array::from_fn(|shard| &shards[shard][..]);
    let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; shards[0].len()]);
    let mut sums = [const { BlockSums::new() }; 14];
    gpu.codec().encode(&data, &mut parity.each_mut().map(|shard| &mut shard[..]), Some(&mut sums)).unwrap();
    assert!(parity[..] == shards[10..], "{} bytes", shards[0].len());
    assert!(sums.iter().zip(shards).all(|(sums, shard)| *sums == block_sums(shard)));
}

/// Lengths around the ends of threads and blocks, several callers at once.
pub fn encode_at_many_lengths_from_many_threads() {
    let gpu = gpu();
    let lengths: Vec<usize> =
        (1..=70).map(|lines| lines * 64).chain([4160, 16384, 16448, 65536 + 64, 1 << 18, 1 << 20]).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (gpu, lengths) = (&gpu, &lengths);
            scope.spawn(move || lengths.iter().for_each(|bytes| encode(gpu, &stripe(*bytes, thread))));
        }
    });
    println!("{gpu}: {:?}", gpu.counted());
    assert_eq!(gpu.lost(), None);
    assert_eq!(counted(&gpu, "gpu_stripes"), 4 * lengths.len() as u64);
}

/// Each set of up to four shards.
pub fn every_loss_pattern() {
    let gpu = gpu();
    let shards = stripe(4096 + 64, 1);
    for lost in (1..1_u32 << 14).filter(|lost| lost.count_ones() <= 4) {
        let lost: Vec<usize> = (0..14).filter(|shard| lost >> shard & 1 == 1).collect();
        let present = std::array::from_fn(|shard| (!lost.contains(&shard)).then_some(&shards[shard][..]));
        let mut buffers: Vec<Vec<u8>> = lost.iter().map(|_| vec![0; shards[0].len()]).collect();
        let mut rebuild: Vec<(usize, &mut [u8])> =
            lost.iter().copied().zip(buffers.iter_mut().map(|buffer| &mut buffer[..])).collect();
        gpu.codec().reconstruct(&present, &mut rebuild).unwrap();
        assert!(buffers.iter().zip(&lost).all(|(buffer, shard)| *buffer == shards[*shard]), "{lost:?}");
    }
    assert_eq!(gpu.lost(), None);
    assert_eq!(counted(&gpu, "gpu_stripes"), 1470);
}

/// Without a copy into a slot.
pub fn registered_memory_is_read_where_it_is() {
    let gpu = gpu();
    let pages = Arc::new(vec![7_u8; 16 << 20]);
    let start = pages.as_ptr().addr().next_multiple_of(4096);
    gpu.register(pages.clone(), start, 15 << 20).unwrap();
    let offset = start - pages.as_ptr().addr();
    let data: [&[u8]; 10] = std::array::from_fn(|shard| &pages[offset + shard * 65536..][..65536]);
    let mut parity = [const { [0; 65536] }; 4];
    gpu.codec().encode(&data, &mut parity.each_mut().map(|shard| &mut shard[..]), None).unwrap();
    let mut expected = [const { [0; 65536] }; 4];
    best().encode(&data, &mut expected.each_mut().map(|shard| &mut shard[..]), None).unwrap();
    assert!(parity == expected);
    assert_eq!((gpu.lost(), counted(&gpu, "gpu_stripes")), (None, 1));
}

/// Where the bytes are in the device's memory already.
pub fn memory_of_the_device() {
    let gpu = gpu();
    let stripes: Vec<Shards> = (0..30).map(|seed| stripe(1 << 16, seed)).collect();
    let whole: Vec<u8> = stripes.iter().flatten().flatten().copied().collect();
    let mut memory = gpu.device_memory(whole.len()).unwrap();
    let without = |lost: &[usize]| {
        let mut bytes = whole.clone();
        for stripe in bytes.chunks_exact_mut(14 << 16) {
            lost.iter().for_each(|shard| stripe[shard << 16..][..1 << 16].fill(0));
        }
        bytes
    };
    memory.write(&without(&[10, 11, 12, 13])).unwrap();
    memory.encode(stripes.len(), 1 << 16).unwrap();
    assert!(memory.read(whole.len()).unwrap() == whole);
    for lost in [&[4][..], &[0, 12], &[1, 2, 3], &[6, 7, 8, 9], &[0, 5, 10, 13]] {
        memory.write(&without(lost)).unwrap();
        let present = std::array::from_fn(|shard| !lost.contains(&shard));
        assert!(memory.rebuild(stripes.len(), 1 << 16, present, lost).unwrap());
        assert!(memory.read(whole.len()).unwrap() == whole, "{lost:?}");
    }
    assert!(memory.encode(stripes.len() + 1, 1 << 16).is_err());
}

/// At the start of a gateway.
pub fn both_sides_are_measured() {
    let gpu = gpu();
    let costs = gpu.measure().unwrap();
    println!("{gpu}: {costs}");
    assert_eq!((costs.0.len(), gpu.lost()), (20, None));
}

/// The table of `tenfour bench encode`.
pub fn rows_for_a_table() {
    let gpu = gpu();
    let rows = gpu.bench(&[64 << 10], Duration::from_millis(20)).unwrap();
    for row in &rows {
        println!("{row:?}");
        assert!(row.gb_per_s > 0.0 && row.of_copy_bandwidth.is_none_or(|share| share > 0.0), "{row:?}");
    }
    assert_eq!((rows.len(), gpu.lost()), (11, None));
}
