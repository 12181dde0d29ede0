//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Addresses that are made good when the program starts, in a tenth of the bytes (`SHT_RELR`); musl reads it since 1.2.4.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
