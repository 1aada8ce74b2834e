//! What the kernels are measured against, and the memory that they are measured on. Only with the cargo feature `bench`: nothing
//! that stores or reads objects needs it.

#[cfg(target_arch = "x86_64")]
mod castagnoli;
mod isal;
mod pages;
#[cfg(target_arch = "x86_64")]
mod traffic;

#[cfg(target_arch = "x86_64")]
pub(crate) use {castagnoli::Castagnoli, traffic::Traffic};
pub(crate) use {
    isal::{IsaL, NoIsaL, Tables},
    pages::Pages,
};
