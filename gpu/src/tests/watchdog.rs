//! A device that fails in every way that one can, and callers that do not notice.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tenfour_erasure::{BlockSums, Codec, CodecError, best, block_sums};

use super::{Shards, data, stripe};
use crate::choice::{Choice, Cost, Costs, Operation, When};
use crate::codec::{DeviceCodec, WHOLE_EVERY};
use crate::counters::Counters;
use crate::device::{Device, DeviceError, Job};
use crate::engine::{Engine, SLOTS};
use crate::ffi::on_host::{HostDevice, HostSlot, compiled};
use crate::host_memory::Registrations;
use crate::measure;

/// Short enough for a test, and as long as a crowded machine keeps a thread waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    BeginFails,
    LookFails,
    NeverDone,
    BeginNeverReturns,
    Panics,
    /// One bit of the last byte.
    WrongBit,
    /// Nothing was written.
    Nothing,
}

/// The fault that there is now, and a bell for who waits for another.
#[derive(Debug)]
struct Switch(Mutex<Fault>, Condvar);

impl Switch {
    fn set(&self, fault: Fault) {
        *self.0.lock().unwrap() = fault;
        self.1.notify_all();
    }

    fn now(&self) -> Fault {
        *self.0.lock().unwrap()
    }
}

#[derive(Debug)]
struct Faulty {
    device: HostDevice,
    switch: Arc<Switch>,
}

impl Device for Faulty {
    type Slot = HostSlot;

    fn name(&self) -> String {
        "a device with faults".to_owned()
    }

    fn slot(&mut self) -> Result<HostSlot, DeviceError> {
        self.device.slot()
    }

    fn registrations(&self) -> Registrations {
        self.device.registrations()
    }

    fn begin(&mut self, lane: usize, jobs: &mut [Job<HostSlot>]) -> Result<(), DeviceError> {
        let failed = || DeviceError::Driver { call: "cuLaunchKernel", reason: "an error".to_owned() };
        match self.switch.now() {
            Fault::BeginFails => return Err(failed()),
            Fault::Panics => std::panic::panic_any("no cuFoo"),
            Fault::BeginNeverReturns => {
                let stuck = self.switch.0.lock().unwrap();
                drop(self.switch.1.wait_while(stuck, |fault| *fault == Fault::BeginNeverReturns).unwrap());
                return Err(failed());
            }
            _ => {}
        }
        self.device.begin(lane, jobs)?;
        for job in jobs {
            match self.switch.now() {
                Fault::WrongBit => *job.slot.outputs_mut().last_mut().unwrap() ^= 1,
                Fault::Nothing => job.slot.outputs_mut().fill(0),
                _ => {}
            }
        }
        Ok(())
    }

    fn is_done(&mut self, lane: usize) -> Result<bool, DeviceError> {
        match self.switch.now() {
            Fault::LookFails => {
                Err(DeviceError::Driver { call: "cuEventQuery", reason: "the device is lost".to_owned() })
            }
            Fault::NeverDone => Ok(false),
            _ => self.device.is_done(lane),
        }
    }
}

/// A codec on a device with that fault, and the switch to another.
fn faulty(fault: Fault, patience: Duration) -> Option<(DeviceCodec<Faulty>, Arc<Counters>, Arc<Switch>)> {
    let kernels = compiled()?;
    let switch = Arc::new(Switch(Mutex::new(fault), Condvar::new()));
    let of_device = switch.clone();
    let open = move || Ok(Faulty { device: HostDevice::new(kernels), switch: of_device });
    let counters = Arc::<Counters>::default();
    let engine = Engine::start(open, patience).unwrap();
    Some((DeviceCodec::new(engine, best(), counters.clone()), counters, switch))
}

fn encoded(codec: &dyn Codec, shards: &Shards) -> Result<(), CodecError> {
    let mut parity: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; shards[0].len()]);
    let mut sums = [const { BlockSums::new() }; 14];
    codec.encode(&data(shards), &mut parity.each_mut().map(|shard| &mut shard[..]), Some(&mut sums))?;
    assert!(parity[..] == shards[10..]);
    assert!(sums.iter().zip(shards).all(|(sums, shard)| *sums == block_sums(shard)));
    Ok(())
}

fn rebuilt(codec: &dyn Codec, shards: &Shards, lost: &[usize]) {
    let present = std::array::from_fn(|shard| (!lost.contains(&shard)).then_some(&shards[shard][..]));
    let mut buffers: Vec<Vec<u8>> = lost.iter().map(|_| vec![0; shards[0].len()]).collect();
    let mut rebuild: Vec<(usize, &mut [u8])> =
        lost.iter().copied().zip(buffers.iter_mut().map(|buffer| &mut buffer[..])).collect();
    codec.reconstruct(&present, &mut rebuild).unwrap();
    assert!(buffers.iter().zip(lost).all(|(buffer, shard)| *buffer == shards[*shard]));
}

fn of(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn a_device_that_works_is_used() {
    let Some((codec, counters, _switch)) = faulty(Fault::None, PATIENCE) else { return };
    for number in 1..=WHOLE_EVERY + 2 {
        encoded(&codec, &stripe(64 * number as usize, number)).unwrap();
    }
    let shards = stripe(40_000 / 64 * 64, 5);
    for lost in [&[3][..], &[13], &[3, 11], &[0, 4, 9], &[10, 11, 12, 13], &[1, 2, 3, 10]] {
        rebuilt(&codec, &shards, lost);
    }
    assert_eq!(codec.engine().lost(), None);
    assert_eq!((of(&counters.stripes), of(&counters.taken_over)), (WHOLE_EVERY + 8, 0));
    // The first of each of the five kernels, and one more of those that are many.
    assert_eq!(of(&counters.checked), 6);
}

/// Each way to fail, from the first stripe on and in the middle, with callers from all sides.
#[test]
fn callers_do_not_notice() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // A test of a panic is not one.
        if info.payload().downcast_ref::<&str>() != Some(&"no cuFoo") {
            loud(info);
        }
    }));
    let faults = [
        (Fault::BeginFails, "cuLaunchKernel: an error"),
        (Fault::LookFails, "cuEventQuery: the device is lost"),
        (Fault::NeverDone, "no answer within"),
        (Fault::BeginNeverReturns, "no answer within"),
        (Fault::Panics, "the driver lacks what is needed: no cuFoo"),
        (Fault::WrongBit, "wrong bytes from encode"),
        (Fault::Nothing, "wrong bytes from encode"),
    ];
    let shards = stripe(20_480, 7);
    for (fault, reason) in faults {
        for healthy_first in [0, 3] {
            // A whole look comes by on the first stripe only, and what nobody looked at is not promised.
            if fault == Fault::WrongBit && healthy_first > 0 {
                continue;
            }
            let Some((codec, counters, switch)) = faulty(Fault::None, Duration::from_millis(300)) else {
                return;
            };
            for _ in 0..healthy_first {
                encoded(&codec, &shards).unwrap();
            }
            switch.set(fault);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| encoded(&codec, &shards).unwrap());
                }
            });
            let lost = codec.engine().lost().unwrap().to_string();
            assert!(lost.starts_with(reason), "{fault:?}: {lost}");
            assert!((1..=4).contains(&of(&counters.taken_over)), "{fault:?}");
            // For good: also when it would work again.
            switch.set(Fault::None);
            encoded(&codec, &shards).unwrap();
            rebuilt(&codec, &shards, &[0, 5]);
            assert!(of(&counters.stripes) <= healthy_first + 3, "{fault:?}");
            assert!(!codec.engine().has_room() && of(&counters.declined) >= 2);
        }
    }
    drop(std::panic::take_hook());
}

/// A stripe that meets an idle lane goes alone, those that meet none go together, and those that find no slot go to the processor.
#[test]
fn batches_form_under_load_only() {
    let Some((codec, counters, switch)) = faulty(Fault::NeverDone, Duration::from_secs(60)) else { return };
    let shards = stripe(4096, 9);
    let (engine, lanes) = (codec.engine(), crate::device::LANES as u64);
    let until = |what: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !what() {
            assert!(since.elapsed() < Duration::from_secs(20), "it does not come");
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        for begun in 1..=lanes {
            scope.spawn(|| encoded(&codec, &shards).unwrap());
            until(&|| engine.batches() == begun);
        }
        for _ in lanes..SLOTS as u64 {
            scope.spawn(|| encoded(&codec, &shards).unwrap());
        }
        until(&|| !engine.has_room());
        // On the processor, while the device keeps all slots.
        encoded(&codec, &shards).unwrap();
        assert_eq!(of(&counters.declined), 1);
        // Whoever has a slot hands it over at once.
        thread::sleep(Duration::from_millis(100));
        switch.set(Fault::None);
    });
    assert_eq!((engine.batches(), of(&counters.stripes)), (lanes + 1, SLOTS as u64));
    assert_eq!(engine.lost(), None);
}

#[test]
fn wrong_arguments_are_answered_as_by_the_processor() {
    let Some((codec, counters, _switch)) = faulty(Fault::None, PATIENCE) else { return };
    let shards = stripe(128, 3);
    let mut parity = [[0; 128]; 4];
    let mut short = data(&shards);
    short[7] = &short[7][..64];
    let result = codec.encode(&short, &mut parity.each_mut().map(|shard| &mut shard[..]), None);
    assert_eq!(result, Err(CodecError::UnequalShards { index: 7, expected_bytes: 128, found_bytes: 64 }));
    let present = std::array::from_fn(|shard| (shard != 4).then_some(&shards[shard][..]));
    let mut buffers = [[0; 128]; 2];
    let [first, second] = &mut buffers;
    let mut rebuild = |one: usize, other: usize| {
        codec.reconstruct(&present, &mut [(one, &mut first[..]), (other, &mut second[..])])
    };
    assert_eq!(rebuild(4, 4), Err(CodecError::AskedTwice { index: 4 }));
    assert_eq!(rebuild(4, 5), Err(CodecError::NotMissing { index: 5 }));
    assert_eq!(rebuild(4, 14), Err(CodecError::NoSuchShard { index: 14 }));
    assert_eq!(codec.reconstruct(&[None; 14], &mut []), Err(CodecError::TooFewShards { present: 0 }));
    assert_eq!(codec.reconstruct(&present, &mut []), Ok(()));
    let long = stripe((1 << 20) + 64, 4);
    let mut buffer = vec![0; (1 << 20) + 64];
    let present = std::array::from_fn(|shard| (shard != 4).then_some(&long[shard][..]));
    codec.reconstruct(&present, &mut [(4, &mut buffer)]).unwrap();
    assert!(buffer == long[4]);
    assert_eq!((of(&counters.stripes), codec.engine().lost()), (0, None));
}

#[test]
fn the_choice_follows_what_was_measured() {
    let Some((codec, counters, switch)) = faulty(Fault::None, PATIENCE) else { return };
    let choice = Choice::new(codec, When::Measured, 2, counters.clone());
    let shards = stripe(8192, 6);
    encoded(&choice, &shards).unwrap();
    assert_eq!((of(&counters.stripes), of(&counters.on_cpu)), (0, 1), "nothing was measured yet");
    let cost = Cost {
        operation: Operation::Encode,
        shard_bytes: 8192,
        in_place: false,
        cpu: Duration::from_micros(9),
        device: Duration::from_micros(8),
        device_busy: Duration::from_micros(10),
    };
    choice.set_costs(Costs(vec![cost]));
    encoded(&choice, &shards).unwrap();
    encoded(&choice, &stripe(4096, 6)).unwrap();
    rebuilt(&choice, &shards, &[2]);
    assert_eq!((of(&counters.stripes), of(&counters.on_cpu)), (1, 3));
    switch.set(Fault::BeginFails);
    encoded(&choice, &shards).unwrap();
    encoded(&choice, &shards).unwrap();
    assert_eq!((of(&counters.stripes), of(&counters.taken_over), of(&counters.on_cpu)), (1, 1, 4));
}

#[test]
fn both_sides_are_measured() {
    let Some((codec, counters, _switch)) = faulty(Fault::None, PATIENCE) else { return };
    let Costs(costs) = measure::costs(&codec, &mut vec![0x5a; measure::STRIPE_BYTES]).unwrap();
    assert_eq!(costs.len(), 10);
    assert!(
        costs.iter().all(|cost| !cost.in_place && cost.cpu > Duration::ZERO && cost.device > Duration::ZERO)
    );
    assert!(of(&counters.stripes) >= 50 && codec.engine().lost().is_none());
    let mut memories = vec![vec![1; measure::STRIPE_BYTES]; 2];
    let mut memories: Vec<&mut [u8]> = memories.iter_mut().map(|memory| &mut memory[..]).collect();
    let rate = measure::rate(&codec, &mut memories, 4096, true, Duration::from_millis(5)).unwrap();
    assert!(rate > 0.0);
}
