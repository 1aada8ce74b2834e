//! `codec = …`: who encodes in this process, and why.

use anyhow::{Context, Result};
use std::sync::Arc;
use tenfour_erasure::Codec;
use tenfour_gateway::Gateway;
use tenfour_gpu::{Gpu, When};

/// The codec of a gateway.
pub struct Encoder {
    codec: Arc<dyn Codec>,
    gpu: Option<Gpu>,
}

/// Says now, and not in a log, what cannot be had on this machine.
pub fn check(name: &str) -> Result<()> {
    match name {
        "auto" | "cpu" => Ok(()),
        "gpu" => Gpu::look().map(drop).context("codec = gpu"),
        name => by_name(name).map(drop),
    }
}

/// The codec of that name. A GPU that `auto` finds is used after [`Encoder::settle`].
pub fn open(name: &str) -> Result<Encoder> {
    let cpu = tenfour_erasure::best;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let on_gpu = |gpu: Gpu| Encoder { codec: gpu.codec(), gpu: Some(gpu) };
    match name {
        "cpu" => Ok(on_cpu(cpu(), "codec = cpu")),
        "gpu" => Gpu::open(cpu(), When::Always, processors).map(on_gpu).context("codec = gpu"),
        "auto" => Ok(match Gpu::open(cpu(), When::Measured, processors) {
            Ok(gpu) => on_gpu(gpu),
            Err(error) => on_cpu(cpu(), &format!("no GPU: {}", error.reason)),
        }),
        name => Ok(on_cpu(by_name(name)?, "as named")),
    }
}

fn by_name(name: &str) -> Result<Arc<dyn Codec>> {
    tenfour_erasure::by_name(name).with_context(|| {
        let names: Vec<_> = tenfour_erasure::all().iter().map(|codec| codec.name()).collect();
        format!("codec = {name:?}: it is auto, cpu, gpu, or of this machine's {}", names.join(", "))
    })
}

fn on_cpu(codec: Arc<dyn Codec>, why: &str) -> Encoder {
    tracing::info!(codec = codec.name(), why, "encoding on the CPU");
    Encoder { codec, gpu: None }
}

impl Encoder {
    /// For the gateway's configuration.
    pub fn codec(&self) -> Arc<dyn Codec> {
        self.codec.clone()
    }

    /// Once the gateway has its memory: lets the GPU read it where it is, and measures both sides. Under a second.
    pub fn settle(&self, gateway: &Gateway) {
        let Some(gpu) = &self.gpu else { return };
        let pool = gateway.pool().clone();
        let addresses = pool.addresses();
        if let Err(error) = gpu.register(pool, addresses.start, addresses.len()) {
            tracing::warn!(%error, "the GPU cannot read the pool where it is: stripes are copied for it");
        }
        match gpu.measure() {
            Ok(costs) => {
                tracing::info!(codec = self.codec.name(), %gpu, %costs, "encoding on the GPU and the CPU");
            }
            Err(error) => tracing::warn!(%error, %gpu, "the GPU could not be measured"),
        }
    }

    /// What the GPU's counters are, where there is one.
    pub fn counted(&self) -> impl Iterator<Item = (String, u64)> {
        let counted = self.gpu.iter().flat_map(Gpu::counted);
        counted.map(|(name, value)| (name.to_owned(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_or_answered() {
        for name in ["auto", "cpu", "scalar"] {
            check(name).unwrap();
        }
        assert_eq!(open("scalar").unwrap().codec().name(), "scalar");
        assert_eq!(open("cpu").unwrap().codec().name(), tenfour_erasure::best().name());
        let wrong = check("abacus").unwrap_err().to_string();
        assert!(wrong.contains("auto, cpu, gpu") && wrong.contains("scalar"), "{wrong}");
    }

    /// On a machine with a GPU it is one, and elsewhere the error says what was looked for.
    #[test]
    fn a_gpu_is_there_or_what_was_looked_for_is_named() {
        let is_there = Gpu::look().is_ok();
        assert_eq!(check("gpu").is_ok(), is_there);
        if let Err(error) = check("gpu") {
            let told = format!("{error:#}");
            assert!(tenfour_gpu::LOOKED_FOR.iter().all(|library| told.contains(library)), "{told}");
            assert!(open("gpu").is_err() && open("auto").is_ok());
        }
    }
}
