//! `config`: a program's config, checked and printed, or every key that it may have.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kd_cache::config::{Config, load, outline};
use serde::Serialize;

use super::write;

/// Print a config.
#[derive(Args, Debug)]
pub struct PrintConfigArgs {
    /// Print every key with its meaning and its default, as a config to begin with
    #[arg(long, conflicts_with_all = ["config", "set"])]
    pub defaults: bool,
    /// The config to check and print as it is understood
    #[arg(long, value_name = "FILE", required_unless_present = "defaults")]
    pub config: Option<PathBuf>,
    /// Change a key of the config (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Prints what `args` ask for.
pub fn print_config<C: Config + Serialize>(args: &PrintConfigArgs) -> anyhow::Result<ExitCode> {
    match &args.config {
        Some(path) => write(&toml::to_string(&load::<C>(path, &args.set)?)?)?,
        None => write(&outline::<C>())?,
    }
    Ok(ExitCode::SUCCESS)
}
