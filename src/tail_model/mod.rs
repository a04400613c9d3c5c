//! Fits where the tail's mass lies, once per cache, on a sample of positions.
//!
//! ```text
//! b_β(j)                     the prior: log-weights of every class at every node (rank 0)
//! b_β(j) + β Σ_i D_ji c_i    the shape: moved along `rank` directions by each position's code c
//! ```
//!
//! [`TailFit`] collects the sample and fits both; [`TailEncoder`] then gives every position its code.
//! Both forms are calibrated: over the sample, the predicted tail mass of every class is the true one.

mod calibrate;
mod directions;
mod encoder;
mod fit;
mod heads;
mod least_squares;
mod near_tail;
#[cfg(feature = "torch")]
mod on_device;
mod panels;
mod powers;
mod prior;
mod sample;

pub use encoder::TailEncoder;
pub use fit::{FitError, Fitted, TailFit};
pub use near_tail::NearTail;
#[cfg(feature = "torch")]
pub use on_device::{EncoderOnDevice, Product};
pub use prior::PriorFit;
