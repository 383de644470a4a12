//! Generates the code for the interface in `proto/`: messages, servers and clients. Also writes the descriptors for
//! reflection.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const ROOT: &str = "proto";
const PACKAGE: &str = "proto/highwater/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut files =
        fs::read_dir(PACKAGE)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, Box<dyn Error>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    let descriptors = protox::compile(files, [ROOT])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("highwater_descriptor.bin"), descriptors.encode_to_vec())?;
    // Maps are ordered, as in the domain types.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
