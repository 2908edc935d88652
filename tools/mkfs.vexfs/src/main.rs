// SPDX-License-Identifier: Apache-2.0

//! mkfs.vexfs: makes a VexFS volume on a block device or in a file.
//!
//! What is written is `vexfs_image::make`; this is the command around it, which makes sure
//! that nothing is lost by mistake.

#![deny(unsafe_code)]

mod probe;
mod target;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use vexfs_format::geometry::{BLOCKS_PER_GROUP, MAX_GROUPS};
use vexfs_format::vector_area as vector;
use vexfs_format::{Error, Geometry, BLOCK_SIZE};
use vexfs_image::{make, FileDevice, Options};

/// Make a VexFS volume.
#[derive(Debug, Parser)]
#[command(name = "mkfs.vexfs", version, disable_version_flag = true)]
struct Arguments {
    /// Name of the volume, at most 32 bytes
    #[arg(short = 'L', long = "label", value_name = "LABEL", default_value = "")]
    label: String,

    /// Identity of the volume instead of a random one
    #[arg(short = 'U', long = "uuid", value_name = "UUID", value_parser = parse_uuid)]
    uuid: Option<Uuid>,

    /// Bytes per block; 4096 is the only size so far
    #[arg(
        short = 'b',
        long = "block-size",
        value_name = "BYTES",
        default_value_t = 4096
    )]
    block_size: u64,

    /// Say what would be done and do nothing
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,

    /// Print nothing but errors
    #[arg(short = 'q', long = "quiet", conflicts_with = "verbose")]
    quiet: bool,

    /// Print what is being done
    #[arg(short = 'v', long = "verbose")]
    verbose: bool,

    /// Overwrite what is on the device
    #[arg(short = 'f', long = "force")]
    force: bool,

    /// Keep the device's blocks: do not discard them first
    #[arg(short = 'K', long = "nodiscard")]
    keep: bool,

    /// What new vector containers are by default, as in 384,f32,cosine
    #[arg(long = "vectors", value_name = "DIM,TYPE,METRIC", value_parser = parse_vectors)]
    vectors: Option<Vectors>,

    /// Print the version
    #[arg(short = 'V', long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,

    /// Block device, or file
    #[arg(value_name = "DEVICE")]
    device: PathBuf,

    /// Size of the volume, as in 512M or 2T; creates or extends a file
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Uuid([u8; 16]);

#[derive(Clone, Copy, Debug)]
struct Vectors {
    dim: u32,
    element: u8,
    metric: u8,
}

const ELEMENTS: &[(&str, u8)] = &[
    ("f32", vector::ELEMENT_FLOAT32),
    ("f16", vector::ELEMENT_FLOAT16),
    ("bf16", vector::ELEMENT_BFLOAT16),
    ("i8", vector::ELEMENT_INT8),
    ("u8", vector::ELEMENT_UINT8),
    ("binary", vector::ELEMENT_BIT),
];

const METRICS: &[(&str, u8)] = &[
    ("l2sq", vector::METRIC_L2SQ),
    ("l2", vector::METRIC_L2SQ),
    ("cosine", vector::METRIC_COSINE),
    ("inner_product", vector::METRIC_INNER_PRODUCT),
    ("dot", vector::METRIC_INNER_PRODUCT),
    ("hamming", vector::METRIC_HAMMING),
];

fn parse_vectors(text: &str) -> Result<Vectors, String> {
    let value_of = |names: &[(&str, u8)], name: &str| {
        let found = names.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(n, _)| *n).collect();
            format!("`{name}` is none of {}", names.join(", "))
        })
    };
    let parts: Vec<_> = text.split(',').collect();
    let [dim, element, metric] = parts[..] else {
        return Err("write dimension, type and metric, as in 384,f32,cosine".into());
    };
    let dim = dim.parse().ok();
    let dim = dim.filter(|dim| (1..=vector::MAX_DIM).contains(dim));
    let vectors = Vectors {
        dim: dim.ok_or(format!("the dimension is 1 to {}", vector::MAX_DIM))?,
        element: value_of(ELEMENTS, element)?,
        metric: value_of(METRICS, metric)?,
    };
    if !vector::is_metric(vectors.metric, vectors.element) {
        return Err(format!("{element} elements have no metric {metric}"));
    }
    Ok(vectors)
}

fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let wrong = || "write it as 32 hexadecimal digits, 8-4-4-4-12".to_owned();
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] || !text.is_ascii() {
        return Err(wrong());
    }
    let digits = text.replace('-', "");
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    if number == 0 {
        return Err("a UUID of zeros names nothing".into());
    }
    Ok(Uuid(number.to_be_bytes()))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "write a number with K, M, G or T behind it, as in 512M".to_owned();
    let (digits, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 'B'),
    };
    let shift = match unit.to_ascii_uppercase() {
        'B' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return Err(wrong()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift);
    // A file cannot be longer either.
    bytes.filter(|b| *b < 1 << 63).ok_or_else(wrong)
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |names: &[(&'static str, u8)], value| {
            let found = names.iter().find(|(_, v)| *v == value);
            found.map_or("?", |(n, _)| *n)
        };
        let (element, metric) = (name(ELEMENTS, self.element), name(METRICS, self.metric));
        write!(f, "{} x {element}, {metric}", self.dim)
    }
}

/// A size for people.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "bytes");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn random() -> Result<[u8; 16], String> {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(bytes),
        _ => Err("the kernel gave no random numbers; give a UUID with -U".into()),
    }
}

/// A random UUID, version 4 (RFC 9562).
fn random_uuid() -> Result<Uuid, String> {
    let mut bytes = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid(bytes))
}

/// The hash key of a volume that has to come out the same each time.
fn derived_hash_seed(uuid: &[u8; 16]) -> [u8; 16] {
    let mut seed = [0; 16];
    let mut sum = !0;
    for part in seed.chunks_exact_mut(4) {
        sum = vexfs_image::crc(sum, uuid);
        part.copy_from_slice(&sum.to_le_bytes());
    }
    seed
}

fn source_date_epoch() -> Result<Option<i64>, String> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    match seconds.filter(|seconds| *seconds >= 0) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err("SOURCE_DATE_EPOCH is no number of seconds; set it right or unset it".into()),
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let name = arguments.device.display();
    if arguments.block_size != BLOCK_SIZE as u64 {
        return Err(format!(
            "blocks of {} bytes are not supported; leave out -b or give -b 4096",
            arguments.block_size
        ));
    }
    let mut label = [0; 32];
    let text = arguments.label.as_bytes();
    if text.len() > label.len() || text.contains(&0) {
        return Err("the label is longer than 32 bytes; give a shorter one with -L".into());
    }
    label[..text.len()].copy_from_slice(text);
    let epoch = source_date_epoch()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = epoch.unwrap_or(now.map_or(0, |now| now.as_secs() as i64));
    let uuid = match arguments.uuid {
        Some(uuid) => uuid,
        None => random_uuid()?,
    };
    let hash_seed = match arguments.uuid.is_some() || epoch.is_some() {
        true => derived_hash_seed(&uuid.0),
        false => random()?,
    };

    // Nothing is created or extended before it is known that a volume will fit.
    let looked_at = target::open(&arguments.device, arguments.size, false)?;
    let size = match arguments.size {
        Some(size) if looked_at.is_device && size > looked_at.size => {
            return Err(format!(
                "{name} has only {}; give a smaller size or none",
                human(looked_at.size)
            ));
        }
        Some(size) => size,
        None => looked_at.size,
    };
    let geometry = Geometry::plan(size / BLOCK_SIZE as u64).map_err(|error| {
        let why = match error {
            Error::Invalid(why) => why,
            _ => "the size does not work out",
        };
        format!("{name} is of the wrong size, {}: {why}", human(size))
    })?;
    debug_assert!(geometry.group_count <= MAX_GROUPS);
    if !arguments.force {
        let found = probe::probe(looked_at.size, |at, out| looked_at.read(at, out))
            .map_err(|e| format!("{name} cannot be read: {e}"))?;
        if let Some(found) = found {
            return Err(format!(
                "{name} already holds {found}; give -f to overwrite it"
            ));
        }
    }
    drop(looked_at);
    if arguments.dry_run {
        table(arguments, &geometry, uuid);
        return Ok(());
    }

    let say = |text: &str| {
        if arguments.verbose {
            println!("{text}");
        }
    };
    let target = target::open(&arguments.device, arguments.size, true)?;
    if !arguments.quiet {
        table(arguments, &geometry, uuid);
    }
    if target.size < geometry.blocks_count * BLOCK_SIZE as u64 {
        return Err(format!("{name} has become smaller; try again"));
    }
    if !arguments.keep {
        say(match target.discard() {
            true => "discarded all blocks",
            false => "the device cannot discard blocks; they keep what they have",
        });
    }
    target
        .wipe()
        .map_err(|e| format!("{name} cannot be wiped: {e}"))?;
    say("wiped old signatures");
    let options = Options {
        uuid: uuid.0,
        hash_seed,
        label,
        time,
        vectors: arguments
            .vectors
            .map_or((0, 0, 0), |v| (v.dim, v.element, v.metric)),
    };
    let mut device = FileDevice(target.file);
    make(&mut device, &geometry, &options)
        .and_then(|()| device.0.sync_all())
        .map_err(|e| format!("{name} cannot be written: {e}; it holds no volume now"))?;
    say("wrote the volume");
    Ok(())
}

fn table(arguments: &Arguments, geometry: &Geometry, uuid: Uuid) {
    let blocks = geometry.blocks_count;
    let block = BLOCK_SIZE as u64;
    let label = match arguments.label.as_str() {
        "" => "none",
        label => label,
    };
    println!("VexFS v2 volume on {}", arguments.device.display());
    println!("  label    {label}");
    println!("  uuid     {uuid}");
    println!("  size     {} in {blocks} blocks", human(blocks * block));
    println!(
        "  groups   {} of {}",
        geometry.group_count,
        human(BLOCKS_PER_GROUP.min(blocks) * block)
    );
    println!("  inodes   {}", geometry.inode_count());
    println!(
        "  journal  {} from block {}",
        human(geometry.journal_blocks * block),
        geometry.journal_start
    );
    if let Some(vectors) = arguments.vectors {
        println!("  vectors  {vectors}");
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; wrong use is one like any other.
            let failed = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(u8::from(failed));
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("mkfs.vexfs: {sentence}");
            ExitCode::FAILURE
        }
    }
}
