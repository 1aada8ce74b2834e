//! The process harness: a real cluster under load and faults, and the checkers that say whether the store kept its word.
//!
//! [`run`] plays one run from a seed: [`cluster`] starts the processes, [`workload`] writes a [`history`] of what its clients saw while
//! [`schedule`] says what is broken when and [`faults`] does it; afterwards [`register`] and [`listing`] judge the history, [`resources`]
//! the processes, and [`report`] and [`page`] tell people. The checkers know nothing of the store but what S3 promises.

pub mod check;
pub mod cluster;
pub mod door;
pub mod faults;
pub mod history;
pub mod listing;
pub mod page;
pub mod register;
pub mod report;
pub mod resources;
pub mod run;
pub mod schedule;
pub mod value;
pub mod workload;
