//! `kd-train export`: a run's student in another form. ONNX is made by the user's own PyTorch.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, anyhow, bail};
use kd_cache::config::{self, TrainConfig};
use kd_cache::train::{self, ExportedStudent, OnnxCheck, RunFolder, StudentInput};

use crate::args::{ExportArgs, ExportTo};
use crate::shared::{Format, print, print_json};

/// What makes ONNX of TorchScript and compares both: a program of its own, which this one carries.
const TOOL: &str = include_str!("../../../tools/export_onnx.py");
/// Its exit code where a package is missing.
const LACKS: i32 = 3;
/// What it needs.
const PACKAGES: &str = "torch==2.11.0 onnx==1.23.2 onnxruntime==1.30.0";

/// Writes the student that `args` name.
pub fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    if !(args.tolerance.is_finite() && args.tolerance >= 0.0) {
        bail!("--tolerance: expected a number from 0 up, found {}", args.tolerance);
    }
    let config: TrainConfig = config::load(&RunFolder::new(&args.run).config(), &[])?;
    let out = args.out.clone().unwrap_or_else(|| default_out(args, &config));
    // Before anything is written: what the student is asked with.
    let input = match (args.to, &args.shape) {
        (ExportTo::Onnx, Some(shape)) => StudentInput::Images(shape.clone()),
        (ExportTo::Onnx, None) => StudentInput::of(&args.run, &config).context(
            "--shape: the run's data do not say what an image is like; give it, --shape 1,28,28 say",
        )?,
        _ => StudentInput::Tokens(0),
    };
    let to_onnx = |module: &Path, onnx: &Path| onnx_of(args, &input, module, onnx);
    let report = train::export(&args.run, &config, args.to.into(), &out, to_onnx)?;
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `NAME.onnx` and so on in this folder, `NAME` being the run's; a folder is `NAME-transformers`.
fn default_out(args: &ExportArgs, config: &TrainConfig) -> PathBuf {
    let whole = args.run.canonicalize().unwrap_or_else(|_| args.run.clone());
    let name = whole.file_name().map_or_else(|| "student".into(), |name| name.to_string_lossy().into_owned());
    let is_folder = args.to == ExportTo::Safetensors && config.student.kind() == "llama";
    PathBuf::from(match args.to {
        _ if is_folder => format!("{name}-transformers"),
        ExportTo::Torchscript => format!("{name}.pt"),
        ExportTo::Safetensors => format!("{name}.safetensors"),
        ExportTo::Onnx => format!("{name}.onnx"),
    })
}

/// Has Python make `onnx` of `module`, and compare them.
fn onnx_of(args: &ExportArgs, input: &StudentInput, module: &Path, onnx: &Path) -> anyhow::Result<OnnxCheck> {
    let python = args.python.display();
    let mut command = Command::new(&args.python);
    command.arg("-").arg(module).arg(onnx).arg("--json");
    match input {
        StudentInput::Tokens(number) => command.arg("--tokens").arg(number.to_string()),
        StudentInput::Images(shape) => {
            let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
            command.arg("--shape").arg(sizes.join(","))
        }
    };
    command.arg("--opset").arg(args.opset.to_string()).arg("--tolerance").arg(args.tolerance.to_string());
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.with_context(|| {
        format!("--python: cannot start {python}; name a Python that has PyTorch and onnx (pip install {PACKAGES})")
    })?;
    if let Some(mut script) = child.stdin.take() {
        match script.write_all(TOOL.as_bytes()) {
            // Something that is no Python, and reads nothing: what it says comes below.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(anyhow!(error).context(format!("--python: {python} does not read its program")));
            }
            _ => {}
        }
    }
    let done = child.wait_with_output().with_context(|| format!("--python: waiting for {python}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.trim_end().lines().last().unwrap_or("it said nothing").trim();
    let last = last.strip_prefix("error: ").unwrap_or(last);
    match done.status.code() {
        Some(0) => {}
        Some(LACKS) => {
            bail!("--python: {last}; install them (pip install {PACKAGES}), or name another Python")
        }
        _ => bail!("--to onnx: {python} could not make it: {last}"),
    }
    let answer = String::from_utf8_lossy(&done.stdout);
    let answer = answer.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(answer)
        .with_context(|| format!("--python: expected {python} to say what it compared, found {answer:?}"))
}

/// The report for people.
fn text(report: &ExportedStudent) -> String {
    let mut text = format!("{}: {} bytes, {}\n", report.out, report.bytes, report.digest);
    if !report.files.is_empty() {
        text.push_str(&format!("in it: {}\n", report.files.join(", ")));
    }
    if let Some(check) = &report.check {
        text.push_str(&format!(
            "logits as the TorchScript's to {:.1e} in {} ({:.0e} is allowed)\n",
            check.largest_difference, check.runtime, check.tolerance
        ));
    }
    if let Some(note) = &report.note {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}
