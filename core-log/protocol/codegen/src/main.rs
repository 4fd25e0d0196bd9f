//! `import <folders>` and `generate`; see the library.

use std::fs;

use anyhow::{Context, Result, bail};
use millstream_protocol_codegen::{generated_dir, import, rust, table, table_dir};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, dirs)) if command == "import" && !dirs.is_empty() => {
            table::store(&table_dir(), &import::import(dirs)?)
        }
        Some((command, [])) if command == "generate" => generate(),
        _ => bail!("usage: millstream-protocol-codegen import <folder of JSON definitions>... | generate"),
    }
}

fn generate() -> Result<()> {
    let files = rust::generate(&table::load(&table_dir())?)?;
    let dir = generated_dir();
    fs::create_dir_all(&dir)?;
    for old in fs::read_dir(&dir)? {
        fs::remove_file(old?.path())?;
    }
    for (name, text) in files {
        let path = dir.join(name).with_extension("rs");
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
