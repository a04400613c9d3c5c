//! `kd-cache`: builds caches, and says what is in them.

fn main() {}
