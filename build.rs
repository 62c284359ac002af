//! Link settings for libtorch: where the loader finds it, and which torch this build is for.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();

    // Apple's linker keeps every library it is given and has another word for "beside this file".
    let apple = std::env::var("CARGO_CFG_TARGET_VENDOR").as_deref() == Ok("apple");
    let here = if apple { "@loader_path" } else { "$ORIGIN" };
    if !apple {
        // libtorch registers its CPU kernels from static initialisers: the linker must not drop it as unused.
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    }
    if std::env::var_os("CARGO_FEATURE_EXTENSION_MODULE").is_some() {
        // Installed: site-packages/pipa/_core.abi3.so beside site-packages/torch/lib. The wheel bundles no libtorch.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{here}/../torch/lib");
    } else {
        // Test binaries run from target/, so they take the directory that was built against.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    let torch = torch_version(&lib);
    check(&torch);
    println!("cargo:rustc-env=PIPA_TORCH_BUILD={torch}");
}

/// The minor versions of torch 2 that this source builds against (compat/pipa_torch_compat.h says what differs).
const SUPPORTED: std::ops::RangeInclusive<u32> = 11..=15;

/// torch-sys's own check knows one number only and is switched off in .cargo/config.toml; this one takes its place.
fn check(torch: &str) {
    let mut numbers = torch.split('.').map(|part| part.parse::<u32>().ok());
    let supported = numbers.next() == Some(Some(2)) && numbers.next().flatten().is_some_and(|n| SUPPORTED.contains(&n));
    if !supported {
        let (low, high) = (SUPPORTED.start(), SUPPORTED.end());
        panic!("pipa-rs builds against torch 2.{low} to 2.{high}, the Python environment has torch {torch}");
    }
}

/// The version of the torch that was built against, as its own Python package states it.
fn torch_version(lib: &str) -> String {
    let file = Path::new(lib).parent().map(|torch| torch.join("version.py"));
    let text = file.and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("__version__ = "))
        .map(|v| v.trim_matches(['\'', '"', ' ']).to_string())
        .unwrap_or_else(|| {
            panic!("no torch/version.py beside {lib:?}: build inside an environment that has the pinned torch")
        })
}
