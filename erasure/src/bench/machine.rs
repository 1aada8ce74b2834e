//! The machine in words: what a reader needs to know to make anything of the figures.

use std::fs;

/// Processor, caches, cores, what else it is doing, and whether memory can come in huge pages.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name);
    let cache = |index: usize| {
        let size = read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
        if size.is_empty() { "?".to_owned() } else { size.trim().to_owned() }
    };
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let pages = if pages.is_empty() || pages.contains("[never]") { "without" } else { "with" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{model}, {cores} cores, L1 {} L2 {} L3 {}, load {load}, {pages} huge pages",
        cache(0),
        cache(2),
        cache(3)
    )
}
