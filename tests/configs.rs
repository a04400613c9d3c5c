//! Every config in `configs/` is one that the programs take.

use std::path::Path;

use kd_cache::config::{CacheConfig, Config, TrainConfig, load};

fn parse_all<C: Config>(folder: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(folder);
    let mut parsed = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().and_then(|e| e.to_str()), Some("toml"), "{}", path.display());
        if let Err(error) = load::<C>(&path, &[]) {
            panic!("{error}");
        }
        parsed += 1;
    }
    parsed
}

#[test]
fn cache_configs_parse() {
    assert!(parse_all::<CacheConfig>("cache") >= 2);
}

#[test]
fn train_configs_parse() {
    assert!(parse_all::<TrainConfig>("train") >= 2);
}
