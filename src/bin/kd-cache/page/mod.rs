//! The report as one HTML page: no scripts, nothing fetched, pictures as SVG inside it.
//!
//! What a cache says of itself comes from strangers. Text reaches the page through
//! [`Markup`](crate::shared::Markup) alone, which escapes all of it.

mod axis;
mod chart;
mod document;
mod fidelity;
mod heading;
mod provenance;
mod size;
mod table;
mod targets;
mod words;

pub use document::page;
