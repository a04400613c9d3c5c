//! All tests of the built programs and of the library's outside, as one program: linking one takes seconds and
//! hundreds of megabytes, and there would be a program for each file, with native libraries and without.
//!
//! One file's tests are `cargo test --release --test suite FILE::`.

#![allow(clippy::unwrap_used, reason = "test code")]

#[macro_use]
mod common;
mod synthetic;

mod bad_input;
mod cli;
mod command_teacher;
mod configs;
mod corruption;
mod export;
mod export_student;
mod faults;
mod feature_loss;
mod features;
mod forms;
mod golden;
mod images;
mod import;
mod inference;
mod inference_sets;
mod inherit;
mod init;
mod language;
mod language_student;
mod mixture;
mod numerics;
mod pipeline;
mod report_plan;
mod resnet;
mod responses;
mod resume;
mod roundtrip;
mod sampled;
mod schemas;
mod sweep;
mod tracking;
mod train;
mod train_controls;
mod train_losses;
mod train_resume;
