//! The crate's release object must stand alone: no C library, no thread-local storage, since parts of
//! it run while FS belongs to the other half. Needs `readelf` (binutils).

use std::path::Path;
use std::process::Command;

fn output(command: &mut Command) -> String {
    let output = command.output().expect("started");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn no_undefined_symbols_and_no_thread_local_storage() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let object = directory.join("mana_raw.o");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    output(
        Command::new(rustc)
            .args([
                "--crate-type",
                "lib",
                "--crate-name",
                "mana_raw",
                "--edition",
                "2021",
                "-O",
            ])
            .args([
                "-C",
                "panic=abort",
                "-C",
                "embed-bitcode=no",
                "-C",
                "codegen-units=1",
                "--emit",
                "obj",
                "-o",
            ])
            .arg(&object)
            .arg(source),
    );
    let symbols = output(Command::new("readelf").arg("-sW").arg(&object));
    assert!(
        symbols.contains("mana_shim_start"),
        "the symbols were not read"
    );
    let foreign: Vec<_> = symbols
        .lines()
        .filter(|line| line.split_whitespace().nth(6) == Some("UND"))
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|name| !name.starts_with("mem"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let relocations = output(Command::new("readelf").arg("-rW").arg(&object));
    assert!(
        relocations.contains("Relocation section"),
        "the relocations were not read"
    );
    let local: Vec<_> = relocations
        .lines()
        .filter(|l| l.contains("TPOFF") || l.contains("TLS"))
        .collect();
    assert!(local.is_empty(), "{local:?}");
}
